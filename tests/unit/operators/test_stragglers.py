"""One slow call among fast ones: at the next step it delays only its successors; a sink waits for its epoch."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import streamflow as sf
from tests.unit.operators.test_async_map import flow_in
from tests.unit.runtime.test_engine import until

RECORDS = 400
SLOW = RECORDS // 2


class Straggler:
    """Calls that end at once but for one, which ends when it is told to."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.gate = asyncio.Event()

    async def __call__(self, value: int) -> int:
        self.begun.append(value)
        await asyncio.sleep(0)
        if value == SLOW:
            await self.gate.wait()
        return value


def flow_with(tmp_path: Any, slow: Straggler, **options: Any) -> tuple[Any, Any, Any, list[int]]:
    source, sink = sf.MemoryTopic("in", value=int), sf.MemoryTopic("out", value=int)
    flow = flow_in(tmp_path, commit_min="0ms")
    passed: list[int] = []

    async def called(value: int) -> int:
        return await slow(value)

    def note(value: int) -> int:
        passed.append(value)
        return value

    flow.source(source).map(called, concurrency=32, **options).map(note).to(sink)
    return flow, source, sink, passed


@pytest.mark.parametrize("burst", [False, True])
async def test_at_the_next_step_a_slow_call_delays_its_successors_alone(tmp_path, burst):
    slow = Straggler()
    flow, source, sink, passed = flow_with(tmp_path, slow)
    async with flow.running():
        if burst:
            source.send_all(range(RECORDS))
        for value in range(RECORDS) if not burst else ():
            source.send(value)
            if value < SLOW and value % 50 == 49:
                # what is in an earlier epoch is at the sink whatever follows it
                await until(lambda value=value: len(sink) == value + 1)  # type: ignore[misc]
        # the calls behind it are made meanwhile: it holds their results up, and nothing else
        await until(lambda: len(slow.begun) == RECORDS)
        await until(lambda: len(passed) == SLOW)
        await asyncio.sleep(0.05)
        assert passed == list(range(SLOW))
        assert len(sink) == (0 if burst else SLOW), "the epoch of the slow call waits, and no other"
        slow.gate.set()
        await until(lambda: len(sink) == RECORDS)
    assert passed == sink.values == list(range(RECORDS))


async def test_at_the_sink_a_slow_call_that_is_detached_delays_nothing_but_itself(tmp_path):
    slow = Straggler()
    flow, source, sink, _ = flow_with(tmp_path, slow, detached=True)
    async with flow.running():
        source.send_all(range(RECORDS))
        await until(lambda: len(sink) == RECORDS - 1, 30)
        assert sorted(sink.values) == [value for value in range(RECORDS) if value != SLOW]
        slow.gate.set()
        await until(lambda: len(sink) == RECORDS)
    assert sink.values[-1] == SLOW


async def test_with_keys_a_detached_slow_call_delays_only_its_key(tmp_path):
    slow = Straggler()
    source, sink = sf.MemoryTopic("in", value=int), sf.MemoryTopic("out", value=int)
    flow = flow_in(tmp_path, commit_min="0ms")

    async def called(value: int) -> int:
        return await slow(value)

    keyed = flow.source(source).key_by(lambda v: v % 4, name="by")
    keyed.map(called, concurrency=32, detached=True).to(sink)
    async with flow.running():
        source.send_all(range(RECORDS))
        held = [value for value in range(SLOW, RECORDS) if value % 4 == SLOW % 4]
        await until(lambda: len(sink) == RECORDS - len(held), 30)
        await asyncio.sleep(0.05)
        assert sorted(sink.values) == [value for value in range(RECORDS) if value not in held]
        slow.gate.set()
        await until(lambda: len(sink) == RECORDS)
    assert sink.values[-len(held) :] == held
