"""Ordering: sources whose records get their numbers in the order of event time, whatever the order they arrive in.

What is read is held, and released in the order of (event time, source, partition, position) as far as every partition
has got. A record that is late by its own partition takes the place of the watermark it is behind, for its own place
may be given away: so the whole order follows from what the partitions hold, and not from how fast they are read.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Final, NamedTuple

from streamflow.batch import TIME_MAX, TIME_MIN, EventClock, Partition, Position, SourceBatch, SourceInput, Watermark
from streamflow.runtime.decoding import Ready
from streamflow.runtime.event_time import PUSHES, Horizon, SourceTimes, moved
from streamflow.runtime.lane import RELEASED, Held, Lane
from streamflow.runtime.pump import Pump

TAKEN_MAX: Final = 2048
"""Most records that are taken from one partition before it is seen again which one is the furthest back."""

Place = tuple[int, int, Partition, int, str, int]
"""What records are ordered by: time, number of the source, partition, position; of messages with ids the length of the
id, the id, and which of several that have the same came first."""


class Waiting(NamedTuple):
    """A record that is held, with its place in the order; no two have the same."""

    place: Place
    lane: Lane
    held: Held


@dataclass(slots=True)
class Given:
    """What was released together: rows in order, the records that they came from, and what the journal says of it.

    Args:
        values, times, marks, sources: Per row.
        inputs: Per partition its records, in order.
        places: Per row its input and its offset there.
        shares: Per partition source, partition, number of records, and their runs of positions, or their ids.
        ids: The ids among them, per source.
    """

    values: list[Any] = field(default_factory=list)
    times: list[int] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    inputs: list[SourceInput] = field(default_factory=list)
    places: list[tuple[int, int]] = field(default_factory=list)
    shares: list[tuple[str, Partition, int, list[Any]]] = field(default_factory=list)
    ids: list[tuple[str, list[str]]] = field(default_factory=list)

    @property
    def records(self) -> int:
        """How many records it is, those that were left out included."""
        return sum(count for _, _, count, _ in self.shares)


@dataclass(frozen=True, slots=True)
class Bounds:
    """What bounds a hold: records, bytes of their payloads, time.

    Args:
        records_max: Most records; partitions that are ahead of others may fill half of it.
        bytes_max: Most bytes, of sources that give bytes.
        hold_max_seconds: Longest time that a record is held.
        drift_us_max: How far ahead of the others a partition is read.
    """

    records_max: int
    bytes_max: int
    hold_max_seconds: float | None = None
    drift_us_max: int | None = None


class TimeOrder:
    """The hold of one joint order.

    GUARANTEE: each record is released once; unless some were released by force, or a partition had been idle, in one
    order that is a function of what each partition holds. What `Lane.position` says is what was released.
    BOUND: ``records_max`` and ``bytes_max``, passed by one take of `TAKEN_MAX` records at the most; who is ahead is not
    read then, and where that does not help the earliest are released by force.

    Args:
        pumps: Its sources, in the order of the graph.
        bounds: What bounds it.
        monotonic: Seconds that never go back.

    Attributes:
        forced: Records released by force since somebody looked.
        horizon: Up to where everything was released.
    """

    def __init__(self, pumps: Sequence[Pump], bounds: Bounds, monotonic: Callable[[], float]) -> None:
        self.pumps = pumps
        self.forced = 0
        self.horizon = Horizon()
        self._bounds = bounds
        self._monotonic = monotonic
        self._times: list[SourceTimes] = []
        self._lanes: dict[tuple[str, Partition], Lane] = {}
        self._touched: dict[Lane, None] = {}
        self._waiting: list[Waiting] = []
        self._fresh: list[Waiting] = []
        self._bytes = 0
        self._arrivals: deque[tuple[float, Place]] = deque()
        self._left_out: list[tuple[Lane, SourceBatch]] = []
        self._numbers = {pump.name: number for number, pump in enumerate(pumps)}
        for pump in pumps:
            assert pump.times is not None, f"source {pump.name} has no event time"
            pump.ordered = True
            pump.times.horizon = self.horizon
            pump.times.clock_of = self._clock_of(pump.times)
            self._times.append(pump.times)

    # -- reading ----------------------------------------------------------------------------------

    def fill(self, now_ms: int) -> None:
        """Takes what was read into the hold, of the partition furthest back first, as far as there is room.

        Raises:
            StreamflowError: A record cannot be used, and its source's policy is to stop.
        """
        while (found := self._next()) is not None:
            pump, partition, room = found
            pump.now_ms = now_ms
            self._enter(pump, pump.take_of(partition, room))
        for pump in self.pumps:
            assert pump.times is not None
            pump.times.ended = pump.ended and not pump.waiting
        self._settle_in()
        self._hold_back()

    def draw(self, pump: Pump, partition: Partition, position: int | None) -> None:
        """Takes what was read of one partition up to a position, or all of it, whatever else there is."""
        if position is None:
            while pump.held(partition):
                self._enter(pump, pump.take_of(partition, TAKEN_MAX))
        else:
            self._enter(pump, pump.take_upto(partition, position))
        self._settle_in()

    def has_read(self, source: str, partition: Partition, runs: Sequence[tuple[int, int]], ids: Sequence[str]) -> bool:
        """Whether all of a partition's positions, or ids, that a journal names were taken into the hold."""
        lane = self._lanes.get((source, partition))
        if lane is None:
            return False
        if runs:
            return lane.end >= runs[-1][1]
        left_out = {id for other, records in self._left_out if other is lane for id in records.ids or ()}
        return {held.id for held in lane.records} | left_out >= set(ids)

    def _next(self) -> tuple[Pump, Partition, int] | None:
        """The partition to take from, and how much."""
        found = min(
            (
                (_latest(pump, partition), number, partition)
                for number, pump in enumerate(self.pumps)
                if not pump.wait_seconds
                for partition in pump.partitions_held()
            ),
            default=None,
        )
        if found is None:
            return None
        latest, number, partition = found
        lowest = self._lowest()
        room = self._room(self.pumps[number], furthest_back=latest <= lowest)
        if room <= 0 or self._is_ahead(latest, lowest):
            return None
        return self.pumps[number], partition, min(room, TAKEN_MAX)

    def _room(self, pump: Pump, *, furthest_back: bool) -> int:
        """How many records may be taken from a partition: what is furthest back may use the second half, in shares."""
        bounds = self._bounds
        records, size = (bounds.records_max, bounds.bytes_max)
        if not furthest_back:
            records, size = self._half, size // 2
        records, size = records - self.held, size - self._bytes
        if records <= 0 or size <= 0:
            return 0
        shares = 1 + sum(len(_active(each)) for each in self.pumps) if furthest_back else 1
        return max(1, min(records, size // max(1, pump.record_bytes)) // shares)

    def _lowest(self) -> int:
        """The latest event time of the partition that is furthest back, of those that are waited for."""
        found = [_latest(pump, partition) for pump in self.pumps for partition in _active(pump)]
        unknown = any(not times.known and not times.ended for times in self._times)
        return TIME_MIN if unknown else min(found, default=TIME_MAX)

    @property
    def _half(self) -> int:
        return (self._bounds.records_max + 1) // 2

    def _is_ahead(self, latest: int, lowest: int) -> bool:
        """Whether a partition that has got so far must wait for the one that is furthest back."""
        bounds = self._bounds
        if latest <= lowest:
            return False
        drifts = bounds.drift_us_max is not None and latest - lowest > bounds.drift_us_max
        return drifts or self.held >= self._half or 2 * self._bytes >= bounds.bytes_max

    def _hold_back(self) -> None:
        """Stops reading who is ahead, and reads on who is not any more."""
        lowest = self._lowest()
        for pump in self.pumps:
            pump.pause(name for name in _active(pump) if self._is_ahead(_latest(pump, name), lowest))

    def _enter(self, pump: Pump, found: Sequence[Ready]) -> None:
        for ready in found:
            records = ready.records
            lane = self._lane(pump, records.partition)
            lane.reads(records)
            if ready.values:
                self._hold(pump, lane, ready)
                continue
            if len(records) and not ready.known:
                self._left_out.append((lane, records))
            lane.pass_over(records, _latest(pump, records.partition))

    def _lane(self, pump: Pump, partition: Partition) -> Lane:
        place = (pump.name, partition)
        lane = self._lanes.get(place)
        if lane is None:
            lane = self._lanes[place] = Lane(pump.name, partition, pump.resumes_at(partition))
        return lane

    def _hold(self, pump: Pump, lane: Lane, ready: Ready) -> None:
        assert pump.times is not None and ready.times is not None and ready.marks is not None
        number, lateness, records = self._numbers[pump.name], pump.times.spec.lateness_us, ready.records
        sized = pump.step.options["spec"].codec is not None
        for at, (value, time, mark) in enumerate(zip(ready.values, ready.times, ready.marks, strict=True)):
            held = lane.enter(records, at, mark + lateness)
            held.value, held.time_us, held.mark_us = value, time, mark
            if sized and held.payload is not None:
                self._bytes += len(held.payload)
            place = (max(time, mark), number, lane.partition, len(held.id) or held.first, held.id, held.first)
            self._fresh.append(Waiting(place, lane, held))

    def _settle_in(self) -> None:
        """Puts what was just read into its place."""
        if self._fresh:
            self._fresh.sort()
            if self._bounds.hold_max_seconds is not None:
                self._arrivals.append((self._monotonic(), self._fresh[-1].place))
            # two sorted runs: merging them is all that sorting does
            self._waiting += self._fresh
            self._waiting.sort()
            self._fresh = []

    # -- releasing --------------------------------------------------------------------------------

    @property
    def held(self) -> int:
        """Records that are held."""
        return len(self._waiting) + len(self._fresh)

    @property
    def ready(self) -> bool:
        """Whether there is something to release, or to tell of, now."""
        return bool(self._left_out) or self._due()[0] > 0

    @property
    def empty(self) -> bool:
        """Whether nothing is held."""
        return not self._waiting and not self._left_out

    @property
    def forces_at(self) -> float | None:
        """When something will be released by force if nothing else releases it, on the monotonic scale."""
        if self._bounds.hold_max_seconds is None or not self._waiting:
            self._arrivals.clear()
            return None
        while self._arrivals[0][1] < self._waiting[0].place:
            self._arrivals.popleft()  # all that came then has left
        return self._arrivals[0][0] + self._bounds.hold_max_seconds

    def give(self, most: int) -> Given:
        """Releases what may leave now, up to so many records."""
        due, free = self._due()
        count = min(due, most)
        self.forced += max(0, count - free)
        given = self._released(self._waiting[:count])
        del self._waiting[:count]
        self.look()
        return given

    def pick(self, shares: Mapping[tuple[str, Partition], tuple[Sequence[tuple[int, int]], Sequence[str]]]) -> Given:
        """Releases what a journal says: runs of positions, or ids, per source and partition."""
        picked = []
        for waiting in self._waiting:
            runs, ids = shares.get((waiting.lane.source, waiting.lane.partition), ((), ()))
            at = bisect_right(runs, waiting.held.first, key=lambda run: run[0]) - 1
            if (at >= 0 and waiting.held.first <= runs[at][1]) or waiting.held.id in ids:
                picked.append(waiting)
        chosen = set(map(id, picked))
        self._waiting = [waiting for waiting in self._waiting if id(waiting) not in chosen]
        return self._released(picked)

    def look(self) -> None:
        """Moves the horizon to where it is now."""
        horizon = self.horizon
        bound = self._bound()
        first = self._waiting[0].place[0] if self._waiting else TIME_MAX
        horizon.at_us = max(horizon.at_us, min(bound.at_us, first))
        silent = all(times.silent for times in self._times)
        horizon.silent = silent and not self._waiting
        if horizon.silent:
            horizon.latest_us = max(horizon.latest_us, bound.closed_us)
        horizon.ended = horizon.silent and bound.ended

    def _bound(self) -> Watermark:
        return moved(Watermark(), self._times, released=False)

    def _due(self) -> tuple[int, int]:
        """How many records leave now, and how many of them because nothing in front of them is waited for."""
        waiting = self._waiting
        if not waiting:
            return 0, 0
        if all(times.silent for times in self._times):
            return len(waiting), len(waiting)
        free = _count_before(waiting, self._bound().at_us)
        due = free
        forces_at = self.forces_at
        if forces_at is not None and forces_at <= self._monotonic():
            hold = self._bounds.hold_max_seconds or 0.0
            overdue = max(place for arrived, place in self._arrivals if arrived + hold <= self._monotonic())
            due = max(due, bisect_right(waiting, overdue, key=lambda each: each.place))
        if not due and (len(waiting) >= self._bounds.records_max or self._bytes >= self._bounds.bytes_max):
            due = max(1, len(waiting) // 4)
        return due, free

    def _released(self, released: Sequence[Waiting]) -> Given:
        given = Given()
        rows: dict[Lane, list[Held]] = {}
        numbers: dict[Lane, int] = {}
        for _, lane, held in released:
            found = rows.get(lane)
            if found is None:
                found = rows[lane] = []
                numbers[lane] = len(numbers)
            given.values.append(held.value)
            given.times.append(held.time_us)
            given.marks.append(held.mark_us)
            given.sources.append(lane.source)
            given.places.append((numbers[lane], len(found)))
            found.append(held)
        shares = {lane: [(held.first, held.last) for held in found] for lane, found in rows.items()}
        names = {lane: [held.id for held in found] for lane, found in rows.items() if lane.by_ids}
        for lane, found in rows.items():
            records = _gathered(lane, found)
            given.inputs.append(SourceInput(lane.source, 0, records))
            for held in found:
                if held.payload is not None and self._sized(lane):
                    self._bytes -= len(held.payload)
                held.value, held.payload, held.beside = RELEASED, None, None
            lane.trim()
        for lane, records in self._left_out:
            if records.ids is not None:
                names.setdefault(lane, []).extend(records.ids)
            shares.setdefault(lane, []).extend((at, at) for at in records.positions or ())
        self._left_out = []
        self._tell(given, shares, names)
        return given

    def _tell(self, given: Given, shares: Mapping[Lane, list[Any]], names: Mapping[Lane, list[str]]) -> None:
        """Writes down what was released: for the journal, and for the checkpoint."""
        for lane in {**shares, **names}:
            self._touched[lane] = None
            self._numbered(lane).touched.add(lane.partition)
            if lane.by_ids:
                ids = names[lane]
                given.ids.append((lane.source, ids))
                given.shares.append((lane.source, lane.partition, len(ids), ids))
            else:
                places = sorted(shares[lane])
                given.shares.append((lane.source, lane.partition, len(places), list(_runs(places))))

    def _numbered(self, lane: Lane) -> SourceTimes:
        return self._times[self._numbers[lane.source]]

    def _sized(self, lane: Lane) -> bool:
        return self.pumps[self._numbers[lane.source]].step.options["spec"].codec is not None

    # -- the checkpoint ---------------------------------------------------------------------------

    def take_positions(self) -> Iterator[tuple[str, Partition, Position]]:
        """Where partitions resume of which something was released since this was last asked."""
        touched, self._touched = self._touched, {}
        for lane in touched:
            pump = self.pumps[self._numbers[lane.source]]
            if not lane.by_ids:
                position = lane.position(pump.unread(lane.partition))
                yield lane.source, lane.partition, position

    def _clock_of(self, times: SourceTimes) -> Callable[[Partition], EventClock]:
        def clock(partition: Partition) -> EventClock:
            lane = self._lanes.get((times.source, partition))
            latest = times.latest[partition]
            if lane is None:
                return EventClock(latest, partition in times.idle)
            return EventClock(lane.clock_us(latest), partition in times.idle and not lane.records)

        return clock


def _active(pump: Pump) -> list[Partition]:
    """The partitions of a source that are waited for."""
    times = pump.times
    if times is None or times.ended:
        return []
    return [partition for partition in times.latest if partition != PUSHES and partition not in times.idle]


def _latest(pump: Pump, partition: Partition) -> int:
    assert pump.times is not None
    return pump.times.latest.get(partition, TIME_MIN)


def _count_before(waiting: Sequence[Waiting], at_us: int) -> int:
    return bisect_left(waiting, at_us, key=lambda each: each.place[0])


def _runs(places: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Joins positions that follow each other without a gap."""
    for _, group in groupby(enumerate(places), key=lambda each: each[1][0] - each[0]):
        run = [place for _, place in group]
        yield run[0][0], run[-1][1]


def _gathered(lane: Lane, found: Sequence[Held]) -> SourceBatch:
    """Records of one partition as a batch, in the order in which they were released."""
    beside = [held.beside for held in found]
    columns: dict[str, Any] = {}
    if any(beside):
        for at, name in enumerate(("headers", "keys", "timestamps_ms")):
            column = [None if each is None else each[at] for each in beside]
            columns[name] = column if any(item is not None for item in column) else None
    return SourceBatch(
        lane.partition,
        [held.payload for held in found],
        None if lane.by_ids else [held.first for held in found],
        [held.id for held in found] if lane.by_ids else None,
        lane.identity,
        **columns,
    )
