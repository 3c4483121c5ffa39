"""Async steps: how near an ordered map over calls of 5 ms comes to what its concurrency allows, and what a call costs.

The limit is ``concurrency / 5 ms``. Beside it stands what plain asyncio does with the same calls: so many workers that
take records from one iterator, without order, checkpoints or time limits. The calls take 5 ms by the kernel's timer,
and by a service in another process; for comparison the same with the timers of event loops, which take another time
than they are told (`benchmarks.answering`).
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, NamedTuple

import uvloop

import streamflow as sf
from benchmarks import straggler
from benchmarks.answering import CALL_SECONDS, Calls, KernelTimer, Service, Sleeps

CONCURRENCY = 100
RECORDS = 20_000
COST_RECORDS = 50_000
ROUNDS = 3
STRAGGLER_SECONDS = 2.0


class Measured(NamedTuple):
    """Records per second, and the mean of what a call took for who made it and at the service, in milliseconds."""

    rate: float
    call: float = 0.0
    served: float = 0.0


async def cached(value: int) -> int:
    return value


async def turn(value: int) -> int:
    await asyncio.sleep(0)
    return value


def same(value: int) -> int:
    return value


async def workers(function: Callable[[int], Awaitable[int]], records: int, concurrency: int) -> float:
    """Records per second of plain workers."""
    values = iter(range(records))

    async def work() -> None:
        for value in values:
            await function(value)

    started = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(concurrency)))
    return records / (time.perf_counter() - started)


async def flow_rate(records: int, function: Any, **options: Any) -> float:
    """Records per second of a flow with one step, from the first record to the last one at the sink."""
    with tempfile.TemporaryDirectory() as folder:
        source: sf.MemoryTopic[int] = sf.MemoryTopic("in", value=int)
        sink: sf.MemoryTopic[int] = sf.MemoryTopic("out", value=int)
        flow = sf.Flow("async", state=Path(folder) / "async.db")

        flow.source(source).map(function, **options).to(sink)
        source.send_all(range(records))
        async with flow.running():
            started = time.perf_counter()
            while len(sink) < records:  # noqa: ASYNC110 - a look now and then disturbs less than a listener
                await asyncio.sleep(0.002)
            seconds = time.perf_counter() - started
        assert sink.values == list(range(records))
        return records / seconds


async def by_workers(calls: Calls) -> float:
    return await workers(calls.ask, RECORDS, CONCURRENCY)


async def by_flow(calls: Calls) -> float:
    return await flow_rate(RECORDS, calls.ask, concurrency=CONCURRENCY)


async def without_order(calls: Calls) -> float:
    return await flow_rate(RECORDS, calls.ask, concurrency=CONCURRENCY, ordered=False)


async def with_straggler(calls: Calls) -> float:
    async def slow_once(value: int) -> int:
        if value == RECORDS // 2:
            await asyncio.sleep(STRAGGLER_SECONDS)
            return value
        return await calls.ask(value)

    return await flow_rate(RECORDS, slow_once, concurrency=CONCURRENCY)


Way = Callable[[Calls], Awaitable[float]]


async def measured(way: Way, kind: type[Calls]) -> Measured:
    async with kind() as calls:
        rate = await way(calls)
    served = calls.served_seconds if isinstance(calls, Service) else 0.0
    return Measured(rate, calls.seconds / calls.answered * 1e3, served * 1e3)


def medians(
    measures: dict[str, Callable[[], Coroutine[Any, Any, Measured]]], loop: Callable[[], asyncio.AbstractEventLoop]
) -> dict[str, Measured]:
    """Medians of several rounds, one of each in turn."""
    found: dict[str, list[Measured]] = {name: [] for name in measures}
    for _ in range(ROUNDS):
        for name, measure in measures.items():
            with asyncio.Runner(loop_factory=loop) as runner:
                found[name].append(runner.run(measure()))
    return {name: sorted(values)[ROUNDS // 2] for name, values in found.items()}


def compare(
    what: str, kind: type[Calls], ways: dict[str, Way], loop: Callable[[], asyncio.AbstractEventLoop]
) -> dict[str, Measured]:
    """Prints what several ways make of the same calls; the first one is that of plain asyncio."""
    limit = CONCURRENCY / CALL_SECONDS
    found = medians({name: lambda way=way: measured(way, kind) for name, way in ways.items()}, loop)  # type: ignore[misc]
    plain = next(iter(found.values())).rate
    print(f"  {what}")
    for name, (rate, took, served) in found.items():
        at_service = f", {served:.2f} ms at the service" if served else ""
        print(
            f"    {name:<24} {rate:>8,.0f}   {rate / limit:.2f} of the limit, {rate / plain:.2f} of plain workers; "
            f"a call took {took:.2f} ms{at_service}"
        )
    return found


def main() -> None:
    print(f"calls of 5 ms, concurrency {CONCURRENCY}: at most {CONCURRENCY / CALL_SECONDS:,.0f} records/s")
    ways: dict[str, Way] = {"plain workers, no order": by_workers, "ordered map": by_flow}
    own = asyncio.SelectorEventLoop
    everything = ways | {"unordered map": without_order, "ordered, one of 2 s": with_straggler}
    found = compare("the kernel's timer", KernelTimer, everything, own)
    longer = RECORDS / found["ordered, one of 2 s"].rate - RECORDS / found["ordered map"].rate
    print(f"    one call of {STRAGGLER_SECONDS:g} s makes the whole run {longer:.2f} s longer")
    straggler.main()
    compare("a service in another process", Service, ways, own)
    compare("asyncio.sleep(0.005) on asyncio's loop", Sleeps, ways, own)
    compare("asyncio.sleep(0.005) on uvloop", Sleeps, ways, uvloop.new_event_loop)

    def cost(function: Any, **options: Any) -> Callable[[], Coroutine[Any, Any, Measured]]:
        async def measure() -> Measured:
            return Measured(await flow_rate(COST_RECORDS, function, **options))

        return measure

    costs = medians(
        {
            "plain function": cost(same),
            "async, never waits": cost(cached, concurrency=CONCURRENCY),
            "async, one turn": cost(turn, concurrency=CONCURRENCY),
        },
        own,
    )
    print("a record's whole way, memory to memory, by what the step's function does (ns)")
    for name, (rate, _, _) in costs.items():
        print(f"  {name:<26} {1e9 / rate:>9,.0f}")


if __name__ == "__main__":
    main()
