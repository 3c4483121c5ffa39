"""A flow inside somebody's process: it changes nothing there, and ends when it must."""

from __future__ import annotations

import asyncio
import gc
import importlib
import logging
import os
import pkgutil
import random
import signal
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import pytest

import streamflow
import streamflow as sf
from streamflow.errors import DefinitionError, StepError, StreamflowError
from tests.unit.operators.test_async_map import Gate, flow_in, send, topics
from tests.unit.runtime.test_engine import until


def handlers() -> dict[int, Any]:
    return {number: signal.getsignal(number) for number in signal.valid_signals()}


def of_the_process() -> dict[str, Any]:
    """What a library could change in a process without being asked."""
    root = logging.getLogger()
    return {
        "signals": handlers(),
        "wakeup": signal.set_wakeup_fd(-1),
        "root": (root.level, list(root.handlers), root.disabled),
        "loggers": {
            name: (logger.level, list(logger.handlers), logger.propagate, logger.disabled)
            for name in ("streamflow", "asyncio", "aiosqlite")
            for logger in [logging.getLogger(name)]
        },
        "warnings": list(warnings.filters),
        "hooks": (sys.excepthook, threading.excepthook, sys.unraisablehook),
        "policy": asyncio.get_event_loop_policy(),
        "interval": sys.getswitchinterval(),
        "recursion": sys.getrecursionlimit(),
        "collector": (gc.isenabled(), gc.get_threshold(), gc.get_freeze_count(), len(gc.callbacks)),
        "random": random.getstate(),
        "folder": os.getcwd(),
        "environment": dict(os.environ),
        "path": list(sys.path),
    }


def of_the_loop() -> tuple[Any, ...]:
    loop: Any = asyncio.get_running_loop()
    return loop.get_exception_handler(), loop.get_task_factory(), loop.get_debug(), dict(loop._signal_handlers)


def every_kind_of_step(
    folder: Path, source: sf.MemoryTopic[int], sink: sf.MemoryTopic[Any], name: str = "f"
) -> sf.Flow:
    flow = sf.Flow(name, state=folder / f"{name}.db", settings=sf.Settings(commit_min="0ms"))
    flow.resource(asyncio.Event)

    @flow.source(source).map(concurrency=4)
    async def awaited(v: int) -> int:
        await asyncio.sleep(0)
        return v

    async def detached(v: int) -> int:
        return v

    slow = awaited.map(detached, detached=True).map_thread(abs, workers=1)
    slow.key_by(lambda v: v % 2, name="by").count(name="n").to(sink)
    return flow


async def test_it_changes_nothing_in_its_process_while_it_runs_and_afterwards(tmp_path):
    source, sink = topics()
    process, loop = of_the_process(), of_the_loop()
    async with every_kind_of_step(tmp_path, source, sink).running():
        source.send_all(range(5))
        await until(lambda: len(sink) == 5)
        assert of_the_process() == process
        assert of_the_loop() == loop
    assert of_the_process() == process
    assert of_the_loop() == loop
    threads = [thread.name for thread in threading.enumerate() if "streamflow" in thread.name]
    for _ in range(100):
        threads = [thread.name for thread in threading.enumerate() if "streamflow" in thread.name]
        if not threads:
            break
        await asyncio.sleep(0.01)
    assert threads == []


def containers() -> dict[str, int]:
    """Size of everything at the top of the library's modules that can grow."""
    found = {}
    for info in pkgutil.walk_packages(streamflow.__path__, "streamflow."):
        if info.name.endswith("__main__"):
            continue
        module = importlib.import_module(info.name)
        for name, value in vars(module).items():
            if isinstance(value, dict | set | list) and not name.startswith("__"):
                found[f"{info.name}.{name}"] = len(value)
    return found


GROWS = {
    "streamflow.operators.fused._kept": "compiled loops, LOOPS_KEPT_MAX at the most",
}
"""What a module remembers of flows that are gone, and its bound."""


@pytest.mark.allow_blocking("the test itself imports every module")
async def test_nothing_at_the_top_of_a_module_grows_with_the_flows_that_ran(tmp_path):
    sizes: list[dict[str, int]] = []
    containers()
    for number in range(3):
        source, sink = topics()
        async with every_kind_of_step(tmp_path, source, sink, f"f{number}").running():
            source.send_all(range(5))
            await until(lambda sink=sink: len(sink) == 5)  # type: ignore[misc]
        sizes.append(containers())
    grown = {name for name, size in sizes[2].items() if size > sizes[0].get(name, 0)}
    assert grown <= GROWS.keys(), grown


async def test_several_flows_in_one_process_do_not_touch_each_other(tmp_path):
    first_in, first_out = topics()
    second_in, second_out = topics()
    bad_in, bad_out = topics()
    bad = sf.Flow("bad", state=tmp_path / "bad.db")
    bad.source(bad_in).map(lambda v: 1 // v, name="inverse").to(bad_out)
    died: list[BaseException] = []

    async def run_bad() -> None:
        try:
            await bad.run()
        except StreamflowError as error:
            died.append(error)

    async with (
        every_kind_of_step(tmp_path, first_in, first_out, "first").running() as one,
        every_kind_of_step(tmp_path, second_in, second_out, "second").running() as two,
        asyncio.TaskGroup() as tasks,
    ):
        tasks.create_task(run_bad())
        send(first_in, *range(10))
        send(second_in, *range(20))
        send(bad_in, 1, 0)
        await until(lambda: len(first_out) == 10 and len(second_out) == 20 and died)
        send(first_in, 10)
        await until(lambda: len(first_out) == 11)
        assert await one.table(one_counts(one)).get(0) == 6
        assert await two.table(one_counts(two)).get(0) == 10
    assert isinstance(died[0], StepError)


def one_counts(run: sf.Running) -> Any:
    from streamflow.flow import KeyedStream
    from streamflow.graph import Port

    flow = sf.Flow(run.flow)
    flow._builder._steps = {step.id: step for step in run.engine.job.plan.graph.steps}
    return KeyedStream(flow, Port("step:n"))


async def test_two_flows_of_one_name_are_refused_and_one_after_the_other_are_not(tmp_path):
    source, sink = topics()
    first = every_kind_of_step(tmp_path, source, sink)
    second = sf.Flow("f", state=tmp_path / "other.db")
    second.source(source).to(sf.MemoryTopic("elsewhere"))
    async with first.running():
        with pytest.raises(DefinitionError, match="a flow called 'f' runs on this event loop already"):
            await second.run()
    async with second.running():
        pass


async def test_the_body_is_cancelled_when_the_flow_dies_and_gets_its_error(tmp_path):
    source, sink = topics()
    flow = flow_in(tmp_path)
    flow.source(source).map(lambda v: 1 // v, name="inverse").to(sink)
    cleaned: list[bool] = []

    async def host() -> None:
        async with flow.running():
            source.send(0)
            try:
                await asyncio.sleep(60)
            finally:
                cleaned.append(True)

    with pytest.raises(StepError, match="inverse"):
        await host()
    assert cleaned
    current = asyncio.current_task()
    assert current is not None
    assert current.cancelling() == 0, "the caller can go on"
    await asyncio.sleep(0)


async def test_a_stop_gives_up_on_a_call_that_does_not_end(tmp_path, caplog):
    source, sink = topics()
    flow, gate = flow_in(tmp_path, stop_timeout="200ms", commit_min="0ms"), Gate()
    flow.source(source).map(gate, concurrency=4, name="gate").to(sink)
    gate.open(1)
    async with flow.running() as run:
        send(source, 1)
        await until(lambda: sink.values == [1])
        send(source, 2)
        await until(lambda: gate.begun == [1, 2])
        epoch = run.engine.committer.last_epoch
        started = time.perf_counter()
    assert 0.15 < time.perf_counter() - started < 3
    assert "flow f did not drain within stop_timeout = 0.2 s" in caplog.text
    assert f"epoch {epoch}" in caplog.text
    gate.open(2)
    async with flow.running():
        await until(lambda: sink.values == [1, 2])
    assert gate.begun == [1, 2, 2], "what was not committed is taken again"


async def test_a_push_that_a_stop_gave_up_is_told(tmp_path):
    source, sink = topics()
    flow, gate = flow_in(tmp_path, stop_timeout="100ms"), Gate()
    stream = flow.source(source)
    stream.map(gate, name="gate").to(sink)
    async with flow.running() as run:
        push = asyncio.create_task(run.push(stream, 1))
        await until(lambda: gate.begun == [1])
    with pytest.raises(StreamflowError, match="the flow ended before a record pushed to 'in' was committed"):
        await push


async def test_a_stop_waits_for_a_sink_that_is_away_no_longer_than_it_may(tmp_path, caplog):
    source, sink = topics()
    flow = flow_in(tmp_path, stop_timeout="200ms", commit_min="0ms")
    flow.source(source).to(sink)
    sink.unreachable = True
    async with flow.running() as run:
        send(source, 1)
        await until(lambda: run.engine.committer.last_epoch)
        started = time.perf_counter()
    assert 0.15 < time.perf_counter() - started < 3
    assert "did not take 1 committed records before the stop" in caplog.text
    sink.unreachable = False
    async with flow.running():
        await until(lambda: sink.values == [1])
