"""Subscriptions: committed records only, and what a slow reader gets: an error, a gap that is counted, or time."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

import streamflow as sf
from streamflow.errors import DefinitionError, StreamflowError
from tests.unit.operators.test_async_map import flow_in, topics
from tests.unit.runtime.test_engine import until


async def test_by_default_a_slow_reader_gets_an_error_instead_of_a_gap(tmp_path):
    source, sink = topics()
    flow = flow_in(tmp_path)
    stream = flow.source(source)
    stream.to(sink)
    async with flow.running() as run:
        reader = run.subscribe(stream, records_max=10)
        source.send_all(range(10))
        await until(lambda: len(sink) == 10)
        assert [await anext(reader) for _ in range(3)] == [0, 1, 2]
        source.send_all(range(10, 14))
        await until(lambda: len(sink) == 14)
        with pytest.raises(StreamflowError, match="fell 10 records behind"):
            await anext(reader)
        assert len(sink) == 14, "the flow does not care"


async def test_with_drop_the_oldest_go_and_are_counted(tmp_path):
    source, sink = topics()
    flow = flow_in(tmp_path)
    stream = flow.source(source)
    stream.to(sink)
    async with flow.running() as run:
        reader = run.subscribe(stream, on_slow="drop", records_max=10)
        source.send_all(range(25))
        await until(lambda: len(sink) == 25)
        assert [await anext(reader) for _ in range(10)] == list(range(15, 25))
        assert reader.dropped == 15
        source.send(25)
        assert await anext(reader) == 25
        assert reader.dropped == 15


async def test_with_block_the_flow_waits_and_nothing_is_missed(tmp_path):
    source, sink = topics()
    flow = flow_in(tmp_path, commit_min="0ms", fragment_rows_max=5)
    stream = flow.source(source)
    stream.to(sink)
    async with flow.running() as run:
        reader = run.subscribe(stream, on_slow="block", records_max=20)
        source.send_all(range(500))
        await until(lambda: "reads too slowly" in run.engine.intake.stall and len(sink) >= 20)
        await asyncio.sleep(0.1)
        waited = len(sink)
        assert 20 <= waited < 60
        await asyncio.sleep(0.05)
        assert len(sink) == waited
        assert [await anext(reader) for _ in range(500)] == list(range(500))
        assert len(sink) == 500


async def test_who_blocks_and_leaves_blocks_no_more(tmp_path):
    source, sink = topics()
    flow = flow_in(tmp_path, commit_min="0ms", fragment_rows_max=5)
    stream = flow.source(source)
    stream.to(sink)
    async with flow.running() as run:
        async with run.subscribe(stream, on_slow="block", records_max=1):
            source.send_all(range(100))
            await until(lambda: run.engine.intake.stall)
        await until(lambda: len(sink) == 100)
        forgotten: Any = run.subscribe(stream, on_slow="block", records_max=1)
        source.send_all(range(100, 200))
        await until(lambda: run.engine.intake.stall)
        del forgotten
        gc.collect()
        source.send(200)
        await until(lambda: len(sink) == 201)


async def test_a_blocked_flow_stops_cleanly_and_its_reader_gets_the_rest(tmp_path):
    source, sink = topics()
    flow = flow_in(tmp_path, commit_min="0ms", fragment_rows_max=5)
    stream = flow.source(source)
    stream.to(sink)
    async with flow.running() as run:
        reader = run.subscribe(stream, on_slow="block", records_max=20)
        source.send_all(range(500))
        await until(lambda: run.engine.intake.stall)
    found = [value async for value in reader]
    assert found == list(range(len(sink.values)))
    assert len(found) < 500
    async with flow.running() as run:
        await until(lambda: len(sink) == 500)


async def test_several_subscribers_of_one_stream_each_get_everything_from_their_beginning_on(tmp_path):
    source, sink = topics()
    flow = flow_in(tmp_path)
    stream = flow.source(source).map(lambda v: v * 10, name="tens")
    stream.to(sink)
    async with flow.running() as run:
        first = run.subscribe(stream)
        source.send(1)
        assert await anext(first) == 10
        second = run.subscribe(stream)
        source.send(2)
        assert await anext(first) == await anext(second) == 20
        await first.aclose()
        source.send(3)
        assert await anext(second) == 30
        with pytest.raises(StopAsyncIteration):
            await anext(first)
        third = run.subscribe(stream)
        source.send(4)
        assert await anext(third) == await anext(second) == 40


async def test_what_was_not_committed_is_never_shown(tmp_path):
    """A shard that restarts before a commit shows the rows once, when they are committed."""
    source: sf.MemoryTopic[int] = sf.MemoryTopic("in", value=int, ids=True)
    flow = flow_in(tmp_path, commit_min="100ms")
    stream = flow.source(source)
    async with flow.running() as run:
        reader = run.subscribe(stream)
        source.send(0)
        assert await anext(reader) == 0
        source.send(1)
        await until(lambda: run.engine.intake.pending)
        source.unreachable = True
        await until(lambda: run._supervisor.restarts)
        source.unreachable = False
        source.send(2)
        assert [await anext(reader), await anext(reader)] == [1, 2]


async def test_settings_that_make_no_sense_are_refused(tmp_path):
    source, _ = topics()
    flow = flow_in(tmp_path)
    stream = flow.source(source)
    async with flow.running() as run:
        with pytest.raises(DefinitionError, match="on_slow='wait'"):
            run.subscribe(stream, on_slow="wait")  # type: ignore[arg-type]
        with pytest.raises(DefinitionError, match="records_max=0"):
            run.subscribe(stream, records_max=0)
