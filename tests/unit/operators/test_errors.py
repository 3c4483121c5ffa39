"""Where it failed: step, source, partition, position, key and the user's own line, also in functions and timers."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

import streamflow as sf
from streamflow.errors import StepError
from streamflow.flow import Flow
from streamflow.operators.bind import BoundStage
from streamflow.operators.fused import compile_loop
from tests.unit.plan.driving import drive, plan_of

plains = pytest.mark.parametrize("plain", [False, True])


def boom(value: Any) -> Any:
    if value == 3:
        raise KeyError("boom")  # the line
    return value


LINE = boom.__code__.co_firstlineno + 2
SPOT = "source 'in', partition 'p', the record before position 3"


def failure(flow: Flow, plain: bool, rows: Any = ((1, 0, 1), (1, 0, 2), (1, 0, 3), (1, 0, 4))) -> StepError:
    with pytest.raises(ExceptionGroup) as caught:
        asyncio.run(drive(flow, rows, plain=plain))
    (error,) = caught.value.exceptions
    assert isinstance(error, StepError)
    return error


def shapes() -> dict[str, Any]:
    def on_key(stream: Any) -> Any:
        return stream.key_by(lambda v: f"k{v % 2}", name="key")

    return {
        "map": lambda s: s.map(boom, name="bad"),
        "behind filter": lambda s: s.filter(lambda v: v > 1, name="f").map(boom, name="bad"),
        "filter": lambda s: s.filter(boom, name="bad"),
        "flat_map": lambda s: s.flat_map(lambda v: [v, boom(v)], name="bad"),
        "lazy flat_map": lambda s: s.flat_map(lambda v: (boom(n) for n in [0, v]), name="bad"),
        "behind flat_map": lambda s: s.flat_map(lambda v: [v], name="f").map(boom, name="bad").map(str, name="after"),
        "inspect": lambda s: s.inspect(boom, name="bad"),
        "key_by": lambda s: s.key_by(lambda v: str(boom(v)), name="bad"),
        "branch": lambda s: s.branch(boom, sf.otherwise, name="bad")[0],
        "split": lambda s: s.split(boom, [1, 2, 3, 4], name="bad")[1],
        "merge": lambda s: (
            s.filter(lambda v: True, name="f").merge(s.filter(lambda v: False, name="g")).map(boom, name="bad")
        ),
        "dedup": lambda s: s.dedup(boom, name="bad"),
        "map_batch": lambda s: s.map_batch(lambda v: v, name="b").map(boom, name="bad"),
        "keyed map": lambda s: on_key(s).map(boom, name="bad"),
        "keyed reduce": lambda s: on_key(s).reduce(lambda a, b: boom(b), name="bad", of=int),
        "keyed aggregate": lambda s: on_key(s).aggregate(int, lambda a, b: boom(b), name="bad"),
        "keyed result": lambda s: on_key(s).aggregate(int, lambda a, b: b, result=boom, name="bad"),
        "keyed process": lambda s: on_key(s).process(state=int, name="bad")(lambda ctx, v: [boom(v)]),
        "keyed lazy process": lambda s: on_key(s).process(state=int, name="bad")(lambda ctx, v: (boom(v) for _ in "x")),
        "keyed behind process": lambda s: (
            on_key(s).process(state=int, name="p")(lambda ctx, v: [v]).map(boom, name="bad")
        ),
    }


@plains
@pytest.mark.parametrize("shape", shapes())
def test_a_step_that_raises(plain, shape):
    flow = Flow("f")
    stream = shapes()[shape](flow.source(sf.MemoryTopic("in")))
    stream.to(sf.MemoryTopic("out"))
    error = failure(flow, plain)
    key = ", key 'k1'" if shape.startswith("keyed") else ""
    assert str(error) == f"step 'bad' raised KeyError: 'boom' at test_errors.py:{LINE} ({SPOT}{key})"
    assert error.step == "bad"
    assert "sf.skip" in error.hint


def test_map_batch_names_the_step_and_the_number():
    flow = Flow("f")
    flow.source(sf.MemoryTopic("in")).map_batch(lambda values: [boom(v) for v in values], name="bad").to(
        sf.MemoryTopic("o")
    )
    assert str(failure(flow, False)).startswith(
        f"step 'bad' raised KeyError: 'boom' at test_errors.py:{LINE} (source 'in'"
    )


@plains
@pytest.mark.parametrize("place", ["handler", "behind", "function"])
def test_a_timer_that_raises(plain, place):
    flow = Flow("f")
    keyed = flow.source(sf.MemoryTopic("in")).key_by(lambda v: f"k{v}", name="key")

    @keyed.process(state=int)
    def p(ctx: sf.Context[str, int], value: int) -> list[int]:
        ctx.timer("quiet", after="1ms")
        return [0]

    p.on_timer("quiet")(lambda ctx: [boom(3)] if place == "handler" else [3])
    behind: Any = p if place != "function" else p.merge(p.filter(lambda v: False, name="none"))
    behind.map(boom, name="m").to(sf.MemoryTopic("out"))
    error = failure(flow, plain, [(1, 0, 8), (5, 0, 9)])
    name = "p" if place == "handler" else "m"
    assert str(error) == (
        f"step {name!r} raised KeyError: 'boom' at test_errors.py:{LINE} (a timer, key 'k8', number 2)"
    )


@plains
def test_the_line_is_the_users_even_if_a_library_raised(plain):
    flow = Flow("f")
    flow.source(sf.MemoryTopic("in")).map(lambda v: json.loads(v or ""), name="parse").to(sf.MemoryTopic("out"))
    line = test_the_line_is_the_users_even_if_a_library_raised.__code__.co_firstlineno + 3
    error = failure(flow, plain, [(1, 0, "{")])
    assert f"at test_errors.py:{line} (" in str(error)


@plains
@pytest.mark.parametrize("keys", [[1, True], [1, 1.0], ["a", None], [("a", 1), ("a", "b")]])
def test_a_key_of_another_type(plain, keys):
    flow = Flow("f")
    flow.source(sf.MemoryTopic("in")).key_by(lambda v: v, name="by").count(name="n").to(sf.MemoryTopic("out"))
    error = failure(flow, plain, [(1, 0, key) for key in keys])
    assert "'by'" in str(error)
    assert "position 2" in str(error)


def test_a_loop_compiled_again_leaves_no_text_behind():
    import linecache

    flow = Flow("compiled-often")
    flow.source(sf.MemoryTopic("in")).map(boom, name="bad").to(sf.MemoryTopic("out"))
    plan = plan_of(flow)
    bound = BoundStage(plan.graph, plan.stages[0], lambda *lost: None)
    for _ in range(50):
        compile_loop(bound)
    assert len([name for name in linecache.cache if "compiled-often" in name]) == 1
