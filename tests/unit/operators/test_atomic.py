"""A step call is atomic: a call that raises half way under policy skip leaves state, timers and outputs as before."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

import streamflow as sf
from streamflow.flow import Flow
from tests.unit.plan.driving import drive

plains = pytest.mark.parametrize("plain", [False, True])
SIDE = sf.Output("side", dict)


@dataclass
class Total:
    n: int = 0


def keyed(key: Any = lambda v: "k") -> tuple[Flow, Any]:
    flow = Flow("f")
    return flow, flow.source(sf.MemoryTopic("in")).key_by(key, name="key")


def out(stream: Any, name: str = "out") -> None:
    stream.to(sf.MemoryTopic(name))


def run(flow: Flow, values: list[Any], plain: bool, **more: Any) -> Any:
    return asyncio.run(drive(flow, [(at, 0, value) for at, value in enumerate(values, start=1)], plain=plain, **more))


@plains
def test_process_that_raises_half_way(plain):
    flow, source = keyed()

    @source.process(state=Total, outputs=[SIDE], on_error=sf.skip)
    def p(ctx: sf.Context[str, Total], value: int) -> Iterator[Any]:
        ctx.state.n += value
        ctx.emit(SIDE, {"side": value})
        yield Total(ctx.state.n)
        if value == 100:
            ctx.timer("t", after="1ms")
            ctx.state = Total(-1)
            raise ValueError("half way")
        if value == 7:
            ctx.clear()

    p.on_timer("t")(lambda ctx: [Total(-99)])
    out(p)
    out(p.output(SIDE), "side")
    got = run(flow, [1, 100, 2, 7, 3], plain)
    assert got.sinks["out"] == [Total(1), Total(3), Total(10), Total(3)]
    assert got.sinks["side"] == [{"side": 1}, {"side": 2}, {"side": 7}, {"side": 3}]
    assert got.state == {"p": {"k": Total(3)}, "p@timers": {}}
    assert got.lost == [("p", "source 'in', partition 'p', the record before position 2, key 'k'", "half way")]


@plains
def test_the_first_record_of_a_key_leaves_nothing_behind(plain):
    flow, source = keyed()
    source.aggregate(Total, fail_on(1), name="a", on_error=sf.skip)
    assert run(flow, [1], plain).state == {"a": {}}


def fail_on(bad: int) -> Any:
    def add(total: Any, value: int) -> Any:
        if isinstance(total, Total):
            total.n += value
        else:
            total.append(value)
        if value == bad:
            raise ValueError("half way")
        return total

    return add


@plains
def test_aggregate_that_changes_in_place_and_raises(plain):
    flow, source = keyed()
    out(source.aggregate(Total, fail_on(100), name="a", on_error=sf.skip))
    got = run(flow, [1, 100, 9], plain)
    assert got.sinks["out"] == [("k", Total(1)), ("k", Total(10))]
    assert got.state == {"a": {"k": Total(10)}}


@plains
@pytest.mark.parametrize("bad", [lambda total: 1 / 0, lambda total: (_ for _ in ())])
def test_aggregate_whose_result_raises_or_cannot_leave(plain, bad):
    flow, source = keyed()
    out(source.aggregate(Total, fail_on(0), result=lambda t: bad(t) if t.n == 3 else t.n, name="a", on_error=sf.skip))
    got = run(flow, [1, 2, 4], plain)
    assert got.sinks["out"] == [("k", 1), ("k", 5)]
    assert len(got.lost) == 1


@plains
@pytest.mark.parametrize("policy", [sf.stop, sf.skip])
def test_fold_that_returns_none(plain, policy):
    for verb in ("reduce", "aggregate"):
        flow, source = keyed()
        if verb == "reduce":
            out(source.reduce(lambda a, b: None, name="r", of=int, on_error=policy))
        else:
            out(source.aggregate(int, lambda a, b: None, name="r", on_error=policy))
        if policy is sf.skip:
            assert run(flow, [1, 2, 3], plain).sinks["out"] == ([("k", 1)] if verb == "reduce" else [])
        else:
            with pytest.raises(ExceptionGroup) as caught:
                run(flow, [1, 2, 3], plain)
            assert "returned None" in str(caught.value.exceptions[0])


@plains
def test_flat_map_generator_that_raises_half_way(plain):
    flow = Flow("f")
    source = flow.source(sf.MemoryTopic("in"))
    out(source.flat_map(lambda v: (10 // (v - n) for n in range(3)), name="m", on_error=sf.skip))
    got = run(flow, [5, 1, 9], plain)
    assert got.sinks["out"] == [2, 2, 3, 1, 1, 1]
    assert [place for _, place, _ in got.lost] == ["source 'in', partition 'p', the record before position 2"]


@plains
@pytest.mark.parametrize("kind", ["flat_map", "process"])
def test_a_call_with_too_many_outputs_under_skip_is_left_out(plain, kind):
    flow, source = keyed()
    if kind == "flat_map":
        out(source.flat_map(range, name="m", on_error=sf.skip))
    else:
        out(source.process(state=int, name="m", on_error=sf.skip)(lambda ctx, v: iter(range(v))))
    got = run(flow, [3, 70_000, 2], plain)
    assert got.sinks["out"] == [0, 1, 2, 0, 1]
    assert len(got.lost) == 1


@plains
def test_map_and_list_state_that_are_left_half_way(plain):
    flow, source = keyed()

    @source.process(state=sf.map_state(str, int), on_error=sf.skip)
    def m(ctx: sf.Context[str, sf.MapState[str, int]], value: int) -> None:
        ctx.state[str(value)] = value
        ctx.state.pop("1", None) if value == 100 else None
        if value == 100:
            ctx.state.clear()
            ctx.state["x"] = 0
            raise ValueError("half way")

    @source.process(state=sf.list_state(int), on_error=sf.skip)
    def queue(ctx: sf.Context[str, sf.ListState[int]], value: int) -> Iterator[list[int]]:
        ctx.state.append(value)
        if value == 100:
            ctx.state.drop(2)
            raise ValueError("half way")
        yield list(ctx.state)

    out(queue)
    got = run(flow, [1, 2, 3, 100, 4], plain)
    assert got.sinks["out"][-1] == [1, 2, 3, 4]
    assert got.state["m"] == {"k": {"1": 1, "2": 2, "3": 3, "4": 4}}
    assert got.state["queue"] == {"k": {0: 1, 1: 2, 2: 3, 3: 4}}


@plains
@pytest.mark.parametrize("value", [float("nan"), (1, 2)])
@pytest.mark.parametrize("state", [dict, sf.map_state(str, list)])
def test_state_that_cannot_be_stored_is_left_out_by_the_call_that_made_it(plain, value, state):
    flow, source = keyed()

    @source.process(state=state, on_error=sf.skip)
    def p(ctx: Any, record: Any) -> None:
        ctx.state["x"] = [record]

    got = run(flow, [1.5, value], plain)
    assert got.state["p"] == {"k": {"x": [1.5]}}
    assert "comes back" in got.lost[0][2]


@plains
def test_ttl_is_not_renewed_by_a_call_that_fails(plain):
    flow, source = keyed()

    @source.process(state=Total, ttl="5ms", on_error=sf.skip)
    def p(ctx: sf.Context[str, Total], value: int) -> Iterator[int]:
        ctx.state.n += 1
        if value:
            raise ValueError("no")
        yield ctx.state.n

    out(p)
    rows = [(1, 0, 0), (4, 0, 1), (8, 0, 0)]
    assert asyncio.run(drive(flow, rows, plain=plain)).sinks["out"] == [1, 1]


@plains
@pytest.mark.parametrize("policy", [sf.stop, sf.skip])
def test_every_output_is_the_state_as_it_was_then(plain, policy):
    flow, source = keyed()

    @source.process(state=Total, outputs=[SIDE], on_error=policy)
    def p(ctx: sf.Context[str, Total], value: int) -> Iterator[Total]:
        for _ in range(2):
            ctx.state.n += 1
            ctx.emit(SIDE, {"now": ctx.state})
            yield ctx.state
        ctx.timer("t", after="100ms")

    @p.on_timer("t")
    def t(ctx: sf.Context[str, Total]) -> Iterator[Total]:
        for _ in range(2):
            ctx.state.n += 1
            yield ctx.state

    out(p)
    out(p.output(SIDE), "side")
    out(source.aggregate(Total, fail_on(-1), name="a", on_error=policy), "folded")
    out(source.aggregate(list, fail_on(-1), name="l", on_error=policy), "lists")
    rows = [(1, 0, 1), (1, 0, 1), (1, 0, 1), (200, 0, 1)]
    got = asyncio.run(drive(flow, rows, plain=plain))
    assert [total.n for total in got.sinks["out"]] == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
    assert [side["now"].n for side in got.sinks["side"]] == [1, 2, 3, 4, 5, 6, 9, 10]
    assert [total.n for _, total in got.sinks["folded"]] == [1, 2, 3, 4]
    assert [len(found) for _, found in got.sinks["lists"]] == [1, 2, 3, 4]


@plains
def test_a_timer_that_raises_under_skip_is_spent_and_undone(plain):
    flow, source = keyed(str)

    @source.process(state=Total, outputs=[SIDE], on_error=sf.skip)
    def p(ctx: sf.Context[str, Total], value: int) -> None:
        ctx.timer("t", after="1ms")
        ctx.timer("u", after="1ms")

    @p.on_timer("t")
    def t(ctx: sf.Context[str, Total]) -> Iterator[str]:
        ctx.state.n += 100
        ctx.emit(SIDE, {})
        ctx.cancel_timer("u")
        yield f"t {ctx.key}"
        if ctx.key == "2":
            raise ValueError("no")

    p.on_timer("u")(lambda ctx: [f"u {ctx.key}"])
    out(p)
    out(p.output(SIDE), "side")
    got = asyncio.run(drive(flow, [(1, 0, 1), (1, 0, 2), (9, 0, 3)], plain=plain))
    assert got.sinks["out"] == ["t 1", "u 2"]
    assert got.sinks["side"] == [{}]
    assert got.state["p"] == {"1": Total(100), "2": Total(0), "3": Total(0)}
    assert got.lost == [("p", "a timer, key '2', number 2", "no")]


@plains
@pytest.mark.parametrize("state", [sf.map_state(str, int), sf.list_state(int)])
def test_map_and_list_state_cannot_be_assigned(plain, state):
    flow, source = keyed()

    @source.process(state=state)
    def p(ctx: Any, value: int) -> None:
        ctx.state = {}

    with pytest.raises(ExceptionGroup) as caught:
        run(flow, [1], plain)
    assert "in place" in str(caught.value.exceptions[0])
