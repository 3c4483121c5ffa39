"""Async steps: how near an ordered map over calls of 5 ms comes to what its concurrency allows, and what a call costs.

The limit is ``concurrency / 5 ms``. Beside it stands what plain asyncio does with the same calls: so many workers that
take records from one iterator, without order, checkpoints or time limits.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import streamflow as sf

CALL_SECONDS = 0.005
CONCURRENCY = 100
RECORDS = 20_000
COST_RECORDS = 50_000
ROUNDS = 3


async def call(value: int) -> int:
    await asyncio.sleep(CALL_SECONDS)
    return value


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


async def flow_rate(records: int, function: Any = call, straggler: float = 0.0, **options: Any) -> float:
    """Records per second of a flow with one step, from the first record to the last one at the sink."""
    with tempfile.TemporaryDirectory() as folder:
        source: sf.MemoryTopic[int] = sf.MemoryTopic("in", value=int)
        sink: sf.MemoryTopic[int] = sf.MemoryTopic("out", value=int)
        flow = sf.Flow("async", state=Path(folder) / "async.db")

        async def slow_once(value: int) -> int:
            await asyncio.sleep(straggler if value == records // 2 else CALL_SECONDS)
            return value

        flow.source(source).map(slow_once if straggler else function, **options).to(sink)
        source.send_all(range(records))
        async with flow.running():
            started = time.perf_counter()
            while len(sink) < records:  # noqa: ASYNC110 - a look now and then disturbs less than a listener
                await asyncio.sleep(0.002)
            seconds = time.perf_counter() - started
        assert sink.values == list(range(records))
        return records / seconds


def median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def measured(measures: dict[str, Callable[[], Coroutine[Any, Any, float]]]) -> dict[str, float]:
    """Medians of several rounds, one of each in turn."""
    found: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(ROUNDS):
        for name, measure in measures.items():
            found[name].append(asyncio.run(measure()))
    return {name: sorted(values)[ROUNDS // 2] for name, values in found.items()}


def main() -> None:
    limit = CONCURRENCY / CALL_SECONDS
    rates = measured(
        {
            "plain workers, no order": lambda: workers(call, RECORDS, CONCURRENCY),
            "ordered map": lambda: flow_rate(RECORDS, concurrency=CONCURRENCY),
            "unordered map": lambda: flow_rate(RECORDS, concurrency=CONCURRENCY, ordered=False),
        }
    )
    plain = rates["plain workers, no order"]
    print(f"calls of {CALL_SECONDS * 1000:g} ms, concurrency {CONCURRENCY}: at most {limit:,.0f} records/s")
    for name, rate in rates.items():
        print(f"  {name:<26} {rate:>9,.0f}   {rate / limit:.2f} of the limit, {rate / plain:.2f} of plain workers")
    slow = asyncio.run(flow_rate(RECORDS, straggler=2.0, concurrency=CONCURRENCY))
    print(f"  one call of 2 s makes the whole run {RECORDS / slow - RECORDS / rates['ordered map']:.2f} s longer")

    ways = measured(
        {
            "plain function": lambda: flow_rate(COST_RECORDS, same),
            "async, never waits": lambda: flow_rate(COST_RECORDS, cached, concurrency=CONCURRENCY),
            "async, one turn": lambda: flow_rate(COST_RECORDS, turn, concurrency=CONCURRENCY),
        }
    )
    print("a record's whole way, memory to memory, by what the step's function does (ns)")
    for name, rate in ways.items():
        print(f"  {name:<26} {1e9 / rate:>9,.0f}")


if __name__ == "__main__":
    main()
