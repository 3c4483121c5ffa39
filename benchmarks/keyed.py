"""A linear keyed flow, checkpoints on, against a plain loop that calls the same functions and the same codec."""

from __future__ import annotations

import asyncio
import gc
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import streamflow as sf
from streamflow.codecs import JsonCodec

RECORDS = 500_000
PASSES = 4
KEYS = 10_000
PAIRS = 5

Event = dict[str, Any]
Total = tuple[int, int]
encode = JsonCodec[tuple[str, Total]](tuple[str, Total]).encode


def make_events() -> list[Event]:
    rng = random.Random(1)
    return [
        {"user": f"u{rng.randrange(KEYS)}", "amount": n % 100, "id": n, "kind": "x", "a": 1, "b": 2.5, "c": None}
        for n in range(RECORDS)
    ]


def positive(event: Event) -> bool:
    return bool(event["amount"] > 0)


def user(event: Event) -> str:
    return str(event["user"])


def zero() -> Total:
    return (0, 0)


def add(total: Total, event: Event) -> Total:
    return (total[0] + 1, total[1] + event["amount"])


def plain(events: list[Event]) -> tuple[float, int]:
    """The loop that nobody who takes users' functions can beat; returns seconds and outputs."""
    started = time.perf_counter()
    totals: dict[str, Total] = {}
    out: list[bytes] = []
    for _ in range(PASSES):
        for event in events:
            if positive(event):
                key = user(event)
                total = totals[key] = add(totals.get(key) or zero(), event)
                out.append(encode((key, total)))
    return time.perf_counter() - started, len(out)


class Epochs(sf.Instrument):
    """Counts commits."""

    def __init__(self) -> None:
        self.count = 0

    def committed(self, epoch: int, records: int, size_bytes: int, seconds: float) -> None:
        self.count += 1


async def through_flow(events: list[Event]) -> tuple[float, int, int]:
    """The same through the engine: numbered, checkpointed, published; returns seconds, outputs and epochs."""
    with tempfile.TemporaryDirectory() as folder:
        source: sf.MemoryTopic[Event] = sf.MemoryTopic("events")
        sink = sf.MemoryTopic("totals", value=tuple[str, Total])
        flow = sf.Flow("keyed", state=Path(folder) / "keyed.db")
        flow.source(source).filter(positive).key_by(user).aggregate(zero, add, name="totals").to(sink)
        for _ in range(PASSES):
            source.send_all(events)
        source.close_input()
        epochs = Epochs()
        started = time.perf_counter()
        await flow.run(epochs)
        seconds = time.perf_counter() - started
        return seconds, len(sink), epochs.count


def main() -> None:
    events = make_events()
    gc.collect()
    gc.freeze()
    ratios = []
    records = RECORDS * PASSES
    print(f"{records:,} dict events, {KEYS:,} keys, filter -> key_by -> aggregate -> sink; interleaved pairs")
    for pair in range(PAIRS):
        plain_seconds, outputs = plain(events)
        flow_seconds, published, epochs = asyncio.run(through_flow(events))
        assert outputs == published, f"{outputs} outputs, {published} published"
        ratios.append(plain_seconds / flow_seconds)
        print(
            f"  pair {pair + 1}: plain {records / plain_seconds:>11,.0f}/s   flow {records / flow_seconds:>11,.0f}/s"
            f"   ratio {ratios[-1]:.2f}   {epochs} epochs"
        )
    print(f"  median ratio {statistics.median(ratios):.2f}  (to reach: 0.70)")


if __name__ == "__main__":
    main()
