"""Bounded sources in the order of event time: what has come to its end keeps nobody waiting, however far others are."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import streamflow as sf
from streamflow.errors import StreamflowError
from streamflow.runtime.settings import Settings
from streamflow.testing.harness import FlowTest

SMALL = Settings(intake_records_max=4)


async def ends(t: FlowTest) -> None:
    with pytest.raises(StreamflowError, match="the flow has ended"):
        await t.settle()


async def crashed(t: FlowTest) -> None:
    await t.crash()
    await t.settle()


async def one_by_one(t: FlowTest, records: sf.Stream[int], times: Sequence[int]) -> None:
    for at in times:
        await t.send(records, at, partition="p")


def held(t: FlowTest) -> int:
    (order,) = t.engine.intake._orders
    return order.held


async def test_a_partition_at_its_end_lets_those_ahead_be_read() -> None:
    flow = sf.Flow("partitions")
    topic = sf.MemoryTopic[int]("in", partitions=("p", "q"))
    records = flow.source(topic, time=lambda at: at * 1000, order="time", max_drift="5s", idle=None)
    async with FlowTest(flow, SMALL) as t:
        await t.send(records, 100, 101, partition="q", settle=False)
        await one_by_one(t, records, range(100, 200))
        assert t.topic(records)._log.partitions["p"].end == 100 > held(t)  # p is ahead, and is not read
        t.topic(records).close_input()
        await ends(t)
        assert t.out(records) == sorted([100, 101, *range(100, 200)])
        assert t.engine.mishaps.released_early.total() == 0


async def test_it_is_at_its_end_only_when_all_of_it_was_taken() -> None:
    flow = sf.Flow("partitions")
    topic = sf.MemoryTopic[int]("in", partitions=("p", "q"))
    records = flow.source(topic, time=lambda at: at * 1000, order="time", max_drift="5s", idle=None)
    async with FlowTest(flow, SMALL) as t:
        for start in range(100, 200, 10):
            await t.send(records, *range(start, start + 10), partition="p", settle=False)
            await t.send(records, *range(start, start + 5), partition="q", settle=False)
        t.topic(records).close_input()
        await ends(t)
        found = [at for start in range(100, 200, 10) for at in [*range(start, start + 10), *range(start, start + 5)]]
        assert t.out(records) == sorted(found)
        assert t.engine.mishaps.released_early.total() == 0


async def test_a_crash_on_the_way_changes_nothing() -> None:
    flow = sf.Flow("partitions")
    topic = sf.MemoryTopic[int]("in", partitions=("p", "q", "empty"))
    records = flow.source(topic, time=lambda at: at * 1000, order="time", max_drift="5s", idle=None)
    for turns in range(1, 40, 3):
        async with FlowTest(flow, SMALL) as t:
            await t.send(records, 100, 101, partition="q", settle=False)
            await one_by_one(t, records, range(100, 140))
            t.topic(records).close_input()
            for _ in range(turns):
                await asyncio.sleep(0)
            with pytest.raises(StreamflowError, match="the flow has ended"):
                await crashed(t)
            assert t.out(records) == sorted([100, 101, *range(100, 140)])


async def test_a_source_that_was_read_whole_is_taken_when_another_ends() -> None:
    flow = sf.Flow("sources")
    a, b = (
        flow.source(sf.MemoryTopic[int](name), time=lambda at: at * 1000, order="time", max_drift="5s", idle=None)
        for name in "ab"
    )
    merged = sf.merge(a, b, order="time")
    async with FlowTest(flow) as t:
        await t.send(b, 100)
        await t.send(a, *range(100, 5100), settle=False)
        t.topic(a).close_input()
        await t.settle()
        pump = t.engine.intake.pumps[0]
        assert pump.ended and pump.waiting  # a is ahead: some of it is taken, and the rest only when b is further
        t.topic(b).close_input()
        await ends(t)
        assert t.out(merged) == sorted([100, *range(100, 5100)])


async def test_windows_do_not_wait_for_a_partition_at_its_end() -> None:
    """Without an order there is no drift; but what is complete is told while the rest is read."""
    flow = sf.Flow("windows")
    topic = sf.MemoryTopic[int]("in", partitions=("p", "q"))
    records = flow.source(topic, time=lambda at: at * 1000, idle=None)
    counts = records.key_by(lambda at: "k").window(sf.tumbling("10s")).count(name="counts")
    async with FlowTest(flow, SMALL) as t:
        await t.send(records, 100, partition="q", settle=False)
        await t.send(records, *range(100, 200), partition="p")
        assert t.out(counts) == []
        t.topic(records).close_input()
        await ends(t)
        assert [row.value for row in t.out(counts)] == [11, *[10] * 9]


def written(path: Path, times: Sequence[int]) -> Any:
    path.write_text("".join(json.dumps(at) + "\n" for at in times))
    return sf.jsonl(path, value=int)


@pytest.mark.parametrize("short", [[], [100], [100, 101, 102]], ids=["empty", "one", "few"])
async def test_a_file_at_its_end_lets_another_be_read(tmp_path: Path, short: list[int]) -> None:
    flow = sf.Flow("files", state=tmp_path / "state.db", settings=SMALL)
    long = list(range(100, 700))
    a, b = (
        flow.source(
            written(tmp_path / name, times),
            name=name,
            time=lambda at: at * 1000,
            idle=None,
            order="time",
            max_drift="5s",
        )
        for name, times in (("a", long), ("b", short))
    )
    sf.merge(a, b, order="time").to(sf.jsonl(tmp_path / "out", value=int))
    async with asyncio.timeout(20):
        await flow.run()
    assert [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()] == sorted(long + short)
