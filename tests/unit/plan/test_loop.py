"""The generated loop against the plain executor and against itself: random flows, cuts, batch and channel sizes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from operator import itemgetter
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import streamflow as sf
from streamflow.batch import FRAGMENT_ROWS_MAX
from streamflow.flow import Flow
from streamflow.operators.bind import BoundStage
from streamflow.operators.fused import compile_loop
from streamflow.operators.plain import plain_loop
from streamflow.plan import make_plan
from tests.unit.plan.driving import drive, numbers, plan_of
from tests.unit.plan.random_flows import SIDE, Steps, flows, records

slow = settings(
    max_examples=120,
    deadline=None,
    # not `explain`, which looks at files while it traces: the detector of blocking calls would see that
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def flow_of(*names: str) -> tuple[Flow, Any]:
    flow = Flow("f")
    source = flow.source(sf.MemoryTopic("in"))
    return flow, source


@slow
@given(flows(), records, st.sampled_from([1, 7, 512]), st.sampled_from([0, 1, 3]))
def test_generated_loop_gives_the_rows_of_the_plain_executor(both, rows, size, cut):
    flow, _ = both
    generated = asyncio.run(drive(flow, rows, size=size, cut=cut))
    plain = asyncio.run(drive(flow, rows, size=size, cut=cut, plain=True))
    assert generated.exits == plain.exits
    assert generated.state == plain.state
    # per step in order; stages work side by side
    assert sorted(generated.lost, key=itemgetter(0)) == sorted(plain.lost, key=itemgetter(0))


@slow
@given(flows(), records, st.sampled_from([1, 7, 512]), st.sampled_from([1, 2, 64]), st.sampled_from([0, 1, 3]))
def test_stages_and_merges_give_the_order_of_one_fused_loop_at_any_size(both, rows, size, capacity, cut):
    flow, fused = both
    assert len(make_plan(fused.graph()).stages) == 1
    expected = asyncio.run(drive(fused, rows, size=512))
    run = asyncio.run(drive(flow, rows, size=size, capacity=capacity, cut=cut))
    assert run.sinks == expected.sinks
    assert run.state == expected.state
    assert sorted(step for step, _, _ in run.lost) == sorted(step for step, _, _ in expected.lost)


@slow
@given(flows(watermarks=True), records, st.sampled_from([1, 7, 512]), st.sampled_from([1, 64]), st.sampled_from([0, 3]))
def test_what_watermarks_bring_about_is_the_same_in_every_form_of_a_flow(both, rows, size, capacity, cut):
    """When windows close depends on where numbers end, so all run at one size."""
    flow, fused = both
    expected = asyncio.run(drive(fused, rows, size=size))
    staged = asyncio.run(drive(flow, rows, size=size, capacity=capacity, cut=cut))
    assert staged.sinks == expected.sinks
    assert staged.state == expected.state
    plain = asyncio.run(drive(flow, rows, size=size, cut=cut, plain=True))
    assert asyncio.run(drive(flow, rows, size=size, cut=cut)).exits == plain.exits
    assert staged.state == plain.state


def test_taps_of_the_plain_executor_do_not_break_promises():
    flow, source = flow_of()
    first = source.map(lambda v: v, name="first")
    doubled = first.map_batch(lambda values: [v * 2 for v in values], name="doubled")
    first.merge(doubled, name="both").to(sf.MemoryTopic("out"))
    plan = plan_of(flow)
    bound = BoundStage(plan.graph, plan.stages[0], lambda *lost: None)
    (part,) = numbers(plan.graph, [(1, 0, 1), (1, 0, 2)], 512)
    upto: tuple[int, ...] = ()
    for outs in plain_loop(bound, [first._port])(part):
        assert all(origin > upto for out in outs for origin in out.origins or ())
        upto = outs[0].upto or upto


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("policy", [sf.stop, sf.skip])
def test_deep_chain_of_expanding_steps(plain, policy):
    flow, stream = flow_of()
    for n in range(40):
        stream = stream.flat_map(lambda v, n=n: [v] if n % 8 else [v, v + 1], name=f"s{n}", on_error=policy)
    stream.to(sf.MemoryTopic("out"))
    run = asyncio.run(drive(flow, [(1, 0, 0)], plain=plain))
    assert sorted(run.sinks["out"]) == sorted(bin(n).count("1") for n in range(32))


def test_long_chain_of_maps_and_many_diamonds_can_be_written():
    flow, stream = flow_of()
    for n in range(150):
        stream = stream.map(lambda v: v + 1, name=f"s{n}")
    for n in range(40):
        stream = stream.filter(lambda v: True, name=f"l{n}").merge(stream.filter(lambda v: False, name=f"r{n}"))
    stream.to(sf.MemoryTopic("out"))
    assert asyncio.run(drive(flow, [(1, 0, 5)])).sinks["out"] == [155]


# -- the laws of a fragment -----------------------------------------------------------------------------------------


def laws_of(flow: Flow, rows: list[tuple[int, int, Any]], plain: bool = False) -> Iterator[list[Any]]:
    plan = plan_of(flow)
    bound = BoundStage(plan.graph, plan.stages[0], lambda *lost: None)
    loop = plain_loop(bound) if plain else compile_loop(bound)
    for part in numbers(plan.graph, rows, 512):
        yield list(loop(part))


@pytest.mark.parametrize("plain", [False, True])
def test_last_is_marked_once_and_only_at_the_end(plain):
    flow, source = flow_of()
    source.flat_map(range, name="many").to(sf.MemoryTopic("out"))
    for fragments in laws_of(flow, [(1, 0, 1500), (2, 0, 0), (3, 0, 3)], plain):
        lasts = [out.last for outs in fragments for out in outs]
        assert lasts == [False] * (len(lasts) - 1) + [True]


def test_a_fragment_that_is_not_last_gives_none_that_is():
    flow, source = flow_of()
    source.flat_map(range, name="many").to(sf.MemoryTopic("out"))
    plan = plan_of(flow)
    loop = compile_loop(BoundStage(plan.graph, plan.stages[0], lambda *lost: None))
    (part,) = numbers(plan.graph, [(1, 0, FRAGMENT_ROWS_MAX + 1)], FRAGMENT_ROWS_MAX)
    assert [out.last for (out,) in loop(part._replace(last=False, upto=(0,)))] == [False, False]


@pytest.mark.parametrize("kind", ["flat_map", "process", "timer", "side", "nested"])
def test_one_record_that_becomes_a_million_stays_bounded(kind):
    total = 1_000_000 if kind in ("flat_map", "nested") else 60_000
    flow, source = flow_of()
    keyed = source.key_by(lambda v: "k", name="key")
    live = most = 0

    def many(count: int) -> Iterator[int]:
        nonlocal live
        for value in range(count):
            live += 1
            yield value

    if kind == "flat_map":
        out = source.flat_map(lambda v: many(total), name="many")
    elif kind == "nested":
        out = source.flat_map(lambda v: range(total // 1000), name="a").flat_map(lambda v: many(1000), name="b")
    else:
        process = keyed.process(state=int, outputs=[SIDE], name="p")(
            lambda ctx, v: many(total) if kind == "process" else _emit(ctx, kind, total)
        )
        process.on_timer("t")(lambda ctx: many(total))
        out = process.output(SIDE) if kind == "side" else process
    out.to(sf.MemoryTopic("out"))
    plan = plan_of(flow)
    loop = compile_loop(BoundStage(plan.graph, plan.stages[0], lambda *lost: None))
    rows = 0
    for part in numbers(plan.graph, [(1, 0, 1), (5, 0, 2)] if kind == "timer" else [(1, 0, 1)], 512):
        for (fragment,) in loop(part):
            rows += len(fragment.values)
            most = max(most, live)
            live = 0
            assert len(fragment.values) <= FRAGMENT_ROWS_MAX
    assert rows == total
    assert most <= FRAGMENT_ROWS_MAX + 1


def _emit(ctx: Any, kind: str, total: int) -> None:
    if kind == "timer":
        ctx.timer("t", after="1ms") if ctx.now_ms == 1 else None
    else:
        for value in range(total):
            ctx.emit(SIDE, value)


@pytest.mark.parametrize("plain", [False, True])
def test_timers_fire_before_the_rows_of_their_number_and_once(plain):
    flow, source = flow_of()

    def call(ctx: sf.Context[str, int], value: int) -> list[Any]:
        ctx.timer("t", after="1ms")
        return [("row", value)]

    process = source.key_by(str, name="key").process(state=int, name="p")(call)
    process.on_timer("t")(lambda ctx: [("timer", ctx.key)])
    process.to(sf.MemoryTopic("out"))
    run = asyncio.run(drive(flow, [(1, 0, 2), (1, 0, 1), (9, 0, 3), (9, 0, 4)], size=1, plain=plain))
    assert run.sinks["out"] == [("row", 2), ("row", 1), ("timer", "1"), ("timer", "2"), ("row", 3), ("row", 4)]


def test_timers_of_a_number_without_rows_and_of_one_that_may_not_fire():
    flow, source = flow_of()
    steps = Steps(1, sf.stop)
    process = source.key_by(lambda v: "k", name="key").process(state=dict, name="p", outputs=[SIDE])(steps.process)
    process.on_timer("a")(lambda ctx: ["a"])
    process.on_timer("b")(lambda ctx: ["b"])
    process.to(sf.MemoryTopic("out"))
    plan = plan_of(flow)
    loop = compile_loop(BoundStage(plan.graph, plan.stages[0], lambda *lost: None))
    parts = list(numbers(plan.graph, [(1, 0, 4)], 1))
    assert [out.values for part in parts for (out,) in loop(part)] == [[{"n": 4}, {"n": 4, "m": 8}]]
    late = parts[0].batch.__class__(2, 50, (), None, fires=False)
    empty = parts[0]._replace(batch=late, values=[])
    assert [out.values for (out,) in loop(empty)] == [[]]
    may = parts[0].batch.__class__(3, 50)
    assert [out.values for (out,) in loop(empty._replace(batch=may))] == [["a"]]
