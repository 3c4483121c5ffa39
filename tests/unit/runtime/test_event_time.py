"""Event time at intake: lateness per record, watermarks per partition and group, idleness, the checkpoint."""

from __future__ import annotations

import datetime
import random
from typing import Any

import pytest

import streamflow as sf
from streamflow.batch import GROUP, TIME_MIN, ClockOf, EventClock, SourceBatch, Watermark
from streamflow.errors import DecodeError
from streamflow.runtime.event_time import EventTime, EventTimes, SourceTimes, TimeRefused, microseconds
from streamflow.runtime.settings import Settings
from streamflow.testing.harness import FlowTest

NOW_MS = 1_767_225_600_000
SECOND = 1_000_000
SPEC = EventTime(lambda record: record, 2 * SECOND, 30_000, 86_400 * SECOND)


def times(spec: EventTime = SPEC, **clocks: EventClock) -> SourceTimes:
    return SourceTimes("in", spec, {ClockOf("in", name): clock for name, clock in clocks.items()})


def stamp(of: SourceTimes, *seconds: float, partition: str = "a") -> tuple[list[int], list[int]]:
    values = [round(second * 1000) for second in seconds]
    return of.stamp(SourceBatch(partition, values, range(1, len(values) + 1)), values, NOW_MS)


def _whole(seconds: float) -> float:
    return round(seconds * 1000) / 1000


def test_each_record_is_held_against_the_latest_before_it_in_its_own_partition() -> None:
    found = times()
    assert stamp(found, 10, 12, 5, 20) == (
        [10 * SECOND, 12 * SECOND, 5 * SECOND, 20 * SECOND],
        [TIME_MIN - 2 * SECOND, 8 * SECOND, 10 * SECOND, 10 * SECOND],
    )
    assert stamp(found, 3, partition="b")[1] == [TIME_MIN - 2 * SECOND]
    assert stamp(found, 1)[1] == [18 * SECOND]


@pytest.mark.parametrize("size", [1, 7, 512])
def test_as_many_records_are_late_whatever_the_size_of_batches(size: int) -> None:
    chance = random.Random(4)
    seconds = [_whole(at / 10 + chance.gauss(0, 2)) for at in range(3000)]
    found = times()
    late = 0
    for start in range(0, len(seconds), size):
        moments, marks = stamp(found, *(1000 + second for second in seconds[start : start + size]))
        late += sum(moment < mark for moment, mark in zip(moments, marks, strict=True))
    brute = sum(here < max(seconds[:at], default=-9e9) - 2 for at, here in enumerate(map(_whole, seconds)))
    assert late == brute > 100


def test_the_watermark_is_the_minimum_over_partitions_and_over_sources() -> None:
    one, two = times(), SourceTimes("other", SPEC, {})
    group = EventTimes({"in": one, "other": two}, [("in",), ("other",), ("in", "other")], {})
    one.expect(["a", "b"])
    stamp(one, 10)
    assert not group.advance()  # partition b may hold anything
    stamp(one, 7, partition="b")
    assert group.advance()
    assert [mark.at_us for mark in group.watermarks] == [5 * SECOND, TIME_MIN, TIME_MIN]
    stamp(two, 100)
    group.advance()
    assert [mark.at_us for mark in group.watermarks] == [5 * SECOND, 98 * SECOND, 5 * SECOND]


def test_idle_partitions_leave_the_minimum_and_the_watermark_never_goes_back() -> None:
    one = times()
    group = EventTimes({"in": one}, [("in",)], {})
    stamp(one, 10)
    stamp(one, 50, partition="b")
    one.turn_idle("a")
    group.advance()
    assert group.watermarks == (Watermark(48 * SECOND),)
    stamp(one, 11)
    group.advance()
    assert group.watermarks == (Watermark(48 * SECOND),)
    one.turn_idle("a")
    one.turn_idle("b")
    group.advance()
    assert group.watermarks == (Watermark(48 * SECOND, 50 * SECOND),)  # all silent: what holds 50 s is complete
    stamp(one, 49)
    group.advance()
    assert group.watermarks == (Watermark(48 * SECOND, 50 * SECOND),)


def test_what_moved_goes_into_the_checkpoint_once_and_comes_back() -> None:
    one = times()
    group = EventTimes({"in": one}, [("in",)], {})
    stamp(one, 10)
    one.turn_idle("b")
    group.advance()
    changes = group.take_changes()
    assert changes == {
        ClockOf("in", "a"): EventClock(10 * SECOND),
        ClockOf("in", "b"): EventClock(TIME_MIN, idle=True),
        ClockOf("in", GROUP): EventClock(8 * SECOND),
    }
    assert group.take_changes() == {}
    again = SourceTimes("in", SPEC, changes)
    restored = EventTimes({"in": again}, [("in",)], changes)
    assert restored.watermarks == group.watermarks
    assert not restored.advance()
    assert stamp(again, 1)[1] == stamp(one, 1)[1]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (1.5, "aware datetime or whole milliseconds"),
        (True, "aware datetime or whole milliseconds"),
        (datetime.datetime(2026, 1, 1), "without tzinfo"),
        (None, "aware datetime"),
        (NOW_MS + 2 * 86_400_000, "ahead of the clock"),
        (-(10**15), "before the year 1"),
        (10**40, "ahead of the clock"),
    ],
)
def test_a_time_that_cannot_be_used_is_refused_and_changes_nothing(value: Any, words: str) -> None:
    found = times()
    stamp(found, 10)
    with pytest.raises(TimeRefused, match=words) as caught:
        found.stamp(SourceBatch("a", [99_000, value], [2, 3]), [99_000, value], NOW_MS)
    assert caught.value.at == 1
    assert found.latest == {"a": 10 * SECOND}


def test_datetimes_are_exact() -> None:
    zone = datetime.timezone(datetime.timedelta(hours=2))
    assert microseconds(datetime.datetime(1970, 1, 1, 2, 0, 0, 1, zone)) == 1
    assert microseconds(datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)) == NOW_MS * 1000


# -- in a flow --------------------------------------------------------------------------------------------------------


class Watching(sf.Instrument):
    def __init__(self) -> None:
        self.marks: list[tuple[str, int]] = []

    def watermark(self, sources: str, at_us: int) -> None:
        self.marks.append((sources, at_us))


def timed_flow(topic: sf.MemoryTopic[Any], on_error: sf.OnError = sf.stop, **source: Any) -> tuple[sf.Flow, Any, Any]:
    flow = sf.Flow("timed")
    records = flow.source(topic, name="in", time=lambda record: record["at"], on_error=on_error, **source)

    @records.map
    def seen(ctx: sf.Context[Any, Any], record: Any) -> Any:
        assert ctx.event_time is not None
        return [record["at"], ctx.event_time.isoformat()]

    return flow, records, seen


def at(seconds: float) -> dict[str, int]:
    return {"at": NOW_MS + round(seconds * 1000)}


async def test_a_step_sees_the_event_time_behind_every_kind_of_stage() -> None:
    flow = sf.Flow("stages")
    topic = sf.MemoryTopic[Any]("in", partitions=("a", "b"))
    records = flow.source(topic, time=lambda record: record["at"])
    left, right = records.branch(lambda record: record["at"] % 2, sf.otherwise)
    batched = left.map_batch(lambda values: values, name="batched")

    @batched.merge(right).flat_map
    def told(ctx: sf.Context[Any, Any], record: Any) -> Any:
        assert ctx.event_time is not None
        return [(record["at"], round(ctx.event_time.timestamp() * 1000))] * 2

    async with FlowTest(flow) as t:
        for i in range(50):
            await t.send(records, {"at": NOW_MS + i}, partition="ab"[i % 3 == 0], settle=False)
        await t.settle()
        rows = t.out(told)
    assert len(rows) == 100
    assert all(value == time for value, time in rows)


@pytest.mark.parametrize("plain", [False, True])
async def test_a_record_from_far_in_the_future_stops_the_flow_or_is_counted(plain: bool) -> None:
    flow, records, _ = timed_flow(sf.MemoryTopic("in"), future_max="1h")
    with pytest.raises(DecodeError, match="before position 2: its event time is 3,601 s ahead of the clock"):
        async with FlowTest(flow, Settings(plain=plain)) as t:
            await t.send(records, at(0), at(3601))

    flow, records, seen = timed_flow(sf.MemoryTopic("in"), sf.skip, future_max="1h")
    async with FlowTest(flow, Settings(plain=plain)) as t:
        await t.send(records, at(1), at(3601), {"at": "soon"}, at(2), {}, at(3))
        assert [row[0] - NOW_MS for row in t.out(seen)] == [1000, 2000, 3000]
        assert t.engine.times is not None
        assert t.engine.times.watermarks[0].at_us == at(3)["at"] * 1000


async def test_the_brokers_time_can_be_taken() -> None:
    flow = sf.Flow("broker")
    records = flow.source(sf.MemoryTopic[int]("in"), time="broker")

    @records.map
    def seen(ctx: sf.Context[Any, Any], record: int) -> Any:
        return None if ctx.event_time is None else ctx.event_time.year

    async with FlowTest(flow) as t:
        t.topic(records).send(1, timestamp_ms=NOW_MS)
        await t.settle()
        assert t.out(seen) == [2026]


async def test_silence_closes_a_partition_only_after_its_time_and_once_per_silence() -> None:
    topic = sf.MemoryTopic[Any]("in", partitions=("a", "b"))
    flow, records, _ = timed_flow(topic, lateness="2s", idle="30s")
    async with FlowTest(flow) as t:
        await t.send(records, at(10), partition="a")
        assert t.engine.times is not None
        assert t.engine.times.watermarks == (Watermark(),)  # b may hold anything
        await t.advance("29s")
        await t.send(records, at(11), partition="a")
        assert t.engine.times.watermarks == (Watermark(),)
        await t.advance("2s")
        assert t.engine.times.watermarks[0].at_us == at(9)["at"] * 1000
        await t.crash()
        assert t.engine.times.watermarks[0].at_us == at(9)["at"] * 1000
        assert t.engine.times.sources["in"].idle == {"b"}
        await t.advance("31s")
        assert t.engine.times.watermarks[0].closed_us == at(11)["at"] * 1000
        await t.send(records, at(5), partition="b")
        assert t.engine.times.sources["in"].idle == {"a"}


async def test_a_source_that_cannot_be_reached_is_not_idle() -> None:
    topic = sf.MemoryTopic[Any]("in")
    flow, records, _ = timed_flow(topic, idle="30s")
    async with FlowTest(flow) as t:
        await t.send(records, at(10))
        t.topic(records).unreachable = True
        await t.advance("10m")
        assert t.engine.times is not None
        assert t.engine.times.watermarks[0].closed_us == TIME_MIN
        t.topic(records).unreachable = False
        await t.advance("20s")
        assert t.engine.times.watermarks[0].closed_us == TIME_MIN
        await t.advance("40s")
        assert t.engine.times.watermarks[0].closed_us == at(10)["at"] * 1000
