"""Async map, filter, flat_map and batch steps: order, windows, barriers, first steps, the place of an error."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import streamflow as sf
from streamflow.errors import DefinitionError, StepError
from streamflow.operators.line import NUMBERS_AHEAD_MAX
from tests.unit.runtime.test_engine import until


class Gate:
    """Calls that wait until they are told to end, and how many do."""

    def __init__(self) -> None:
        self.begun: list[Any] = []
        self.ended: list[Any] = []
        self.running = self.most = 0
        self._doors: dict[Any, asyncio.Event] = {}

    async def __call__(self, value: Any) -> Any:
        self.begun.append(value)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self._doors.setdefault(value, asyncio.Event()).wait()
        finally:
            self.running -= 1
        self.ended.append(value)
        return value

    def open(self, *values: Any) -> None:
        for value in values:
            self._doors.setdefault(value, asyncio.Event()).set()


def topics() -> tuple[sf.MemoryTopic[int], sf.MemoryTopic[Any]]:
    return sf.MemoryTopic("in", value=int), sf.MemoryTopic("out", value=Any)


def flow_in(tmp_path: Path, **settings: Any) -> sf.Flow:
    return sf.Flow("f", state=tmp_path / "f.db", settings=sf.Settings(**settings))


def send(topic: sf.MemoryTopic[int], *values: int) -> None:
    for value in values:
        topic.send(value)


async def test_results_keep_the_order_of_their_records(tmp_path):
    source, sink = topics()
    flow, gate = flow_in(tmp_path), Gate()
    flow.source(source).map(gate, concurrency=4, name="gate").to(sink)
    async with flow.running():
        send(source, *range(6))
        await until(lambda: gate.begun == [0, 1, 2, 3])
        gate.open(1, 2, 3)
        await until(lambda: gate.begun == [0, 1, 2, 3, 4, 5])
        gate.open(4, 5)
        await until(lambda: gate.ended == [1, 2, 3, 4, 5])
        assert sink.values == []
        gate.open(0)
        await until(lambda: len(sink.values) == 6)
    assert sink.values == list(range(6))
    assert gate.most == 4


async def test_the_finished_prefix_goes_on_at_once(tmp_path):
    """What lies behind the step sees the first records while the last one of their batch is still awaited."""
    source, sink = topics()
    flow, gate = flow_in(tmp_path), Gate()
    seen: list[int] = []
    flow.source(source).map(gate, concurrency=4, name="gate").inspect(seen.append, name="seen").to(sink)
    async with flow.running():
        send(source, *range(4))
        gate.open(0, 1, 3)
        await until(lambda: len(gate.ended) == 3)
        await until(lambda: seen == [0, 1])
        assert sink.values == []  # the commit waits for the record before its barrier
        gate.open(2)
        await until(lambda: len(sink.values) == 4)
    assert seen == [0, 1, 2, 3]


async def test_the_window_bounds_how_far_others_get_ahead(tmp_path):
    source, sink = topics()
    flow, gate = flow_in(tmp_path), Gate()
    flow.source(source).map(gate, concurrency=2, window=5, name="gate").to(sink)
    gate.open(*range(1, 100))
    async with flow.running():
        send(source, *range(30))
        await until(lambda: len(gate.ended) == 4)
        await asyncio.sleep(0.05)
        assert gate.begun == [0, 1, 2, 3, 4]
        gate.open(0)
        await until(lambda: len(sink.values) == 30)
    assert sink.values == list(range(30))


async def test_no_more_than_so_many_batches_are_taken_ahead(tmp_path):
    source, sink = topics()
    # a record per number
    flow, gate = flow_in(tmp_path, fragment_rows_max=1), Gate()
    flow.source(source).map(gate, concurrency=500, name="gate").to(sink)
    async with flow.running() as run:
        send(source, *range(500))
        await until(lambda: len(gate.begun) == NUMBERS_AHEAD_MAX)
        await asyncio.sleep(0.05)
        assert len(gate.begun) == NUMBERS_AHEAD_MAX
        assert run.engine.awaits
        gate.open(*range(500))
        await until(lambda: len(sink.values) == 500)
    assert sink.values == list(range(500))


async def test_without_order_a_slow_call_holds_up_nobody_in_its_batch(tmp_path):
    source, sink = topics()
    flow, gate = flow_in(tmp_path), Gate()
    seen: list[int] = []
    flow.source(source).map(gate, concurrency=8, ordered=False, name="gate").inspect(seen.append, name="seen").to(sink)
    async with flow.running():
        send(source, *range(8))
        await until(lambda: gate.running == 8)
        gate.open(5)
        await until(lambda: seen == [5])
        gate.open(7, 3)
        await until(lambda: sorted(seen) == [3, 5, 7])
        gate.open(*range(8))
        await until(lambda: len(sink.values) == 8)
    assert sorted(sink.values) == list(range(8))
    assert sink.values[0] == 5


async def test_without_order_each_key_keeps_its_own(tmp_path):
    source, sink = topics()
    flow, gate = flow_in(tmp_path), Gate()
    seen: list[int] = []
    keyed = flow.source(source).key_by(lambda v: v % 3, name="by")
    keyed.map(gate, concurrency=12, ordered=False, name="gate").inspect(seen.append, name="seen").to(sink)
    async with flow.running():
        send(source, *range(12))
        await until(lambda: gate.running == 12)
        gate.open(*reversed(range(1, 12)))
        await until(lambda: len(seen) == 8)  # those of key 0 wait for its first record
        gate.open(0)
        await until(lambda: len(sink.values) == 12)
    for key in range(3):
        assert [v for v in seen if v % 3 == key] == list(range(key, 12, 3))


async def test_a_merge_behind_a_step_without_order_still_gives_the_order_of_the_records(tmp_path):
    source, sink = topics()
    flow, gate = flow_in(tmp_path), Gate()
    left, right = flow.source(source).branch(lambda v: v % 2 == 0, sf.otherwise, name="sides")
    left.map(gate, concurrency=8, ordered=False, name="gate").merge(right).to(sink)
    async with flow.running():
        send(source, *range(10))
        await until(lambda: gate.running == 5)
        gate.open(8, 6, 4, 2)
        await until(lambda: gate.running == 1)
        gate.open(0)
        await until(lambda: len(sink.values) == 10)
    assert sink.values == list(range(10))


async def test_filter_flat_map_and_generators(tmp_path):
    source, sink = topics()
    flow = flow_in(tmp_path)
    stream = flow.source(source)

    @stream.filter
    async def odd(v: int) -> bool:
        await asyncio.sleep(0)
        return v % 2 == 1

    @odd.flat_map(concurrency=3)
    async def twice(v: int) -> list[int]:
        await asyncio.sleep(0.001 * (9 - v))
        return [v, -v]

    @twice.flat_map
    async def counted(v: int) -> AsyncIterator[str]:
        for n in range(abs(v) // 4):
            await asyncio.sleep(0)
            yield f"{v}.{n}"

    counted.to(sink)
    async with flow.running():
        send(source, *range(10))
        await until(lambda: len(sink.values) == 8)
    assert sink.values == ["5.0", "-5.0", "7.0", "-7.0", "9.0", "9.1", "-9.0", "-9.1"]


async def test_a_batch_function_gets_full_lists_and_gives_them_back_in_order(tmp_path):
    source, sink = topics()
    flow = flow_in(tmp_path, commit_min="1500ms")
    sizes: list[int] = []

    async def plus_one(values: list[int]) -> list[int]:
        sizes.append(len(values))
        await asyncio.sleep(0.002 * (values[0] % 3))
        return [v + 1 for v in values]

    flow.source(source).map_batch(plus_one, size=10, within="1s", concurrency=3).to(sink)
    async with flow.running():
        send(source, -1)
        await until(lambda: len(sink.values) == 1)  # the first barrier does not wait
        for v in range(25):
            source.send(v)
            await asyncio.sleep(0.001)
        await until(lambda: len(sink.values) == 26)
    assert sink.values == list(range(26))
    # a list waits to be full, but not past its time or a barrier
    assert sizes[:3] == [1, 10, 10]
    assert sum(sizes) == 26


async def test_a_batch_that_gives_another_number_of_records(tmp_path):
    source, sink = topics()
    flow = flow_in(tmp_path)

    async def summed(values: list[int]) -> list[int]:
        return [sum(values)]

    flow.source(source).map_batch(summed, size=1000).to(sink)
    async with flow.running():
        send(source, *range(100))
        await until(lambda: sum(sink.values) == sum(range(100)))
    assert 1 <= len(sink.values) < 100


async def test_calls_that_do_not_wait_need_no_task(tmp_path):
    source, sink = topics()
    flow = flow_in(tmp_path)
    tasks: set[Any] = set()

    @flow.source(source).map(concurrency=2)
    async def cached(v: int) -> int:
        tasks.add(asyncio.current_task())
        return v

    cached.to(sink)
    async with flow.running():
        send(source, *range(1000))
        await until(lambda: len(sink.values) == 1000)
    assert sink.values == list(range(1000))
    assert len(tasks) == 1


async def test_a_first_step_runs_as_the_task_that_goes_on_with_it(tmp_path):
    """Time-outs and task groups hold on to the task in which they are entered."""
    source, sink = topics()
    flow = flow_in(tmp_path)
    var: contextvars.ContextVar[int] = contextvars.ContextVar("var")

    @flow.source(source).map(concurrency=8)
    async def careful(v: int) -> str:
        before = asyncio.current_task()
        var.set(v)
        try:
            async with asyncio.timeout(0.01 if v % 4 == 1 else 5):
                async with asyncio.TaskGroup() as group:
                    part = group.create_task(asyncio.sleep(0.001, v))
                    if v % 4 == 1:
                        await asyncio.sleep(5)
        except TimeoutError:
            return f"{v} timed out"
        assert asyncio.current_task() is before
        assert var.get() == v
        return f"{part.result()} done"

    careful.to(sink)
    async with flow.running():
        send(source, *range(8))
        await until(lambda: len(sink.values) == 8)
    assert sink.values == [f"{v} timed out" if v % 4 == 1 else f"{v} done" for v in range(8)]


async def test_an_error_names_step_record_key_and_line(tmp_path):
    source, sink = topics()
    flow = flow_in(tmp_path)

    async def fetch(v: int) -> int:
        await asyncio.sleep(0.001)
        if v == 3:
            raise KeyError("boom")
        return v

    line = fetch.__code__.co_firstlineno + 3
    flow.source(source).key_by(lambda v: f"k{v}", name="by").map(fetch, concurrency=4).to(sink)
    send(source, *range(6))
    source.close_input()
    with pytest.raises(StepError) as caught:
        await flow.run()
    assert str(caught.value) == (
        f"step 'fetch' raised KeyError: 'boom' at test_async_map.py:{line} "
        "(source 'in', the record before position 4, key 'k3')"
    )
    assert caught.value.step == "fetch"
    assert sink.values == []


async def test_records_that_fail_are_left_out_and_counted(tmp_path):
    source, sink = topics()
    flow = flow_in(tmp_path)
    lost: list[tuple[str, str]] = []

    class Seen(sf.Instrument):
        def skipped(self, step: str, place: str, error: Exception) -> None:
            lost.append((step, place))

    @flow.source(source).map(concurrency=8, on_error=sf.skip)
    async def fetch(v: int) -> int:
        if v % 3 == 0:
            await asyncio.sleep(0.002)
        if v % 2:
            raise ValueError(v)
        return v

    fetch.to(sink)
    async with flow.running(Seen()):
        send(source, *range(10))
        await until(lambda: len(sink.values) == 5)
    assert sink.values == [0, 2, 4, 6, 8]
    assert lost == [("fetch", f"source 'in', the record before position {v + 1}") for v in (1, 3, 5, 7, 9)]


async def test_the_context_of_a_call_is_its_own_and_its_id_is_the_same_after_a_crash():
    flow = sf.Flow("f")
    source = flow.source(sf.MemoryTopic("in", value=int))
    calls: dict[int, set[str]] = {}

    @source.key_by(lambda v: f"k{v}", name="by").map(concurrency=4)
    async def called(ctx: sf.Context[str, None], v: int) -> list[Any]:
        await asyncio.sleep(0.001 * (5 - v))
        calls.setdefault(v, set()).add(ctx.id)
        return [ctx.key, v]

    async with flow.test() as t:
        await t.send(source, 1, 2, settle=False)
        while not calls:
            await asyncio.sleep(0)
        await t.crash()
        await t.send(source, 3, 4)
        assert t.out(called) == [[f"k{v}", v] for v in (1, 2, 3, 4)]
    assert [len(ids) for ids in calls.values()] == [1, 1, 1, 1]
    assert len({next(iter(ids)) for ids in calls.values()}) == 4


async def test_calls_are_cancelled_when_the_flow_is_aborted(tmp_path):
    source, sink = topics()
    flow = flow_in(tmp_path)
    cleaned: list[int] = []
    begun: list[int] = []

    @flow.source(source).map(concurrency=4)
    async def stuck(v: int) -> int:
        begun.append(v)
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0.01)
            cleaned.append(v)
        return v

    stuck.to(sink)
    task = asyncio.create_task(flow.run())
    send(source, 1, 2)
    await until(lambda: begun == [1, 2])
    task.cancel()
    await asyncio.sleep(0.05)
    assert not task.done()  # a stop waits for what was taken
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert sorted(cleaned) == [1, 2]
    assert [t for t in asyncio.all_tasks() if "stuck" in t.get_name()] == []


async def test_a_stop_waits_for_the_calls_before_it(tmp_path):
    source, sink = topics()
    flow, gate = flow_in(tmp_path), Gate()
    flow.source(source).map(gate, concurrency=4, name="gate").to(sink)
    async with flow.running() as run:
        send(source, 1, 2, 3)
        await until(lambda: gate.running == 3)
        run.stop()
        await asyncio.sleep(0.02)
        gate.open(1, 2, 3)
    assert sink.values == [1, 2, 3]


async def test_a_function_that_cannot_be_awaited_is_told(tmp_path):
    source, sink = topics()
    flow = flow_in(tmp_path)
    plain: Any = lambda v: v  # noqa: E731
    flow.source(source).map(plain, concurrency=4, name="plain").to(sink)
    source.send(1)
    source.close_input()
    with pytest.raises(StepError, match="'plain' returned 1, which cannot be awaited"):
        await flow.run()


async def test_a_plain_function_may_give_what_is_awaited(tmp_path):
    source, sink = topics()
    flow = flow_in(tmp_path)
    flow.source(source).map(lambda v: asyncio.sleep(0.001, v * 2), concurrency=4, name="lambda").to(sink)
    async with flow.running():
        send(source, 1, 2)
        await until(lambda: sink.values == [2, 4])


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"concurrency": 0}, "concurrency=0"),
        ({"concurrency": "many"}, "concurrency='many'"),
        ({"concurrency": 8, "window": 4}, "less than concurrency"),
        ({"timeout": "0ms"}, "leaves no time"),
        ({"timeout": "60s"}, "longer than its deadline"),
        ({"deadline": "0s"}, "leaves no time"),
        ({"speed": 3}, "speed="),
    ],
)
def test_limits_that_are_none(limits, said):
    flow = sf.Flow("f")
    with pytest.raises(DefinitionError, match=said):
        flow.source(sf.MemoryTopic("in", value=int)).map(Gate(), name="g", **limits)


def test_verbs_that_stay_plain_say_so():
    flow = sf.Flow("f")
    stream = flow.source(sf.MemoryTopic("in", value=int))
    with pytest.raises(DefinitionError, match="takes a plain one"):
        stream.key_by(Gate().__call__)
