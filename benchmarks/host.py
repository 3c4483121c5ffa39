"""Hosts: how long an endpoint of a service takes to answer while a flow runs at full speed on the same event loop.

The service is FastAPI under uvicorn; its client is another process, which asks 200 times a second on eight connections.
Each round measures the same endpoint without a flow, beside one that has 2,000 records a second to do, and beside one
that computes all it can; that once more in a service that has called `gc.freeze()` when it had started. A full
collection looks at every object of the process, in whatever thread it comes up: how many there were is counted.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Mapping, Set
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, NamedTuple

import uvicorn
from fastapi import FastAPI

import streamflow as sf
from streamflow.batch import Partition, Position, SourceBatch, Taken
from streamflow.connect.contracts import Guarantee, Level, Probe, SourceContext

SECONDS = 5.0
REQUESTS_PER_SECOND = 200
CONNECTIONS = 8
KEYS = 10_000
ROUNDS = 3
BATCH = 2048


class Endless:
    """A source that always has more; with a pace, only so many records a second."""

    name = "endless"
    codec = None
    guarantee = Guarantee(Level.EXACTLY_ONCE, "numbers can be counted again")

    def __init__(self, pace: int = 0) -> None:
        self._pace = pace
        self._at = 0

    def describe(self) -> str:
        return "numbers without end"

    def source(self) -> Endless:
        return self

    async def probe(self) -> Probe:
        return Probe(True)

    async def open(self, ctx: SourceContext, resume: Mapping[Partition, Position]) -> Mapping[Partition, Position]:
        start = resume.get("", Position(0))
        self._at = start.at
        return {"": start}

    async def read(self) -> SourceBatch | None:
        count = BATCH
        if self._pace:
            await asyncio.sleep(0.01)
            count = self._pace // 100
        else:
            await asyncio.sleep(0)
        before, self._at = self._at, self._at + count
        return SourceBatch("", range(before, self._at), range(before + 1, self._at + 1))

    async def ends(self) -> Mapping[Partition, Position | None]:
        return {"": None}

    def pause(self, partitions: Set[Partition]) -> None: ...

    async def committed(self, epoch: int, taken: Taken) -> None: ...

    async def close(self) -> None: ...


class Measured(NamedTuple):
    """Milliseconds of the answers; meanwhile the flow's records per second, and Python's full collections."""

    p50: float
    p99: float
    worst: float
    rate: float
    collections: int


def make_flow(folder: Path, source: Endless) -> sf.Flow:
    flow = sf.Flow("host", state=folder / "host.db")
    numbers: Any = flow.source(source)
    counts = numbers.key_by(lambda v: v % KEYS).count(name="counts")
    counts.filter(lambda pair: pair[1] % 1000 == 0).to(sf.MemoryTopic("out"))
    return flow


async def serve(pace: int | None, *, frozen: bool = False) -> Measured:
    """Measures the endpoint; with a flow unless the pace is None."""
    app = FastAPI()

    @app.get("/answer")
    async def answer() -> dict[str, int]:
        return {"answer": 42}

    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None)
    server = uvicorn.Server(config)
    config.load()
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    port = server.servers[0].sockets[0].getsockname()[1]
    main = asyncio.create_task(server.main_loop())
    gc.collect()
    if frozen:
        gc.freeze()
    source = Endless(pace or 0)
    try:
        async with AsyncExitStack() as stack:
            stack.enter_context(tempfile.TemporaryDirectory())
            if pace is not None:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                await stack.enter_async_context(make_flow(folder, source).running())
                await asyncio.sleep(0.5)
            began, before, full = time.perf_counter(), source._at, gc.get_stats()[2]["collections"]
            client = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "benchmarks.host", str(port), stdout=asyncio.subprocess.PIPE
            )
            told, _ = await client.communicate()
            rate = (source._at - before) / (time.perf_counter() - began)
            full = gc.get_stats()[2]["collections"] - full
    finally:
        server.should_exit = True
        await main
        await server.shutdown()
        gc.unfreeze()
    p50, p99, worst = json.loads(told)
    return Measured(p50, p99, worst, rate, full)


async def ask(port: int) -> None:
    """The client: asks at a steady pace, whatever the answers take, and prints p50, p99 and the longest."""
    took: list[float] = []
    request = b"GET /answer HTTP/1.1\r\nHost: localhost\r\n\r\n"

    async def connection(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        each = CONNECTIONS / REQUESTS_PER_SECOND
        began = time.perf_counter() + each * number / CONNECTIONS
        for turn in range(int(SECONDS / each)):
            due = began + turn * each
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            asked = max(due, time.perf_counter()) if turn == 0 else due
            writer.write(request)
            await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(len(b'{"answer":42}'))
            took.append(time.perf_counter() - asked)
        writer.close()

    await asyncio.gather(*map(connection, range(CONNECTIONS)))
    took.sort()
    print(json.dumps([took[len(took) // 2] * 1e3, took[int(len(took) * 0.99)] * 1e3, took[-1] * 1e3]))


def main() -> None:
    ways: dict[str, Callable[[], Coroutine[Any, Any, Measured]]] = {
        "no flow": lambda: serve(None),
        "flow with 2,000 records/s": lambda: serve(2_000),
        "flow at full speed": lambda: serve(0),
        "the same with gc.freeze()": lambda: serve(0, frozen=True),
    }
    found: dict[str, list[Measured]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            found[name].append(asyncio.run(way()))
    print(f"answers of an endpoint beside a flow, {REQUESTS_PER_SECOND} requests/s from another process (ms)")
    print(f"  {'':<28} {'p50':>7} {'p99':>7} {'longest':>8} {'records/s':>12} {'full collections':>17}")
    for name, rounds in found.items():
        p50, p99, worst, rate, full = (statistics.median(column) for column in zip(*rounds, strict=True))
        print(f"  {name:<28} {p50:>7.2f} {p99:>7.2f} {worst:>8.2f} {rate:>12,.0f} {full:>17.0f}")


def put_in_front() -> None:
    """Where this runs by `chrt -f`, the client must not wait for a processor that the service has: it only measures."""
    if sys.platform == "linux" and os.sched_getscheduler(0) == os.SCHED_FIFO:
        priority = os.sched_getparam(0).sched_priority
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority + 5))


if __name__ == "__main__":
    put_in_front()
    asyncio.run(ask(int(sys.argv[1])))
