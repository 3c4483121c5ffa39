"""Idleness: which partitions of a timed source need not be waited for, since they have been silent for long."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from streamflow.batch import Partition
from streamflow.clock import Clock, sleep
from streamflow.errors import Unavailable
from streamflow.runtime.event_time import SourceTimes
from streamflow.runtime.intake import Intake
from streamflow.runtime.pump import Pump


class IdleWatch:
    """Watches one source.

    GUARANTEE: a partition turns idle only after it gave nothing for the source's ``idle`` without a break during
    which the source was open, everything read was taken, intake was not stalled; and when the broker, asked then,
    holds nothing more of it. An answer that takes longer than ``idle`` says that the broker was away, and silence
    counts anew: whoever writes to it was kept waiting as well.

    Args:
        pump: The source.
        times: Its event time.
        clock: The time.
        stalled: Whether intake takes nothing now.
        turn_idle: Whom to tell, with source and partition.
    """

    def __init__(
        self,
        pump: Pump,
        times: SourceTimes,
        clock: Clock,
        stalled: Callable[[], bool],
        turn_idle: Callable[[str, Partition], None],
    ) -> None:
        self._pump = pump
        self._times = times
        self._clock = clock
        self._stalled = stalled
        self._turn_idle = turn_idle

    async def run(self) -> None:
        """Watches until the source ends."""
        assert self._times.spec.idle_ms is not None, "an idle watch needs a time to watch for"
        idle_seconds = self._times.spec.idle_ms / 1000
        pump = self._pump
        while not pump.ended:
            since = {at: when for at, when in pump.silent_since.items() if at not in self._times.idle}
            if not since:
                pump.heard.clear()
                await pump.heard.wait()
                continue
            due = min(since.values()) + idle_seconds
            if due > self._clock.monotonic():
                await sleep(self._clock, due - self._clock.monotonic())
            elif self._stalled() or pump.source is None or (pump.waiting and not pump.ordered):
                pump.silence_begins()
            else:
                for partition, when in sorted(since.items()):
                    if when + idle_seconds <= self._clock.monotonic():
                        await self._judge(partition, when, idle_seconds)

    async def _judge(self, partition: Partition, since: float, idle_seconds: float) -> None:
        asked = self._clock.monotonic()
        try:
            at_end = await self._pump.is_at_end(partition) and self._clock.monotonic() - asked <= idle_seconds
        except Unavailable:
            # the pump finds out by itself, and opens the source again
            at_end = False
        if self._pump.silent_since.get(partition) == since:
            self._pump.silent_since[partition] = self._clock.monotonic()
            if at_end:
                self._turn_idle(self._pump.name, partition)


def idle_watches(intake: Intake, clock: Clock) -> Iterator[IdleWatch]:
    """A watch for each source whose partitions may turn idle."""
    for pump in intake.pumps:
        if pump.times is not None and pump.times.spec.idle_ms is not None:
            yield IdleWatch(pump, pump.times, clock, lambda: bool(intake.stall), intake.turn_idle)
