"""A linear keyed flow, checkpoints on, against a plain loop that calls the same functions and the same codec."""

from __future__ import annotations

import asyncio
import random
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import streamflow as sf
from streamflow.codecs import JsonCodec
from streamflow.runtime.process import own_collector

RECORDS = 500_000
PASSES = 6
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


@dataclass(frozen=True)
class Took:
    """Seconds by the clock, and of CPU in all threads."""

    wall: float
    cpu: float


class Watch:
    """Measures from its making on."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def took(self) -> Took:
        return Took(time.perf_counter() - self._wall, time.process_time() - self._cpu)


def plain(events: list[Event]) -> tuple[Took, int]:
    """The loop that nobody who takes users' functions can beat; returns what it took and the outputs."""
    watch = Watch()
    totals: dict[str, Total] = {}
    out: list[bytes] = []
    for _ in range(PASSES):
        for event in events:
            if positive(event):
                key = user(event)
                total = totals[key] = add(totals.get(key) or zero(), event)
                out.append(encode((key, total)))
    return watch.took(), len(out)


class Epochs(sf.Instrument):
    """Counts commits."""

    def __init__(self) -> None:
        self.count = 0

    def committed(self, epoch: int, records: int, size_bytes: int, seconds: float) -> None:
        self.count += 1


async def through_flow(events: list[Event]) -> tuple[Took, int, int]:
    """The same through the engine: numbered, checkpointed, published; returns what it took, outputs and epochs."""
    with tempfile.TemporaryDirectory() as folder:
        source: sf.MemoryTopic[Event] = sf.MemoryTopic("events")
        sink = sf.MemoryTopic("totals", value=tuple[str, Total])
        flow = sf.Flow("keyed", state=Path(folder) / "keyed.db")
        flow.source(source).filter(positive).key_by(user).aggregate(zero, add, name="totals").to(sink)
        for _ in range(PASSES):
            source.send_all(events)
        source.close_input()
        epochs = Epochs()
        watch = Watch()
        await flow.run(epochs)
        return watch.took(), len(sink), epochs.count


def main() -> None:
    events = make_events()
    own_collector()
    records = RECORDS * PASSES
    ratios: list[tuple[float, float]] = []
    print(f"{records:,} dict events, {KEYS:,} keys, filter -> key_by -> aggregate -> sink; interleaved pairs")
    for pair in range(PAIRS):
        alone, outputs = plain(events)
        flow, published, epochs = asyncio.run(through_flow(events))
        assert outputs == published, f"{outputs} outputs, {published} published"
        ratios.append((alone.wall / flow.wall, alone.cpu / flow.cpu))
        print(
            f"  pair {pair + 1}: plain {records / alone.wall:>11,.0f}/s   flow {records / flow.wall:>11,.0f}/s"
            f"   ratio {ratios[-1][0]:.2f} (CPU of all threads {ratios[-1][1]:.2f})   {epochs} epochs"
        )
    wall, cpu = (statistics.median(column) for column in zip(*ratios, strict=True))
    print(f"  median ratio {wall:.2f} (CPU of all threads {cpu:.2f}); to reach: 0.70")


if __name__ == "__main__":
    main()
