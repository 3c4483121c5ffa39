"""Detached steps: inputs in the state, calls that no commit waits for, results by the internal source, once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import streamflow as sf
from streamflow.errors import DefinitionError, StepError
from streamflow.runtime.engine import Engine
from tests.unit.operators.test_async_map import Gate, flow_in, send, topics
from tests.unit.runtime.test_dead_letters import letters
from tests.unit.runtime.test_engine import until


@dataclass
class Order:
    user: str
    n: int


@dataclass
class Scored:
    user: str
    n: int
    risk: float


async def test_commits_go_on_while_a_call_is_under_way(tmp_path):
    source, sink = topics()
    flow, gate = flow_in(tmp_path, commit_min="0ms"), Gate()
    stream = flow.source(source)
    stream.map(gate, concurrency=2, detached=True, name="slow").to(sink)
    plain: sf.MemoryTopic[int] = sf.MemoryTopic("plain", value=int)
    stream.to(plain, name="plain")
    async with flow.running() as run:
        send(source, 1, 2, 3)
        await until(lambda: gate.begun == [1, 2])
        epoch = run.engine.committer.last_epoch
        send(source, 4)
        await until(lambda: len(plain) == 4)
        assert run.engine.committer.last_epoch > epoch
        send(source, 5)
        await until(lambda: len(plain) == 5)
        assert sink.values == []
        assert [w.value for w in run.engine.tables["slow_waiting"].snapshot()[""].values()] == [1, 2, 3, 4, 5]
        gate.open(2, 3, 4, 5)
        await until(lambda: sink.values == [2, 3, 4, 5])
        gate.open(1)
        await until(lambda: sink.values == [2, 3, 4, 5, 1])
        await until(lambda: not run.engine.internal.detached.waiting)
        assert run.engine.tables["slow_waiting"].snapshot() == {}
    assert gate.most == 2


async def test_a_bounded_input_ends_behind_its_last_result_also_through_two_steps(tmp_path):
    source, sink = topics()
    flow = flow_in(tmp_path)

    async def later(v: int) -> int:
        await asyncio.sleep(0.002)
        return v

    async def again(v: int) -> int:
        await asyncio.sleep(0.001)
        return v * 10

    twice = flow.source(source).map(later, detached=True).map(again, detached=True, concurrency=3)
    twice.to(sink)
    source.send_all(range(50))
    source.close_input()
    await flow.run()
    assert sorted(sink.values) == [v * 10 for v in range(50)]
    await flow.run()
    assert len(sink.values) == 50


async def test_results_keep_the_order_of_each_key_and_the_key():
    flow = sf.Flow("f")
    orders = flow.source(sf.MemoryTopic("orders", value=Order))
    gate = Gate()

    async def score(ctx: sf.Context[str, None], order: Order) -> Scored:
        await gate((order.user, order.n))
        return Scored(ctx.key, order.n, 0.5)

    scored = orders.key_by(lambda o: o.user).map(score, detached=True, concurrency=8)
    counts = scored.count(name="counts")
    async with flow.test() as t:
        await t.send(orders, Order("ann", 1), Order("ann", 2), Order("bob", 1), settle=False)
        await until(lambda: len(gate.begun) == 3)
        gate.open(("ann", 2), ("bob", 1))
        await t.settle()
        assert t.out(scored) == [Scored("bob", 1, 0.5)]
        gate.open(("ann", 1))
        await t.settle()
        assert t.out(scored) == [Scored("bob", 1, 0.5), Scored("ann", 1, 0.5), Scored("ann", 2, 0.5)]
        assert t.out(counts) == [("bob", 1), ("ann", 1), ("ann", 2)]


@pytest.mark.parametrize("verb", ["filter", "flat_map", "generator"])
async def test_the_other_verbs(verb):
    flow = sf.Flow("f")
    numbers = flow.source(sf.MemoryTopic("n", value=int))

    async def odd(v: int) -> bool:
        return bool(v % 2)

    async def twice(v: int) -> list[int]:
        return [v, v]

    async def up_to(v: int) -> AsyncIterator[int]:
        for n in range(v):
            yield n

    out: Any
    if verb == "filter":
        out, wanted = numbers.filter(odd, detached=True), [1, 3]
    elif verb == "flat_map":
        out, wanted = numbers.flat_map(twice, detached=True), [1, 1, 2, 2, 3, 3]
    else:
        out, wanted = numbers.flat_map(up_to, detached=True), [0, 0, 1, 0, 1, 2]
    async with flow.test() as t:
        await t.send(numbers, 1, 2, 3)
        assert t.out(out) == wanted


async def test_crashes_neither_lose_nor_double_a_result_and_ids_stay():
    flow = sf.Flow("f")
    source = flow.source(sf.MemoryTopic("in", value=int))
    ids: dict[int, set[str]] = {}
    behind: dict[int, set[str]] = {}

    async def call(ctx: sf.Context[None, None], v: int) -> int:
        ids.setdefault(v, set()).add(ctx.id)
        await asyncio.sleep(0.001)
        return v

    async def follow(ctx: sf.Context[None, None], v: int) -> int:
        behind.setdefault(v, set()).add(ctx.id)
        await asyncio.sleep(0)
        return v

    called = source.flat_map(lambda v: [v, v + 1000]).map(call, detached=True, concurrency=3)
    followed = called.map(follow, concurrency=2)
    async with flow.test() as t:
        for start in range(1, 40, 2):
            await t.send(source, start, start + 1, settle=False)
            for _ in range(start % 7 * 6):
                await asyncio.sleep(0)
            await t.crash()
        await t.settle()
        everything = sorted([*range(1, 41), *range(1001, 1041)])
        assert sorted(t.out(followed)) == everything
        assert t.crashes == 20
    for seen in (ids, behind):
        assert sorted(seen) == everything
        assert all(len(found) == 1 for found in seen.values()), "a call has one identity in all its lives"
        assert len(set().union(*seen.values())) == len(everything), "no two calls have the same"


async def test_what_waits_outlives_a_stop_and_is_called_again(tmp_path):
    source, sink = topics()
    flow, gate = flow_in(tmp_path), Gate()
    flow.source(source).map(gate, detached=True, name="slow").to(sink)
    async with flow.running():
        send(source, 1, 2)
        await until(lambda: gate.begun == [1, 2])
        gate.open(2)
        await until(lambda: sink.values == [2])
    assert gate.running == 0, "cancelled at the stop"
    gate.open(1)
    async with flow.running():
        await until(lambda: sink.values == [2, 1])
    assert gate.begun == [1, 2, 1]


def refuse_three(v: int) -> int:
    if v == 3:
        raise KeyError("boom")
    return v


async def refuses(v: int) -> int:
    await asyncio.sleep(0)
    return refuse_three(v)


@pytest.mark.parametrize("ids", [False, True])
async def test_a_failed_call_is_a_dead_letter_of_the_record_that_came_in(tmp_path, ids):
    source: sf.MemoryTopic[int] = sf.MemoryTopic("in", value=int, ids=ids)
    sink: sf.MemoryTopic[Any] = sf.MemoryTopic("out")
    flow = flow_in(tmp_path)
    policy = sf.retry(1, backoff="1ms").then(sf.dead_letter)
    flow.source(source, name="orders").map(refuses, detached=True, on_error=policy).to(sink)
    for v in (1, 2, 3, 4):
        source.send(v, key=b"k", headers={"n": str(v)})
    source.close_input()
    await flow.run()
    assert sorted(sink.values) == [1, 2, 4]
    (letter,) = letters(flow.state_path)
    assert (letter.kind, letter.name, letter.source, letter.payload) == ("step", "refuses", "orders", b"3")
    assert (letter.key, letter.headers) == (b"k", {"n": "3"})
    assert letter.position == (None if ids else 3)
    assert bool(letter.id) is ids
    assert letter.error.startswith("KeyError: 'boom' (source 'orders', ")
    assert 'raise KeyError("boom")' in letter.traceback


async def test_skip_counts_and_stop_names_the_place(tmp_path):
    source, sink = topics()
    flow = flow_in(tmp_path)
    flow.source(source).map(refuses, detached=True, on_error=sf.skip).to(sink)
    source.send_all([3, 4])
    source.close_input()
    await flow.run()
    assert sink.values == [4]
    source, sink = topics()
    flow = sf.Flow("g", state=tmp_path / "g.db")
    flow.source(source).map(refuses, detached=True).to(sink)
    source.send_all([4, 3])
    source.close_input()
    with pytest.raises(StepError, match=r"step 'refuses' raised KeyError: 'boom' at .*'in', the record before pos.* 2"):
        await flow.run()


async def test_a_letter_behind_a_detached_step_holds_the_record_that_came_in(tmp_path):
    source, sink = topics()
    flow = flow_in(tmp_path)

    async def same(v: int) -> int:
        return v

    flow.source(source).map(same, detached=True).map(refuse_three, on_error=sf.dead_letter).to(sink)
    source.send_all([1, 3])
    source.close_input()
    await flow.run()
    (letter,) = letters(flow.state_path)
    assert (letter.name, letter.source, json.loads(letter.payload)) == ("refuse_three", "in", 3)


async def test_a_call_over_its_deadline_fails_and_holds_nobody_up():
    flow = sf.Flow("f")
    source = flow.source(sf.MemoryTopic("in", value=int))
    gate = Gate()
    out = source.map(gate, detached=True, deadline="10m", on_error=sf.dead_letter, name="slow")
    async with flow.test() as t:
        await t.send(source, 1, 2, settle=False)
        await until(lambda: gate.begun == [1, 2])
        gate.open(2)
        await t.settle()
        assert t.out(out) == [2]
        await t.advance("11m")
        assert len(letters(t.path)) == 1
        assert t.engine.internal.detached.waiting == 0


async def test_an_output_that_json_does_not_bring_back_is_an_error_of_the_call(tmp_path):
    source, sink = topics()
    flow = flow_in(tmp_path)

    async def unannotated(v):
        return Order("ann", v)

    flow.source(source).map(unannotated, detached=True).to(sink)
    source.send_all([1])
    source.close_input()
    with pytest.raises(StepError, match=r"cannot be stored: .*annotate what the function returns"):
        await flow.run()


async def test_intake_stops_taking_records_while_too_many_wait(tmp_path):
    source, sink = topics()
    flow, gate = flow_in(tmp_path, detached_max=5, fragment_rows_max=2), Gate()
    flow.source(source).map(gate, detached=True, concurrency=2, name="slow").to(sink)
    source.send_all(range(100))
    source.close_input()
    gate.open(*range(100))
    gate._doors.pop(0)
    async with flow.running() as run:
        most = 0
        while len(sink) < 99:
            most = max(most, run.engine.internal.detached.waiting)
            await asyncio.sleep(0)
        gate.open(0)
        await run.wait()
    assert sorted(sink.values) == list(range(100))
    assert 5 <= most <= 5 + 2 * 6, "what is in the channels comes on top"


def test_what_cannot_be_detached_is_refused():
    flow = sf.Flow("f")
    source = flow.source(sf.MemoryTopic("in", value=int), time=lambda v: v)

    async def batched(vs: list[int]) -> list[int]:
        return vs

    async def same(v: int) -> int:
        return v

    with pytest.raises(DefinitionError, match="map_batch step 'batched' cannot be detached"):
        source.map_batch(batched, detached=True)
    with pytest.raises(DefinitionError, match="takes no ordered="):
        source.map(same, detached=True, ordered=False)
    with pytest.raises(DefinitionError, match="needs a stable name"):
        source.map(Gate(), detached=True)
    source.map(same, detached=True).key_by(lambda v: v).window(sf.tumbling("1m")).count(name="n")
    with pytest.raises(DefinitionError, match="what detached step 'same' gives comes when its calls are done"):
        flow.plan()


async def test_a_removed_detached_step_is_refused_while_inputs_wait(tmp_path):
    source, sink = topics()
    flow, gate = flow_in(tmp_path), Gate()
    flow.source(source).map(gate, detached=True, name="slow").to(sink)
    async with flow.running():
        send(source, 1)
        await until(lambda: gate.begun)
    other = flow_in(tmp_path)
    other.source(source).to(sink)
    with pytest.raises(sf.StreamflowError, match="slow"):
        await other.run()


async def test_explain_does_not_count_detached_calls_among_what_commits_wait_for(tmp_path: Path):
    from streamflow.cli.holding import longest_hold

    flow = flow_in(tmp_path)
    gate = Gate()
    flow.source(sf.MemoryTopic("in", value=int)).map(gate, detached=True, name="slow", deadline="1h")
    assert longest_hold(flow.graph()) == []
    assert Engine(flow.job()).internal.detached.calls[0].spec.limits.deadline_seconds == 3600


async def test_a_bounded_input_does_not_wait_for_commits_that_are_far_apart(tmp_path):
    source, sink = topics()
    flow = flow_in(tmp_path, commit_min="1h", commit_max="2h")

    async def later(v: int) -> int:
        await asyncio.sleep(0.002)
        return v

    flow.source(source).map(later, detached=True).to(sink)
    source.send_all(range(5))
    source.close_input()
    async with asyncio.timeout(10):
        await flow.run()
    assert sorted(sink.values) == list(range(5))


async def test_errors_and_outputs_that_are_no_text_are_errors_of_their_call(tmp_path):
    source, sink = topics()
    flow = flow_in(tmp_path)

    async def odd(v: int) -> str:
        if v == 1:
            raise ValueError("\ud800")
        return "\ud800" if v == 2 else "fine"

    flow.source(source).map(odd, detached=True, on_error=sf.dead_letter).to(sink)
    source.send_all([1, 2, 3])
    source.close_input()
    await flow.run()
    assert sink.values == ["fine"]
    assert sorted(letter.payload for letter in letters(flow.state_path)) == [b"1", b"2"]
