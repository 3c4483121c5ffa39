"""order="time": one order of event time, whatever the order of arrival, through crashes, within bounds."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import streamflow as sf
from streamflow.errors import DefinitionError, StreamflowError
from streamflow.flow import Flow
from streamflow.graph import Graph
from streamflow.plan.order import joint_orders
from streamflow.runtime.settings import Settings
from streamflow.testing.harness import FlowTest
from tests.property_runs import examples
from tests.unit.operators.window_reference import Record, in_joint_order

LATENESS = 3
PARTITIONS = ("p", "q")
FEW = examples(6)


def timed(flow: Flow, name: str, **more: Any) -> sf.Stream[Record]:
    topic = sf.MemoryTopic[Any](name, partitions=more.pop("partitions", PARTITIONS), ids=more.pop("ids", False))
    return flow.source(topic, name=name, time=lambda r: r.at * 1000, lateness=f"{LATENESS}s", **more)


def both(**more: Any) -> tuple[Flow, dict[str, sf.Stream[Record]], sf.Stream[Record]]:
    """Two sources in one order; records of the second go through a step that doubles some of them."""
    flow = Flow("both")
    sources = {name: timed(flow, name, **more) for name in "ab"}
    return flow, sources, sf.merge(sources["a"], sources["b"].flat_map(lambda record: [record]), order="time")


async def feed(
    t: FlowTest, sources: dict[str, sf.Stream[Record]], records: Sequence[Record], *, settle: bool = True
) -> None:
    """Sends records, whose partition is the name of their source and that of its partition."""
    for record in records:
        await t.send(sources[record.partition[0]], record, partition=record.partition[1:], settle=False)
    if settle:
        await t.settle()


def held(t: FlowTest) -> int:
    (order,) = t.engine.intake._orders
    return order.held


@st.composite
def partitions(draw: st.DrawFn) -> list[list[Record]]:
    """What each partition of two sources holds: time goes on, with disorder, equal times, and some that are late."""
    step = st.tuples(st.integers(0, 3), st.integers(-6, 0))
    found, number = [], 0
    for name in ("ap", "aq", "bp", "bq"):
        now, records = 100, []
        for forward, back in draw(st.lists(step, max_size=12)):
            now += forward
            records.append(Record(name, "k", now + back, number))
            number += 1
        found.append(records)
    return found


def arrivals(lanes: Sequence[Sequence[Record]], seed: int) -> list[Record]:
    """Any interleaving of the partitions."""
    chance = random.Random(seed)
    waiting = [list(lane) for lane in lanes if lane]
    found = []
    while waiting:
        lane = chance.choice(waiting)
        found.append(lane.pop(0))
        waiting = [lane for lane in waiting if lane]
    return found


async def arrived(records: Sequence[Record], how: Settings, crashes: Sequence[int] = ()) -> list[Record]:
    flow, sources, merged = both()
    async with FlowTest(flow, how) as t:
        for at, record in enumerate(records):
            await feed(t, sources, [record], settle=False)
            if at in crashes:
                for _ in range(at % 17):
                    await asyncio.sleep(0)
                await t.crash()
        await t.settle()
        await t.advance("31s")
        assert held(t) == 0
        return t.out(merged)


@given(lanes=partitions(), seed=st.integers(0, 9))
@FEW
def test_the_order_follows_from_what_partitions_hold(lanes: list[list[Record]], seed: int) -> None:
    records = arrivals(lanes, seed)
    expected = in_joint_order(records, LATENESS)
    assert asyncio.run(arrived(records, Settings())) == expected
    assert asyncio.run(arrived(records, Settings(fragment_rows_max=1, intake_records_max=2))) == expected
    crashes = random.Random(seed).sample(range(len(records)), min(3, len(records)))
    assert asyncio.run(arrived(records, Settings(fragment_rows_max=2, plain=True), crashes)) == expected


async def test_a_crash_leaves_out_what_was_released_ahead_of_others() -> None:
    flow = Flow("ahead")
    records = timed(flow, "a", partitions=("",), order="time")
    async with FlowTest(flow) as t:
        sent = [Record("a", "k", at, at) for at in (10, 17, 11, 16, 12, 13, 20)]
        await t.send(records, *sent)  # the watermark is at 17: all but 17 and 20 are released
        await t.crash()
        assert t.engine.checkpoint is not None
        (position,) = t.engine.checkpoint.taken["a"].positions.values()
        assert position.at == 1
        assert [(run.first, run.last) for run in position.above] == [(3, 6)]
        await t.crash()
        await t.advance("31s")
        assert [record.at for record in t.out(records)] == [10, 11, 12, 13, 16, 17, 20]


async def test_ranges_count_though_the_order_is_given_up() -> None:
    """What was released ahead of others is left out by whoever reads on from the checkpoint."""
    ordered, plain = Flow("given-up"), Flow("given-up")
    first = timed(ordered, "a", partitions=("",), order="time")
    later = timed(plain, "a", partitions=("",))
    async with FlowTest(ordered) as t:
        await t.send(first, *(Record("a", "k", at, at) for at in (10, 17, 11, 16, 12, 13, 20)))
        assert [record.at for record in t.out(first)] == [10, 11, 12, 13, 16]
        topic = t._topics[first._step.id]
        t._flow, t._graph = plain, Graph("given-up", tuple(_with(step, topic) for step in plain.graph().steps))
        t._topics[first._step.id] = topic
        await t.crash()
        await t.send(later, Record("a", "k", 21, 21))
        assert [record.at for record in t.out(later)][5:] == [17, 20, 21]
        await t.crash()
        await t.send(later, Record("a", "k", 22, 22))
        assert [record.at for record in t.out(later)][5:] == [17, 20, 21, 22]


def _with(step: Any, topic: Any) -> Any:
    return replace(step, options={**step.options, "spec": topic})


@pytest.mark.parametrize("ids", [False, True])
async def test_windows_behind_it_hold_what_they_should(ids: bool) -> None:
    flow = Flow("windows")
    records = timed(flow, "a", ids=ids, order="time")
    counts = (
        records.key_by(lambda r: r.key).window(sf.tumbling("10s")).agg(sf.collect(lambda r: r.number), name="counts")
    )
    async with FlowTest(flow, Settings(fragment_rows_max=3)) as t:
        sent = [Record("a", "k", 100 + number - number * 7 % 3, number) for number in range(40)]
        for record in sent:
            await t.send(records, record, partition=PARTITIONS[record.number % 2], settle=False)
        await t.crash()
        await t.advance("31s")
        rows = [row.value for row in t.out(counts)]
    in_order = sorted(sent, key=lambda r: (r.at, PARTITIONS[r.number % 2], r.number))
    expected = [[r.number for r in in_order if r.at // 10 == tens] for tens in range(10, 14)]
    assert rows == expected if not ids else [sorted(row) for row in rows] == [sorted(row) for row in expected]


async def test_a_queue_gives_its_records_in_order_once() -> None:
    flow = Flow("queue")
    records = timed(flow, "a", ids=True, partitions=("",), order="time")
    async with FlowTest(flow) as t:
        sent = [Record("a", "k", at, at) for at in (10, 13, 11, 12, 16, 14)]
        await t.send(records, *sent)
        assert [record.at for record in t.out(records)] == [10, 11, 12]
        await t.crash()
        await t.send(records, Record("a", "k", 15, 15))
        await t.advance("31s")
        assert [record.at for record in t.out(records)] == [10, 11, 12, 13, 14, 15, 16]
        assert len(t.topic("a")) == 0 or t.topic("a")._log.partitions[""].acknowledged


# -- bounds ------------------------------------------------------------------------------------------------------------


async def test_a_silent_partition_holds_the_others_until_it_is_idle() -> None:
    flow, sources, merged = both()
    async with FlowTest(flow) as t:
        await feed(t, sources, [Record("ap", "k", at, at) for at in range(10, 20)])
        await t.advance("25s")
        assert t.out(merged) == []
        await feed(t, sources, [Record("bq", "k", 12, 0)])
        await t.advance("10s")
        # aq and bp are idle; ap and bq are waited for
        assert [record.at for record in t.out(merged)] == []
        await feed(t, sources, [Record("bq", "k", 18, 0)])
        await t.settle()
        assert [record.at for record in t.out(merged)] == [10, 11, 12, 12, 13, 14]
        assert t.engine.mishaps.released_early.total() == 0


async def test_hold_max_releases_by_force_and_counts() -> None:
    flow, sources, merged = both(order="time", hold_max="5s", idle=None)
    async with FlowTest(flow) as t:
        await feed(t, sources, [Record("ap", "k", at, at) for at in (12, 11)])
        await t.advance("3s")
        await feed(t, sources, [Record("ap", "k", at, at) for at in (10, 15)])
        await t.advance("1s")
        assert t.out(merged) == []
        await t.advance("1s")
        assert [record.at for record in t.out(merged)] == [10, 11, 12]
        assert t.engine.mishaps.released_early == {"a+b": 3}
        assert t.engine.times is not None
        assert t.engine.times.watermarks[0].at_us < 0  # windows still wait for the other partitions
        await t.advance("3s")
        assert [record.at for record in t.out(merged)] == [10, 11, 12, 15]
        await t.crash()
        await t.advance("9s")
        assert [record.at for record in t.out(merged)] == [10, 11, 12, 15]


async def test_partitions_ahead_are_not_read_and_do_not_keep_others_from_being_read() -> None:
    flow, sources, merged = both()
    how = Settings(held_records_max=40, intake_records_max=8)
    async with FlowTest(flow, how) as t:
        for name in ("ap", "bp", "bq"):
            await feed(t, sources, [Record(name, "k", 100 + at, at) for at in range(100)])
        await t.settle()
        assert t.out(merged) == []
        (order,) = t.engine.intake._orders
        assert 20 <= order.held <= 40
        assert {(pump.name, name) for pump in order.pumps for name in pump.paused} >= {("a", "p")}
        before = t.topic("a")._log.partitions["p"].end
        assert before == 100
        await feed(t, sources, [Record("aq", "k", 100 + at, at) for at in range(100)])
        await t.settle()
        assert order.held <= 40
        assert len(t.out(merged)) > 350
        await t.advance("31s")
        assert [record.at for record in t.out(merged)] == [100 + at for at in range(100) for _ in range(4)]
        assert t.engine.mishaps.released_early.total() == 0


async def test_a_paused_partition_does_not_turn_idle_and_a_silent_one_beside_it_does() -> None:
    flow = Flow("paused")
    records = timed(flow, "a", order="time", max_drift="5s")
    async with FlowTest(flow, Settings(intake_records_max=4)) as t:
        await t.send(records, Record("aq", "k", 100, 0), partition="q")
        for at in range(0, 50, 2):
            await t.send(records, Record("ap", "k", 100 + at, at), partition="p")
        assert max(_latest(t).values()) < 120
        await t.advance("29s")
        assert len(t.out(records)) == 0
        await t.advance("40s")
        assert [record.at for record in t.out(records)] == [100, *range(100, 150, 2)]
        assert t.engine.mishaps.released_early.total() == 0


def _latest(t: FlowTest) -> dict[str, int]:
    (order,) = t.engine.intake._orders
    (times,) = order._times
    return {name: latest // 1_000_000 for name, latest in times.latest.items()}


async def test_a_hold_that_lateness_fills_alone_releases_the_earliest() -> None:
    flow = Flow("full")
    topic = sf.MemoryTopic[Any]("a")
    records = flow.source(topic, time=lambda at: at * 1000, lateness="1h", order="time")
    async with FlowTest(flow, Settings(held_records_max=100)) as t:
        await t.send(records, *range(1000))
        (order,) = t.engine.intake._orders
        assert order.held <= 100
        assert t.out(records) == list(range(1000 - order.held))
        assert t.engine.mishaps.released_early["a"] == 1000 - order.held
        await t.crash()
        await t.advance("31s")
        assert t.out(records) == list(range(1000))


async def test_bytes_bound_the_hold_too() -> None:
    flow = Flow("bytes")
    topic = sf.MemoryTopic("a", value=bytes)
    records = flow.source(topic, time=len, lateness="1h", order="time")
    async with FlowTest(flow, Settings(held_bytes_max=10_000)) as t:
        await t.send(records, *(bytes(1000 + at) for at in range(100)))
        (order,) = t.engine.intake._orders
        assert order._bytes <= 10_000 + 2048 * 2000
        assert t.engine.mishaps.released_early["a"] > 0
        await t.advance("31s")
        assert [len(value) for value in t.out(records)] == [1000 + at for at in range(100)]
        assert order._bytes == 0


async def test_an_idle_partition_that_comes_back_is_put_in_order_again() -> None:
    flow, sources, merged = both(idle="10s")
    async with FlowTest(flow) as t:
        await feed(t, sources, [Record("ap", "k", 100, 0)])
        await t.advance("11s")
        assert len(t.out(merged)) == 1
        await feed(t, sources, [Record("bp", "k", 200, 0), Record("ap", "k", 150, 0)])
        await t.settle()
        assert len(t.out(merged)) == 1
        await feed(t, sources, [Record("ap", "k", 210, 0)])
        await t.settle()
        assert [record.at for record in t.out(merged)] == [100, 150]
        await t.advance("11s")
        assert [record.at for record in t.out(merged)] == [100, 150, 200, 210]


async def test_records_that_cannot_be_used_are_buried_once_though_others_wait() -> None:
    flow = Flow("letters")
    topic = sf.MemoryTopic("a", value=int)
    records = flow.source(topic, time=lambda at: at * 1000, lateness="5s", order="time", on_error=sf.dead_letter)
    async with FlowTest(flow) as t:
        await t.send(records, 20, 10)
        await t.send_bytes(records, b"no")
        await t.send(records, 12, 22)
        await t.send_bytes(records, b"nor")
        await t.crash()
        await t.crash()
        await t.advance("31s")
        assert t.out(records) == [10, 12, 20, 22]
        assert t.engine.dead.stored == 2


async def test_sources_that_end_release_what_they_hold() -> None:
    flow, sources, merged = both(idle=None)
    async with FlowTest(flow) as t:
        await feed(t, sources, [Record("ap", "k", at, at) for at in (3, 1, 2)])
        t.topic("b").close_input()
        await t.settle()
        assert t.out(merged) == []
        t.topic("a").close_input()
        with pytest.raises(StreamflowError, match="has ended"):
            await t.settle()
        assert [record.at for record in t.out(merged)] == [1, 2, 3]


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_an_order_needs_event_time() -> None:
    with pytest.raises(DefinitionError, match="source 'a' is to be read in the order of event time, and has none"):
        Flow("f").source(sf.MemoryTopic[int]("a"), order="time")
    flow = Flow("f")
    a, b = timed(flow, "a"), flow.source(sf.MemoryTopic[Any]("b"))
    with pytest.raises(DefinitionError, match="source 'b' is to be read in the order of event time"):
        a.merge(b, order="time")


@pytest.mark.parametrize("kind", ["count", "process", "map_batch", "async_map"])
def test_a_merge_in_order_lies_behind_nothing_that_holds_records_back(kind: str) -> None:
    flow = Flow("f")
    a, b = timed(flow, "a"), timed(flow, "b")
    keyed: Any = b.key_by(lambda r: r.key)

    async def slow(record: Record) -> Record:
        return record

    def as_it_is(ctx: sf.Context[str, int], record: Record) -> list[Record]:
        return [record]

    kinds: dict[str, Callable[[], Any]] = {
        "count": lambda: keyed.count(name="between"),
        "process": lambda: keyed.process(state=int, name="between")(as_it_is),
        "map_batch": lambda: b.map_batch(lambda records: records, name="between"),
        "async_map": lambda: b.map(slow, name="between"),
    }
    behind = kinds[kind]()
    with pytest.raises(DefinitionError, match=rf"merge 'merge' cannot go by event time: {kind} step 'between' lies"):
        a.merge(behind, order="time")
    flow = Flow("fine")
    a, b = timed(flow, "a"), timed(flow, "b")
    keyed = b.key_by(lambda r: r.key)
    assert a.key_by(lambda r: r.key).merge(keyed.filter(bool).inspect(print), order="time", name="fine")


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(DefinitionError, match='hold_max= and max_drift= are for order="time"'):
        timed(Flow("f"), "a", hold_max="1s")
    with pytest.raises(DefinitionError, match="order='size'"):
        timed(Flow("f"), "a", order="size")


def test_merges_join_orders() -> None:
    flow = Flow("f")
    a, b, c, d = (timed(flow, name, order="time", max_drift=f"{at}s") for at, name in enumerate("abcd", start=1))
    a.merge(b, order="time").merge(c, order="time", name="more")
    assert [(joint.sources, joint.ordering.max_drift_us) for joint in joint_orders(flow.graph())] == [
        (("a", "b", "c"), 1_000_000),
        (("d",), 4_000_000),
    ]
    assert d.name == "d"
