"""Time limits and attempts of async calls: timeout, deadline, retry, and what a function does with its cancellation."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

import streamflow as sf
from streamflow.errors import DefinitionError, StepError, StepTimeout
from tests.unit.operators.test_async_map import flow_in, send, topics
from tests.unit.runtime.test_engine import until


async def run_over(flow: sf.Flow, source: sf.MemoryTopic[int], values: list[int]) -> BaseException | None:
    """Runs a flow over some records until it dies of one, or has nothing more to do."""
    send(source, *values)
    source.close_input()
    try:
        await flow.run()
    except StepError as error:
        return error
    return None


async def test_an_attempt_that_takes_too_long_is_cancelled_and_made_again(tmp_path):
    source, sink = topics()
    flow = flow_in(tmp_path)
    tries: list[int] = []
    cancelled: list[int] = []

    @flow.source(source).map(concurrency=4, timeout="30ms", on_error=sf.retry(2, backoff="5ms"))
    async def slow_at_first(v: int) -> int:
        tries.append(v)
        try:
            await asyncio.sleep(5 if tries.count(v) <= v else 0)
        except asyncio.CancelledError:
            cancelled.append(v)
            raise
        return v

    slow_at_first.to(sink)
    assert await run_over(flow, source, [0, 1, 2]) is None
    assert sink.values == [0, 1, 2]
    assert sorted(tries) == [0, 1, 1, 2, 2, 2]
    assert sorted(cancelled) == [1, 2, 2]


async def test_the_error_of_a_timeout_names_step_and_record(tmp_path):
    source, sink = topics()
    flow = flow_in(tmp_path)
    flow.source(source).map(lambda v: asyncio.sleep(5 * v), concurrency=4, timeout="20ms", name="slow").to(sink)
    error = await run_over(flow, source, [0, 1])
    assert isinstance(error, StepTimeout)
    assert isinstance(error, TimeoutError)
    assert error.step == "slow"
    assert str(error) == (
        "an attempt of step 'slow' took longer than its timeout of 0.02 s (source 'in', the record before position 2)"
    )
    assert "timeout=" in error.hint


async def test_the_deadline_ends_all_attempts(tmp_path):
    source, sink = topics()
    flow = flow_in(tmp_path)
    tries: list[float] = []

    @flow.source(source).map(deadline="120ms", timeout="30ms", on_error=sf.retry(100, backoff="1ms"))
    async def never(v: int) -> int:
        tries.append(time.perf_counter())
        await asyncio.sleep(5)
        return v

    never.to(sink)
    error = await run_over(flow, source, [7])
    assert isinstance(error, StepTimeout)
    assert "took longer than its deadline of 0.12 s with" in str(error)
    assert "its last error: StepTimeout" in str(error)
    assert 2 <= len(tries) <= 5
    assert tries[-1] - tries[0] < 0.12


async def test_a_function_that_ignores_its_cancellation_cannot_hold_up_the_rest(tmp_path):
    source, sink = topics()
    flow = flow_in(tmp_path)
    go = asyncio.Event()
    stubborn: list[Any] = []

    @flow.source(source).map(concurrency=1, deadline="40ms", on_error=sf.skip)
    async def deaf(v: int) -> int:
        if v == 0:
            stubborn.append(asyncio.current_task())
            while not go.is_set():
                try:
                    await go.wait()
                except asyncio.CancelledError:
                    continue
        return v

    deaf.to(sink)
    async with flow.running():
        send(source, 0, 1, 2)
        await until(lambda: sink.values == [1, 2])
        assert not stubborn[0].done()
        go.set()
        await until(stubborn[0].done)
    assert sink.values == [1, 2]


async def test_the_default_deadline_is_finite():
    """30 s of virtual time; nothing real is waited for."""
    flow = sf.Flow("f")
    source = flow.source(sf.MemoryTopic("in", value=int))
    left_out = source.map(lambda v: asyncio.Event().wait(), concurrency=2, on_error=sf.skip, name="hangs")
    async with flow.test() as t:
        await t.send(source, 1, settle=False)
        await until(lambda: t.engine.awaits)
        await t.advance("29s")
        before = t.engine.awaits
        await t.advance("2s")
        assert (before, t.engine.awaits) == (True, False)
        assert t.out(left_out) == []


async def test_one_straggler_does_not_stretch_the_time_of_others(tmp_path):
    """The one alarm stands at the oldest call; younger ones that are done must not move it."""
    source, sink = topics()
    flow = flow_in(tmp_path)
    started = time.perf_counter()
    ended: list[float] = []

    @flow.source(source).map(concurrency=4, deadline="150ms", on_error=sf.skip)
    async def some(v: int) -> int:
        try:
            await asyncio.sleep(5 if v == 0 else 0.002)
        finally:
            if v == 0:
                ended.append(time.perf_counter() - started)
        return v

    some.to(sink)
    assert await run_over(flow, source, list(range(300))) is None
    assert sink.values == list(range(1, 300))
    assert 0.15 <= ended[0] < 1


@pytest.mark.parametrize("awaits", [False, True])
async def test_retry_makes_so_many_attempts_and_then_does_what_it_says(tmp_path, awaits):
    source, sink = topics()
    flow = flow_in(tmp_path)
    tries: list[int] = []

    async def flaky(v: int) -> int:
        tries.append(v)
        if awaits:
            await asyncio.sleep(0)
        if tries.count(v) <= v:
            raise ConnectionError(v)
        return v

    policy = sf.retry(2, backoff="1ms", on=(ConnectionError, TimeoutError)).then(sf.skip)
    flow.source(source).map(flaky, concurrency=8, on_error=policy).to(sink)
    assert await run_over(flow, source, [0, 1, 2, 3, 4, 0]) is None
    assert sink.values == [0, 1, 2, 0]
    assert [tries.count(v) for v in range(5)] == [2, 2, 3, 3, 3]


async def test_other_errors_are_not_tried_again(tmp_path):
    source, sink = topics()
    flow = flow_in(tmp_path)
    tries: list[int] = []

    async def broken(v: int) -> int:
        tries.append(v)
        raise LookupError(v)

    flow.source(source).map(broken, on_error=sf.retry(5, on=OSError)).to(sink)
    error = await run_over(flow, source, [1])
    assert "LookupError: 1" in str(error)
    assert tries == [1]


def build_retried(kind: str, stream: Any, function: Any, policy: Any) -> Any:
    keyed = stream.key_by(lambda v: "k", name="by")
    match kind:
        case "map":
            return stream.map(function, on_error=policy, name="s")
        case "filter":
            return stream.filter(function, on_error=policy, name="s")
        case "flat_map":
            return stream.flat_map(lambda v: (function(v) for _ in "x"), on_error=policy, name="s")
        case "map_batch":
            return stream.map_batch(lambda vs: [function(v) for v in vs], on_error=policy, name="s")
        case "key_by":
            return stream.key_by(function, on_error=policy, name="s")
        case "reduce":
            return keyed.reduce(lambda a, v: function(v), of=int, on_error=policy, name="s")
        case "aggregate":
            return keyed.aggregate(int, lambda a, v: function(v), on_error=policy, name="s")

    def body(ctx: Any, v: int) -> Any:
        ctx.state["n"] = ctx.state.get("n", 0) + 1
        yield function(v)
        yield ctx.state["n"]

    return keyed.process(state=dict[str, int], on_error=policy, name="s")(body)


KINDS = ["map", "filter", "flat_map", "map_batch", "key_by", "reduce", "aggregate", "process"]


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("kind", KINDS)
async def test_plain_steps_are_called_again_at_once(tmp_path: Path, kind: str, plain: bool):
    """Half-applied state of a failed attempt does not stay; then the flow stops, and names the step."""
    source, sink = topics()
    flow = flow_in(tmp_path, plain=plain)
    tries: list[int] = []

    def flaky(v: int) -> int:
        tries.append(v)
        if tries.count(v) <= (2 if v == 5 else 99 if v == 9 else 0):
            raise ConnectionError(v)
        return v

    out = build_retried(kind, flow.source(source), flaky, sf.retry(3))
    out.to(sink)
    assert await run_over(flow, source, [1, 5]) is None
    assert tries.count(5) == 3
    if kind == "process":
        assert sink.values == [1, 1, 5, 2]
    elif kind in ("reduce", "aggregate"):
        assert sink.values[-1] == ["k", 5]
    else:
        assert sink.values == [1, 5]


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("kind", KINDS)
async def test_plain_steps_stop_the_flow_when_no_attempt_is_left(tmp_path: Path, kind: str, plain: bool):
    source, sink = topics()
    flow = flow_in(tmp_path, plain=plain)
    tries: list[int] = []

    def flaky(v: int) -> int:
        tries.append(v)
        if v == 9:
            raise ConnectionError(v)
        return v

    build_retried(kind, flow.source(source), flaky, sf.retry(3)).to(sink)
    error = await run_over(flow, source, [1, 9])
    assert isinstance(error, StepError)
    assert error.step == "s"
    assert "ConnectionError: 9" in str(error)
    assert "the record before position" in str(error)
    assert tries.count(9) == 4


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("kind", KINDS)
async def test_plain_steps_leave_out_what_no_attempt_could_do(tmp_path: Path, kind: str, plain: bool):
    source, sink = topics()
    flow = flow_in(tmp_path, plain=plain, fragment_rows_max=1)
    tries: list[int] = []

    def flaky(v: int) -> int:
        tries.append(v)
        if v == 9:
            raise ConnectionError(v)
        return v

    build_retried(kind, flow.source(source), flaky, sf.retry(1).then(sf.skip)).to(sink)
    assert await run_over(flow, source, [1, 9, 2]) is None
    assert tries.count(9) == 2
    if kind == "process":
        assert sink.values == [1, 1, 2, 2]
    elif kind in ("reduce", "aggregate"):
        assert sink.values[-1] == ["k", 2]
    else:
        assert sink.values == [1, 2]


@pytest.mark.parametrize("verb", ["map", "key_by"])
def test_a_plain_function_cannot_wait(verb):
    stream = sf.Flow("f").source(sf.MemoryTopic("in", value=int))
    with pytest.raises(DefinitionError, match="keep the whole event loop waiting"):
        getattr(stream, verb)(abs, on_error=sf.retry(3, backoff="1s"))


@pytest.mark.parametrize("given", [{"times": 0}, {"times": 1.5}, {"times": 3, "on": int}, {"times": 3, "on": ()}])
def test_policies_that_are_none(given):
    with pytest.raises(DefinitionError):
        sf.retry(**given)


def test_waits_double_up_to_a_bound():
    policy = sf.retry(100, backoff="1s")
    assert [policy.wait_after(n, ValueError()) for n in (1, 2, 3, 6, 50)] == [1, 2, 4, 30, 30]
    assert policy.wait_after(101, ValueError()) is None
