"""Functions in threads and processes: order, bounds, errors, a worker that dies, the end."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from typing import Any

import pytest

import streamflow as sf
from streamflow.errors import DefinitionError, StepError
from streamflow.runtime import workers
from tests.unit.operators.test_async_map import flow_in, topics
from tests.unit.runtime.test_engine import until


async def run_over(flow: sf.Flow, source: sf.MemoryTopic[int], values: Any) -> None:
    source.send_all(values)
    source.close_input()
    await flow.run()


class Busy:
    """Counts the threads that are in it."""

    def __init__(self) -> None:
        self.now = self.most = 0
        self.threads: set[int] = set()
        self._lock = threading.Lock()

    def __call__(self, v: int) -> int:
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)
            self.threads.add(threading.get_ident())
        time.sleep(0.001 * (v % 3))
        with self._lock:
            self.now -= 1
        return v * 2


async def test_threads_keep_the_order_and_the_bound(tmp_path):
    source, sink = topics()
    flow, busy = flow_in(tmp_path), Busy()
    flow.source(source).map_thread(busy, workers=3, name="busy").to(sink)
    await run_over(flow, source, range(60))
    assert sink.values == [v * 2 for v in range(60)]
    assert 1 < busy.most <= 3
    assert len(busy.threads) <= 3
    assert threading.get_ident() not in busy.threads


async def test_a_blocked_thread_does_not_block_the_loop(tmp_path):
    source, sink = topics()
    flow, door = flow_in(tmp_path), threading.Event()

    def wait(ctx: sf.Context[Any, Any], v: int) -> str:
        door.wait(10)
        return f"{ctx.key} {v}"

    flow.source(source).key_by(lambda v: f"k{v}").map_thread(wait).to(sink)
    async with flow.running():
        source.send_all([1, 2])
        for _ in range(20):
            await asyncio.sleep(0.001)
        assert sink.values == []
        door.set()
        await until(lambda: sink.values == ["k1 1", "k2 2"])


def stubborn(v: int) -> int:
    if v == 3:
        raise KeyError("three")
    if v == 4:
        raise StopIteration
    return v


@pytest.mark.parametrize("verb", ["map_thread", "map_process"])
async def test_errors_go_by_the_policy(tmp_path, verb):
    source, sink = topics()
    flow = flow_in(tmp_path)
    getattr(flow.source(source), verb)(stubborn, workers=2, on_error=sf.skip).to(sink)
    await run_over(flow, source, range(6))
    assert sink.values == [0, 1, 2, 5]


async def test_an_error_names_the_users_line(tmp_path):
    source, sink = topics()
    flow = flow_in(tmp_path)
    flow.source(source).map_thread(stubborn).to(sink)
    with pytest.raises(StepError, match=r"'stubborn' raised KeyError: 'three' at test_workers.py:\d+ \(source 'in'"):
        await run_over(flow, source, [3])


async def test_a_thread_over_its_deadline_fails_its_record_and_the_stop_waits_a_while_for_it(
    tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(workers, "CLOSE_SECONDS", 0.05)
    source, sink = topics()
    flow, door = flow_in(tmp_path), threading.Event()

    def stuck(v: int) -> int:
        if v == 1:
            door.wait(10)
        return v

    flow.source(source).map_thread(stuck, workers=2, deadline="500ms", on_error=sf.skip).to(sink)
    await run_over(flow, source, [1, 2, 3])
    assert sink.values == [2, 3]
    assert "1 calls of step stuck go on in their threads behind the stop" in caplog.text
    door.set()


def die_of_seven(v: int) -> tuple[int, int]:
    if v == 7:
        os._exit(3)
    time.sleep(0.001)
    return v, os.getpid()


def unsendable(v: int) -> Any:
    return (lambda: v) if v == 2 else v


async def test_processes_keep_the_order_and_only_the_record_that_kills_one_is_lost(tmp_path, caplog):
    source, sink = topics()
    flow = flow_in(tmp_path)
    flow.source(source).map_process(die_of_seven, workers=2, on_error=sf.dead_letter).to(sink)
    await run_over(flow, source, range(20))
    assert [v for v, _ in sink.values] == [v for v in range(20) if v != 7]
    pids = {pid for _, pid in sink.values}
    assert os.getpid() not in pids
    assert len(pids) > 2, "there are new ones"
    assert "a worker process of step die_of_seven died" in caplog.text
    for pid in pids:
        await until(lambda pid=pid: not os.path.exists(f"/proc/{pid}"))  # type: ignore[misc]


async def test_what_cannot_be_sent_says_so(tmp_path):
    source, sink = topics()
    flow = flow_in(tmp_path)
    numbers = flow.source(source)
    numbers.map_process(unsendable, workers=1).to(sink)
    with pytest.raises(StepError, match=r"what the function gave for 2 cannot be sent back from its process: .*pickle"):
        await run_over(flow, source, [1, 2])
    source, sink = topics()
    flow = sf.Flow("g", state=tmp_path / "g.db")

    def made(v: int) -> Any:
        return lambda: v

    flow.source(source).map(made).map_process(unsendable, workers=1).to(sink)
    with pytest.raises(StepError, match=r"the record <function .* cannot be sent to another process: .*pickle"):
        await run_over(flow, source, [1])


def refuses(v: int) -> int:
    raise ValueError(f"{v} is odd")


async def test_an_error_says_where_in_its_process_it_was_raised(tmp_path):
    source, sink = topics()
    flow = flow_in(tmp_path)
    flow.source(source).map_process(refuses, workers=1).to(sink)
    with pytest.raises(StepError, match="raised ValueError: 3 is odd") as caught:
        await run_over(flow, source, [3])
    error = caught.value.__cause__
    assert isinstance(error, ValueError)
    assert 'in refuses\n    raise ValueError(f"{v} is odd")' in str(error.__cause__)


def test_what_no_process_could_call_is_refused():
    flow = sf.Flow("f")
    numbers = flow.source(sf.MemoryTopic("in", value=int))

    def inner(v: int) -> int:
        return v

    def context(ctx: sf.Context[Any, Any], v: int) -> int:
        return v

    async def awaits(v: int) -> int:
        return v

    for bad in (inner, lambda v: v, Busy()):
        with pytest.raises(DefinitionError, match="cannot be found by another process"):
            numbers.map_process(bad)
    with pytest.raises(DefinitionError, match="asks for a context, which cannot leave this process"):
        numbers.map_process(context)  # type: ignore[arg-type]
    for verb in (numbers.map_process, numbers.map_thread):
        with pytest.raises(DefinitionError, match="got the async function"):
            verb(awaits)
        with pytest.raises(DefinitionError, match="workers=0"):
            verb(stubborn, workers=0)
