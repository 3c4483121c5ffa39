"""What sliding windows cost by the number of panes they are made of: per record, and per result, of which more come.

A record goes into one pane, however many windows hold it; each result merges the panes of its window. With
``emit="updates"`` every record gives a result for each window that holds it.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, Literal

import streamflow as sf

LOADS = {"final": (100_000, 100, 600), "updates": (3_000, 5, 150)}
"""Records, keys and seconds of event time; every pane of every key holds records."""
ROUNDS = 3
START_MS = 1_767_225_600_000
EVERY_SECONDS = (60, 6, 1)
"""1, 10 and 60 panes in a window of a minute."""

Emit = Literal["final", "updates"]


def make_events(records: int, keys: int, seconds: int) -> list[tuple[str, int]]:
    return [(f"u{n * 7919 % keys}", START_MS + n * seconds * 1000 // records) for n in range(records)]


async def through_flow(every_seconds: int, emit: Emit, events: list[tuple[str, int]]) -> tuple[float, int]:
    """CPU seconds of all threads, and results."""
    with tempfile.TemporaryDirectory() as folder:
        flow = sf.Flow("panes", state=Path(folder) / "panes.db")
        source: sf.MemoryTopic[Any] = sf.MemoryTopic("events")
        sink = sf.MemoryTopic("counts", value=int)
        records = flow.source(source, time=lambda event: event[1], lateness="2s", future_max="3650d")
        kind = sf.sliding("60s", f"{every_seconds}s") if every_seconds < 60 else sf.tumbling("60s")
        windows = records.key_by(lambda event: event[0]).window(kind, emit=emit)
        windows.count(name="counts").map(lambda row: row.value).to(sink)
        source.send_all(events)
        source.close_input()
        began = time.process_time()
        await flow.run()
        return time.process_time() - began, len(sink)


def measure() -> None:
    """Prints both forms, in interleaved rounds."""
    emits: tuple[Emit, ...] = ("final", "updates")
    for emit in emits:
        records, keys, seconds = LOADS[emit]
        events = make_events(records, keys, seconds)
        print(f"panes of sliding windows of 1 min, emit={emit}: {records:,} records, {keys} keys, {seconds} s")
        took: dict[int, list[float]] = {every: [] for every in EVERY_SECONDS}
        results: dict[int, int] = {}
        for _ in range(ROUNDS):
            for every in EVERY_SECONDS:
                cpu_seconds, results[every] = asyncio.run(through_flow(every, emit, events))
                took[every].append(cpu_seconds)
        one = statistics.median(took[EVERY_SECONDS[0]])
        for every in EVERY_SECONDS:
            median = statistics.median(took[every])
            more = results[every] - results[EVERY_SECONDS[0]]
            by_result = f"   {(median - one) / more * 1e6:5.1f} us CPU for each result more" if more > 0 else ""
            print(
                f"  {60 // every:>3} panes: {median / len(events) * 1e6:6.1f} us CPU per record   "
                f"{results[every]:>9,} results{by_result}"
            )


if __name__ == "__main__":
    measure()
