"""Async process steps: a key is held by its call, others go on; barriers, timers, atomicity, late calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest

import streamflow as sf
from streamflow.errors import DefinitionError, StepError
from tests.unit.operators.test_async_map import Gate, flow_in, send, topics
from tests.unit.operators.test_call_limits import run_over
from tests.unit.runtime.test_engine import until


@dataclass
class Account:
    seen: list[int] = field(default_factory=list)


def keyed_by_ten(flow: sf.Flow, source: sf.MemoryTopic[int]) -> Any:
    return flow.source(source).key_by(lambda v: v // 10, name="by")


async def test_a_key_is_held_until_its_call_returns_and_others_go_on(tmp_path):
    source, sink = topics()
    flow, gate = flow_in(tmp_path), Gate()

    @keyed_by_ten(flow, source).process(state=Account, concurrency=8)
    async def account(ctx: sf.Context[int, Account], v: int) -> list[Any]:
        ctx.state.seen.append(v)
        await gate(v)
        return [[v, list(ctx.state.seen)]]

    account.to(sink)
    async with flow.running():
        send(source, 1, 2, 11, 3, 21)
        await until(lambda: gate.begun == [1, 11, 21])
        gate.open(11, 21, 2, 3)
        await until(lambda: gate.ended == [11, 21])
        await asyncio.sleep(0.02)
        assert gate.begun == [1, 11, 21]
        gate.open(1)
        await until(lambda: len(sink.values) == 5)
    assert sink.values == [[1, [1]], [2, [1, 2]], [11, [11]], [3, [1, 2, 3]], [21, [21]]]
    assert gate.most == 3


async def test_a_barrier_waits_for_its_calls_and_the_state_is_that_before_it(tmp_path):
    source, sink = topics()
    flow, gate = flow_in(tmp_path), Gate()
    committed: list[int] = []

    class Seen(sf.Instrument):
        def committed(self, epoch: int, records: int, size_bytes: int, seconds: float) -> None:
            committed.append(records)

    @keyed_by_ten(flow, source).process(state=Account, concurrency=8)
    async def account(ctx: sf.Context[int, Account], v: int) -> list[int]:
        ctx.state.seen.append(v)
        await gate(v)
        ctx.state.seen.append(-v)
        return [v]

    account.to(sink)
    async with flow.running(Seen()) as run:
        send(source, 1, 11)
        await until(lambda: gate.running == 2)
        gate.open(1)
        await until(lambda: gate.running == 1)
        await asyncio.sleep(0.05)
        assert committed == []
        send(source, 2, 21)  # behind the barrier: not begun before its state is sealed
        await asyncio.sleep(0.05)
        assert gate.begun == [1, 11]
        gate.open(11)
        await until(lambda: gate.begun == [1, 11, 2, 21])
        await until(lambda: sum(committed) == 2)
        # the state of the last commit, while calls change what comes next
        assert await run.table(account).get(0) == Account([1, -1])
        gate.open(2, 21)
        await until(lambda: len(sink.values) == 4)
        assert await run.table(account).get(0) == Account([1, -1, 2, -2])
    assert sink.values == [1, 11, 2, 21]


@pytest.mark.parametrize("kind", ["value", "assigned", "map", "list"])
@pytest.mark.parametrize("policy", [sf.skip, sf.retry(1, backoff="1ms").then(sf.skip)])
async def test_a_call_that_fails_leaves_no_trace(tmp_path, kind, policy):
    source, sink = topics()
    flow = flow_in(tmp_path)
    specs: dict[str, Any] = {
        "map": sf.map_state(str, int),
        "list": sf.list_state(int),
        "assigned": int,
        "value": dict[str, int],
    }

    @keyed_by_ten(flow, source).process(state=specs[kind], concurrency=8, on_error=policy)
    async def step(ctx: Any, v: int) -> AsyncIterator[Any]:
        match kind:
            case "value":
                ctx.state["n"] = ctx.state.get("n", 0) + 1
            case "assigned":
                ctx.state += 1
            case "map":
                ctx.state["n"] = ctx.state.get("n", 0) + 1
            case "list":
                ctx.state.append(v)
        ctx.timer("never", after="1h")
        yield "half"
        await asyncio.sleep(0.001)
        if v % 3 == 0:
            raise ValueError(v)
        state = ctx.state
        yield [v, state if kind == "assigned" else len(state) if kind == "list" else state["n"]]

    step.on_timer("never")(lambda ctx: ["fired"])
    step.to(sink)
    async with flow.running() as run:
        send(source, 1, 2, 3, 4, 12, 14, 25)
        await until(lambda: len(sink.values) == 10)
        timers = run.engine.tables["step@timers"].snapshot()
    counts = [row for row in sink.values if row != "half"]
    assert counts == [[1, 1], [2, 2], [4, 3], [14, 1], [25, 1]]
    assert set(timers) == {0, 1, 2}


async def test_a_call_past_its_deadline_cannot_touch_the_state_any_more(tmp_path):
    source, sink = topics()
    flow = flow_in(tmp_path)
    go = asyncio.Event()
    ended: list[int] = []

    @keyed_by_ten(flow, source).process(
        state=sf.map_state(str, int), concurrency=8, deadline="40ms", on_error=sf.skip, outputs=()
    )
    async def deaf(ctx: Any, v: int) -> list[Any]:
        state = ctx.state
        state[f"v{v}"] = v
        while v == 1 and not go.is_set():
            try:
                await go.wait()
            except asyncio.CancelledError:
                continue
        state[f"late{v}"] = v
        ended.append(v)
        return [sorted(state)]

    deaf.to(sink)
    async with flow.running() as run:
        send(source, 1, 2)
        await until(lambda: len(sink.values) == 1)
        go.set()
        await until(lambda: 1 in ended)
        send(source, 3)
        await until(lambda: len(sink.values) == 2)
        assert run.engine.tables["deaf"].snapshot() == {0: {"v2": 2, "late2": 2, "v3": 3, "late3": 3}}
    assert sink.values == [["late2", "v2"], ["late2", "late3", "v2", "v3"]]


async def test_side_outputs_and_many_outputs(tmp_path):
    source, sink = topics()
    other: sf.MemoryTopic[Any] = sf.MemoryTopic("other", value=Any)
    flow = flow_in(tmp_path, fragment_rows_max=7)
    side = sf.Output("side", int)

    @keyed_by_ten(flow, source).process(state=int, concurrency=3, outputs=[side])
    async def step(ctx: sf.Context[int, int], v: int) -> AsyncIterator[int]:
        await asyncio.sleep(0.001 * (v % 3))
        ctx.emit(side, -v)
        for n in range(20):
            yield v * 100 + n

    step.to(sink)
    step.output(side).to(other)
    async with flow.running():
        send(source, *range(30))
        await until(lambda: len(sink.values) == 600)
        await until(lambda: len(other.values) == 30)
    assert sink.values == [v * 100 + n for v in range(30) for n in range(20)]
    assert other.values == [-v for v in range(30)]


async def test_timers_fire_before_the_records_of_their_number_and_in_their_order():
    flow = sf.Flow("f")
    source = flow.source(sf.MemoryTopic("in", value=int))

    @source.key_by(lambda v: v % 3, name="by").process(state=int, concurrency=2)
    async def step(ctx: sf.Context[int, int], v: int) -> list[Any]:
        await asyncio.sleep(0.001 * (v % 4))
        ctx.state += v
        ctx.timer("tell", after="10s")
        return []

    @step.on_timer("tell")
    async def tell(ctx: sf.Context[int, int]) -> list[Any]:
        await asyncio.sleep(0.002 * (3 - ctx.key))
        total, ctx.state = ctx.state, 0
        ctx.timer("again", after="5s")
        return [["told", ctx.key, total, ctx.id]]

    @step.on_timer("again")
    def again(ctx: sf.Context[int, int]) -> list[Any]:
        return [["again", ctx.key]]

    async with flow.test() as t:
        await t.send(source, 3, 4, 5, 6)
        await t.advance("9s")
        assert t.out(step) == []
        await t.advance("1s")
        told = t.out(step)
        assert [row[:3] for row in told] == [["told", 0, 9], ["told", 1, 4], ["told", 2, 5]]
        assert len({row[3] for row in told}) == 3
        await t.crash()
        await t.advance("5s")
        assert t.out(step)[3:] == [["again", 0], ["again", 1], ["again", 2]]
        assert t.state(step) == {0: 0, 1: 0, 2: 0}


async def test_state_that_cannot_be_stored_is_told_with_its_record(tmp_path):
    source, sink = topics()
    flow = flow_in(tmp_path)

    @keyed_by_ten(flow, source).process(state=dict[str, Any], concurrency=4)
    async def step(ctx: Any, v: int) -> list[int]:
        await asyncio.sleep(0.001)
        ctx.state["v"] = float("nan") if v == 12 else v
        return [v]

    step.to(sink)
    error = await run_over(flow, source, [1, 11, 12, 21])
    assert isinstance(error, StepError)
    assert error.step == "step"
    assert "the record before position 3" in str(error)


async def test_a_call_that_outlives_its_keys_ttl_brings_nothing_back_for_ever():
    flow = sf.Flow("f")
    source = flow.source(sf.MemoryTopic("in", value=int))
    gate = Gate()

    @source.key_by(lambda v: v // 10, name="by").process(state=int, ttl="5s", concurrency=4, deadline="1h")
    async def step(ctx: sf.Context[int, int], v: int) -> list[Any]:
        await gate(v)
        ctx.state += v
        return [ctx.state]

    async with flow.test() as t:
        gate.open(2, 3, 4, 11)
        await t.send(source, 4)
        await t.send(source, 1, settle=False)
        await until(lambda: gate.running == 1)
        await t.advance("6s")
        await t.send(source, 11, settle=False)  # a number whose time is behind that of the key
        gate.open(1)
        await t.settle()
        await t.send(source, 2)
        await t.send(source, 3)
        assert t.out(step) == [4, 5, 11, 2, 5]
        await t.advance("10s")
        await t.send(source, 11)
        assert t.state(step) == {1: 11}


def test_limits_belong_to_async_functions():
    flow = sf.Flow("f")
    keyed = flow.source(sf.MemoryTopic("in", value=int)).key_by(lambda v: v, name="by")
    with pytest.raises(DefinitionError, match="plain function and takes no concurrency="):
        keyed.process(state=int, name="p", concurrency=4)(lambda ctx, v: [v])
    with pytest.raises(DefinitionError, match="takes no output=") as caught:
        keyed.process(state=int, name="p", output=[])(lambda ctx, v: [v])  # type: ignore[call-overload]
    assert caught.value.hint == "It takes outputs=, tables=."
    step = keyed.process(state=int, name="q")(lambda ctx, v: [v])

    async def handler(ctx: sf.Context[int, int]) -> list[int]:
        return []

    with pytest.raises(DefinitionError, match="takes a plain one"):
        step.on_timer("t")(handler)
