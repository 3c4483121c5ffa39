"""Event time at intake: when each record happened, how late it is, and up to where a source is complete.

A record's lateness is judged here, one by one, against the latest event time of its own partition before it. So it
does not depend on how records are grouped into numbers, nor on how fast partitions are read.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from streamflow.batch import GROUP, TIME_MAX, TIME_MIN, ClockOf, EventClock, Partition, SourceBatch, Watermark
from streamflow.graph import SOURCE, Graph
from streamflow.plan.event_time import is_timed, watermark_groups

PUSHES: Final = "@push"
"""The partition that records from inside the process count as; it holds no watermark back."""

_EPOCH: Final = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_MICROSECOND: Final = datetime.timedelta(microseconds=1)
EARLIEST_US: Final = (datetime.datetime.min.replace(tzinfo=datetime.UTC) - _EPOCH) // _MICROSECOND
LATEST_US: Final = (datetime.datetime.max.replace(tzinfo=datetime.UTC) - _EPOCH) // _MICROSECOND


@dataclass(frozen=True, slots=True)
class EventTime:
    """How a source's records tell when they happened.

    Args:
        of: Gives a record's time, as an aware datetime or in milliseconds since 1970; None takes the broker's.
        lateness_us: So far behind the latest record of their partition records are waited for.
        idle_ms: A partition that was silent for so long is not waited for; None waits for ever.
        ahead_us: Records further ahead of the clock than this are refused.
    """

    of: Callable[[Any], Any] | None
    lateness_us: int
    idle_ms: int | None
    ahead_us: int


class TimeRefused(Exception):
    """A record whose event time cannot be used."""

    def __init__(self, at: int, reason: str) -> None:
        super().__init__(reason)
        self.at = at


class SourceTimes:
    """Event time of one source's partitions.

    GUARANTEE: a stamp depends on the records of its own partition before it, and on nothing else. One that is refused
    changes nothing.

    Args:
        source: Name of the source.
        spec: How its records tell their time.
        clocks: What the checkpoint knows of its partitions.

    Attributes:
        horizon: Up to where its records were released, where that is not as soon as they are read.
        clock_of: What the checkpoint is to know of a partition.
    """

    def __init__(self, source: str, spec: EventTime, clocks: Mapping[ClockOf, EventClock]) -> None:
        self.source = source
        self.spec = spec
        self.ended = False
        self.horizon: Horizon | None = None
        self.clock_of: Callable[[Partition], EventClock] = self._read
        self.latest: dict[Partition, int] = {}
        self.idle: set[Partition] = set()
        self.touched: set[Partition] = set()
        for (name, partition), clock in clocks.items():
            if name == source and partition != GROUP:
                self.latest[partition] = clock.at_us
                if clock.idle:
                    self.idle.add(partition)

    def expect(self, partitions: Iterable[Partition]) -> None:
        """Takes note of partitions that exist: each holds the watermark back until it gives records or is idle."""
        for partition in partitions:
            self.latest.setdefault(partition, TIME_MIN)

    def stamp(self, records: SourceBatch, values: Sequence[Any], now_ms: int) -> tuple[list[int], list[int]]:
        """Gives the event time of records of one partition, and for each the partition's watermark just before it.

        Raises:
            TimeRefused: One has no time that can be used; nothing has changed then.
        """
        times = self._times(records, values)
        partition = records.partition
        marks, latest = marks_before(times, self.latest.get(partition, TIME_MIN), self.spec.lateness_us)
        self._check(times, latest, now_ms)
        self.latest[partition] = latest
        self.touched.add(partition)
        self.idle.discard(partition)
        return times, marks

    def _read(self, partition: Partition) -> EventClock:
        return EventClock(self.latest[partition], partition in self.idle)

    def _times(self, records: SourceBatch, values: Sequence[Any]) -> list[int]:
        of = self.spec.of
        if of is None:
            if records.timestamps_ms is None:
                raise TimeRefused(0, "the broker gives no timestamps")
            return [time_ms * 1000 for time_ms in records.timestamps_ms]
        try:
            found = list(map(of, values))
            if set(map(type, found)) == {int}:
                return [time_ms * 1000 for time_ms in found]
            return list(map(microseconds, found))
        except Exception:
            for at, value in enumerate(values):
                try:
                    microseconds(of(value))
                except Exception as error:
                    raise TimeRefused(at, f"{type(error).__name__}: {error}") from error
            raise

    def _check(self, times: Sequence[int], latest: int, now_ms: int) -> None:
        limit = min(now_ms * 1000 + self.spec.ahead_us, LATEST_US)
        # the latest may be from before, when more was allowed
        if (latest > limit and max(times) > limit) or min(times) < EARLIEST_US:
            at = next(at for at, time in enumerate(times) if not EARLIEST_US <= time <= limit)
            ahead = (times[at] - now_ms * 1000) // 1_000_000
            how = f"{ahead:,} s ahead of the clock" if times[at] > limit else "before the year 1"
            raise TimeRefused(at, f"its event time is {how}")

    def active(self) -> Iterable[int]:
        """The watermarks of the partitions that count."""
        lateness = self.spec.lateness_us
        return (
            latest - lateness if latest > TIME_MIN else TIME_MIN
            for partition, latest in self.latest.items()
            if partition not in self.idle and partition != PUSHES
        )

    @property
    def silent(self) -> bool:
        """Whether no partition counts, and there are some."""
        return self.ended or (bool(self.latest.keys() - {PUSHES}) and self.latest.keys() - {PUSHES} <= self.idle)

    @property
    def known(self) -> bool:
        """Whether its partitions are known: a source that was not opened yet is waited for."""
        return bool(self.latest.keys() - {PUSHES})

    @property
    def latest_us(self) -> int:
        """The latest event time of all."""
        return max(self.latest.values(), default=TIME_MIN)

    @property
    def shown_us(self) -> int:
        """The watermark by the latest event time of all."""
        return self.latest_us - self.spec.lateness_us

    def turn_idle(self, partition: Partition) -> None:
        """A partition is not waited for any more, until it gives a record."""
        self.expect((partition,))
        self.idle.add(partition)
        self.touched.add(partition)


@dataclass(slots=True)
class Horizon:
    """Up to where sources that are read in the order of event time have released their records.

    Args:
        at_us: No record in front of this is held or waited for.
        silent: No partition counts, and nothing is held.
        latest_us: The latest event time, as of when they fell silent.
        ended: They have ended, and nothing is held.
    """

    at_us: int = TIME_MIN
    silent: bool = False
    latest_us: int = TIME_MIN
    ended: bool = False
    known: ClassVar[bool] = True

    @property
    def fields(self) -> tuple[int, bool, int, bool]:
        """What it says, for the journal."""
        return self.at_us, self.silent, self.latest_us, self.ended

    def set(self, at_us: int, silent: bool, latest_us: int, ended: bool) -> None:
        """Takes over what a journal says."""
        self.at_us, self.silent, self.latest_us, self.ended = at_us, silent, latest_us, ended

    def active(self) -> Iterable[int]:
        """The watermark of all of them."""
        return (self.at_us,)

    @property
    def shown_us(self) -> int:
        """The watermark when they fell silent."""
        return self.at_us


class EventTimes:
    """Event time of all sources, and the watermark of each group of them.

    GUARANTEE: a watermark never goes back. A group whose sources are all silent closes what holds its latest record.

    Args:
        sources: The timed sources.
        groups: Names of the sources in each group.
        clocks: What the checkpoint knows.
    """

    def __init__(
        self,
        sources: Mapping[str, SourceTimes],
        groups: Sequence[tuple[str, ...]],
        clocks: Mapping[ClockOf, EventClock],
    ) -> None:
        self.sources = sources
        self._groups = [(ClockOf("+".join(group), GROUP), [sources[name] for name in group]) for group in groups]
        known = (clocks.get(place, EventClock(TIME_MIN)) for place, _ in self._groups)
        self.watermarks = tuple(Watermark(clock.at_us, clock.closed_us) for clock in known)
        self._stored = self.watermarks

    def tell(self, told: Callable[[str, int], None]) -> None:
        """Tells of every watermark: names and time."""
        for (place, _), mark in zip(self._groups, self.watermarks, strict=True):
            told(place.source, mark.at_us)

    def watermark_of(self, source: str) -> int:
        """The watermark of one source; numbers carry one for each that is timed."""
        return next(
            mark.at_us for (place, _), mark in zip(self._groups, self.watermarks, strict=True) if place.source == source
        )

    def advance(self) -> bool:
        """Moves the watermarks to where the sources are; says whether any moved."""
        before = self.watermarks
        self.watermarks = tuple(moved(mark, members) for mark, (_, members) in zip(before, self._groups, strict=True))
        return self.watermarks != before

    def take_changes(self) -> dict[ClockOf, EventClock]:
        """What moved since this was last asked, for the checkpoint."""
        found: dict[ClockOf, EventClock] = {}
        for name, times in self.sources.items():
            for partition in sorted(times.touched):
                found[ClockOf(name, partition)] = times.clock_of(partition)
            times.touched.clear()
        for (place, _), mark, stored in zip(self._groups, self.watermarks, self._stored, strict=True):
            if mark != stored:
                found[place] = EventClock(mark.at_us, closed_us=mark.closed_us)
        self._stored = self.watermarks
        return found


def event_times_of(graph: Graph, clocks: Mapping[ClockOf, EventClock]) -> EventTimes | None:
    """Event time of a flow's sources, as of a checkpoint; None if none has any."""
    sources = {
        step.name: SourceTimes(step.name, step.options["event_time"], clocks)
        for step in graph.of_kind(SOURCE)
        if is_timed(step)
    }
    return EventTimes(sources, watermark_groups(graph), clocks) if sources else None


def moved(mark: Watermark, sources: Sequence[SourceTimes], *, released: bool = True) -> Watermark:
    """Where a watermark is now, by the sources that it goes by.

    Args:
        mark: Where it was.
        sources: The sources.
        released: Whether what is held does not count yet; else all that was read does.
    """
    members = [times.horizon or times for times in sources] if released else sources
    if not all(times.silent for times in members):
        heard = [times for times in members if not times.silent]
        found = [at for times in heard for at in times.active()]
        at_us = TIME_MIN if not all(times.known for times in heard) or not found else min(found)
        return Watermark(max(mark.at_us, at_us), mark.closed_us)
    latest = max((times.latest_us for times in members), default=TIME_MIN)
    # what is silent is waited for no more; a source that ends at once would never show a watermark otherwise
    shown = max((times.shown_us for times in members), default=TIME_MIN)
    at_us = max(mark.at_us, shown) if latest > TIME_MIN else mark.at_us
    return Watermark(at_us, max(mark.closed_us, latest), all(times.ended for times in members))


def marks_before(times: Sequence[int], latest: int, lateness: int) -> tuple[list[int], int]:
    """Gives for each time the watermark just before it, and the latest time of all.

    Where records are out of order few of them are later than all before; then this takes half the time of a look at
    each.

    Args:
        times: In the order of the partition.
        latest: The latest before them.
        lateness: How far a watermark is behind the latest time.
    """
    mark = latest - lateness
    tops = [latest := time for time in times if time > latest]
    if 4 * len(tops) > len(times):
        mark += lateness
        marks = [mark - lateness, *[(mark := time if time > mark else mark) - lateness for time in times]]
        marks.pop()
        return marks, latest
    marks, start = [], 0
    for top in tops:
        behind = times.index(top, start) + 1
        marks += [mark] * (behind - start)
        mark, start = top - lateness, behind
    return marks + [mark] * (len(times) - start), latest


def microseconds(time: Any) -> int:
    """Turns what a time function gave into microseconds since 1970.

    Raises:
        TypeError: It is neither an aware datetime nor a whole number of milliseconds.
    """
    if type(time) is int:
        if not -TIME_MAX < time * 1000 < TIME_MAX:
            raise ValueError(f"{time} milliseconds since 1970 is no time")
        return time * 1000
    if isinstance(time, datetime.datetime) and time.tzinfo is not None:
        return (time - _EPOCH) // _MICROSECOND
    raise TypeError(
        f"time= must give an aware datetime or whole milliseconds since 1970, not {time!r:.60}"
        + ("; a datetime without tzinfo may mean any zone" if isinstance(time, datetime.datetime) else "")
    )
