"""Workers of async calls: a task goes on with the step's next call, and no call is touched by the one before it."""

from __future__ import annotations

import asyncio
import contextvars
from typing import Any

import pytest

import streamflow as sf
from streamflow.operators.async_map import AsyncMap
from tests.unit.operators.test_async_map import flow_in, send, topics
from tests.unit.runtime.test_engine import until

var: contextvars.ContextVar[int] = contextvars.ContextVar("var", default=-1)


async def test_a_task_goes_on_with_the_next_calls_and_each_has_its_own_context(tmp_path):
    source, sink = topics()
    flow = flow_in(tmp_path)
    tasks: dict[int, Any] = {}
    found: list[int] = []

    @flow.source(source).map(concurrency=4)
    async def careful(v: int) -> int:
        tasks[v] = asyncio.current_task()
        found.append(var.get())
        var.set(v)
        await asyncio.sleep(0.001)
        assert asyncio.current_task() is tasks[v]
        assert var.get() == v
        return v

    careful.to(sink)
    async with flow.running():
        send(source, *range(100))
        await until(lambda: len(sink.values) == 100)
    assert sink.values == list(range(100))
    assert found == [-1] * 100
    assert len(set(tasks.values())) == 4


async def test_a_place_is_taken_in_the_turn_in_which_it_is_free(tmp_path):
    """The next call begins before anything else has a turn."""
    source, sink = topics()
    flow = flow_in(tmp_path)
    events: list[str] = []
    done: list[asyncio.Future[None]] = []

    @flow.source(source).map(concurrency=1)
    async def one(v: int) -> int:
        events.append(f"begins {v}")
        done.append(asyncio.get_running_loop().create_future())
        await done[-1]
        events.append(f"ends {v}")
        asyncio.get_running_loop().call_soon(events.append, f"a turn after {v}")
        return v

    one.to(sink)
    async with flow.running():
        send(source, 0, 1)
        await until(lambda: len(done) == 1)
        done[0].set_result(None)
        await until(lambda: len(done) == 2)
        done[1].set_result(None)
        await until(lambda: len(sink.values) == 2)
    assert events[:4] == ["begins 0", "ends 0", "begins 1", "a turn after 0"]


@pytest.mark.parametrize("how", ["timeout", "deadline", "itself"])
async def test_a_task_that_was_cancelled_gets_no_other_call(tmp_path, how):
    source, sink = topics()
    flow = flow_in(tmp_path)
    tasks: dict[int, Any] = {}
    limits: dict[str, Any] = {} if how == "itself" else {how: "20ms"}

    @flow.source(source).map(concurrency=1, on_error=sf.skip, **limits)
    async def some(v: int) -> int:
        task = tasks[v] = asyncio.current_task()
        assert task is not None
        assert not task.cancelling()
        if v == 1:
            if how == "itself":
                task.cancel()
            await asyncio.sleep(5)
        await asyncio.sleep(0.001)
        return v

    some.to(sink)
    async with flow.running():
        send(source, *range(4))
        await until(lambda: sink.values == [0, 2, 3])
    assert tasks[0] is tasks[1]
    assert tasks[2] is tasks[3]
    assert tasks[1] is not tasks[2]


async def test_calls_that_end_at_once_behind_one_that_waited_leave_others_their_turn(tmp_path):
    source, sink = topics()
    flow = flow_in(tmp_path)
    turns = 0
    stopped = False

    async def others() -> None:
        nonlocal turns
        while not stopped:
            turns += 1
            await asyncio.sleep(0)

    @flow.source(source).map(concurrency=2)
    async def first_waits(v: int) -> int:
        if v == 0:
            await asyncio.sleep(0.001)
        sum(range(1000))
        return v

    first_waits.to(sink)
    other = asyncio.create_task(others())
    async with flow.running():
        send(source, *range(20_000))
        await until(lambda: len(sink.values) == 20_000)
    stopped = True
    await other
    assert sink.values == list(range(20_000))
    assert turns > 20


async def test_an_error_of_the_step_itself_in_a_task_of_calls_ends_the_flow(tmp_path, monkeypatch):
    """Nothing of ours may fail silently where only users' code is expected to."""
    source, sink = topics()
    flow = flow_in(tmp_path)

    def broken(stage: AsyncMap) -> Any:
        raise AssertionError("a broken invariant")

    monkeypatch.setattr(AsyncMap, "_next_call", broken)
    flow.source(source).map(lambda v: asyncio.sleep(0.001, v), concurrency=1, name="step").to(sink)
    send(source, 0, 1)
    source.close_input()
    with pytest.raises(AssertionError, match="a broken invariant"):
        await asyncio.wait_for(flow.run(), 10)
