"""Step clock: how far event time is at one step, by the watermarks of the sources upstream of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from streamflow.batch import TIME_MAX, TIME_MIN, Watermark
from streamflow.graph import SOURCE, Graph, Step
from streamflow.plan.event_time import closes_by_watermark, sources_of, watermark_groups

Reach = Callable[[int], int]
"""From the latest event time of the sources to a time that follows from it."""


class StepClock:
    """The watermark of one step.

    GUARANTEE: it never goes back, and is a function of the watermarks that numbers carried, whatever they held.

    Args:
        group: Which of a number's watermarks the step goes by.
        closes: From the latest event time of sources that have fallen silent, the time up to which the step closes.
        to_end: Whether the end of all sources is the end of time.
    """

    __slots__ = ("_closes", "_group", "_to_end", "at_us")

    def __init__(self, group: int, closes: Reach, *, to_end: bool = False) -> None:
        self.at_us = TIME_MIN
        self._group = group
        self._closes = closes
        self._to_end = to_end

    def advance(self, watermarks: Sequence[Watermark]) -> bool:
        """Moves on to what a number says at its end; says whether there is anything to act on."""
        if not watermarks:
            return False
        at_us, closed_us, ended = watermarks[self._group]
        if closed_us > TIME_MIN:
            at_us = max(at_us, self._closes(closed_us))
        moved = at_us > self.at_us
        self.at_us = max(self.at_us, at_us)
        return moved or (ended and self._to_end)

    def upto(self, watermarks: Sequence[Watermark]) -> int:
        """Up to when to act now: the end of time once all sources have ended, for a step that goes there."""
        return TIME_MAX if self._to_end and watermarks[self._group].ended else self.at_us


class SideClocks:
    """The clocks of a step that goes by one watermark and closes its two inputs at different times.

    They differ only when sources fall silent: what their latest record can be needed for ends earlier on one side.
    """

    __slots__ = ("left", "right")

    def __init__(self, left: StepClock, right: StepClock) -> None:
        self.left = left
        self.right = right

    @property
    def at_us(self) -> int:
        """Up to where both sides are complete."""
        return min(self.left.at_us, self.right.at_us)

    def advance(self, watermarks: Sequence[Watermark]) -> bool:
        """Moves both on; says whether there is anything to act on."""
        moved = self.left.advance(watermarks)
        return self.right.advance(watermarks) or moved


def clock_of(graph: Graph, step: Step) -> StepClock:
    """Makes the clock of a step that goes by event time."""
    group = watermark_groups(graph).index(sources_of(graph, step))
    latest = _latest_into(graph, step)
    if not closes_by_watermark(step):
        return StepClock(group, latest, to_end=True)
    kind, allowed_us = step.options[step.kind], step.options.get("allowed_us", 0)
    return StepClock(group, lambda time_us: kind.closes(latest(time_us)) + allowed_us)


def side_clocks_of(graph: Graph, step: Step) -> SideClocks:
    """Makes the clocks of an interval join: each side is over when the latest record can match nothing more."""
    group = watermark_groups(graph).index(sources_of(graph, step))
    latest = _latest_into(graph, step)
    after_us, before_us = step.options["join"].stays_us
    return SideClocks(
        StepClock(group, lambda time_us: latest(time_us) + after_us + 1),
        StepClock(group, lambda time_us: latest(time_us) + before_us + 1),
    )


def _latest_into(graph: Graph, step: Step) -> Reach:
    """From the latest event time of the sources to the latest of the rows that come into a step."""
    reaches = [_latest_of(graph, graph.step(port.step), port.out) for port in dict.fromkeys(step.inputs)]
    return lambda time_us: max(reach(time_us) for reach in reaches)


def _latest_of(graph: Graph, step: Step, out: int) -> Reach:
    if step.kind == SOURCE:
        return lambda time_us: time_us
    into = _latest_into(graph, step)
    if step.kind in ("window", "join") and out == 0 and step.options[step.kind].timed:
        last_end = step.options[step.kind].last_end
        # what a window gives happened just before its end, and so did what nothing matched in time
        return lambda time_us: last_end(into(time_us)) - 1
    return into
