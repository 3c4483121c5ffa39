"""Linear keyed flows, checkpoints on, against plain loops that call the same functions and the same codecs."""

from __future__ import annotations

import asyncio
import gc
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import streamflow as sf
from streamflow.codecs import JsonCodec
from streamflow.codecs.models import encode_json_lines
from streamflow.runtime.process import own_collector

RECORDS = 300_000
PASSES = 20
KEYS = 10_000
PAIRS = 7
BULK = 2048
"""Rows of a micro-batch at the most."""


@dataclass(slots=True)
class Event:
    """What comes in."""

    user: str
    amount: int
    id: int
    kind: str
    a: int
    b: float
    c: str | None


@dataclass(slots=True)
class Scored:
    """What a step makes of it."""

    user: str
    amount: int
    risk: float


Total = tuple[int, float]
decode = JsonCodec[Event](Event).decode
encode = JsonCodec[tuple[str, Total]](tuple[str, Total]).encode


def make_events() -> list[Event]:
    rng = random.Random(1)
    return [Event(f"u{rng.randrange(KEYS)}", n % 100, n, "x", 1, 2.5, None) for n in range(RECORDS)]


def positive(event: Event) -> bool:
    return event.amount > 0


def score(event: Event) -> Scored:
    return Scored(event.user, event.amount, 0.01 * event.amount + (0.5 if event.kind == "x" else 0.0))


def user(event: Event | Scored) -> str:
    return event.user


def zero() -> Total:
    return (0, 0.0)


def add_amount(total: Total, event: Event) -> Total:
    return (total[0] + 1, total[1] + event.amount)


def add_risk(total: Total, scored: Scored) -> Total:
    return (total[0] + 1, total[1] + scored.amount * scored.risk)


def plain_bare(events: list[Any]) -> int:
    """The loop that nobody who takes users' functions can beat, on values that are there already."""
    totals: dict[str, Total] = {}
    out: list[bytes] = []
    for _ in range(PASSES):
        for event in events:
            if positive(event):
                key = user(event)
                total = totals[key] = add_amount(totals.get(key) or zero(), event)
                out.append(encode((key, total)))
    return len(out)


def plain_typed(payloads: list[Any]) -> int:
    """The same for bytes, which it decodes, with one step more."""
    totals: dict[str, Total] = {}
    out: list[bytes] = []
    for _ in range(PASSES):
        for payload in payloads:
            event = decode(payload)
            if positive(event):
                scored = score(event)
                key = user(scored)
                total = totals[key] = add_risk(totals.get(key) or zero(), scored)
                out.append(encode((key, total)))
    return len(out)


def plain_bare_in_bulk(events: list[Any]) -> int:
    """As `plain_bare`, but outputs are encoded many at a time, as the flow does it."""
    totals: dict[str, Total] = {}
    rows: list[tuple[str, Total]] = []
    out: list[bytes] = []
    count = 0
    for _ in range(PASSES):
        for event in events:
            if positive(event):
                key = user(event)
                total = totals[key] = add_amount(totals.get(key) or zero(), event)
                rows.append((key, total))
                if len(rows) == BULK:
                    count += BULK
                    out.append(encode_json_lines(rows))
                    rows.clear()
    out.append(encode_json_lines(rows))
    return count + len(rows)


def plain_typed_in_bulk(payloads: list[Any]) -> int:
    """As `plain_typed`, but outputs are encoded many at a time, as the flow does it."""
    totals: dict[str, Total] = {}
    rows: list[tuple[str, Total]] = []
    out: list[bytes] = []
    count = 0
    for _ in range(PASSES):
        for payload in payloads:
            event = decode(payload)
            if positive(event):
                scored = score(event)
                key = user(scored)
                total = totals[key] = add_risk(totals.get(key) or zero(), scored)
                rows.append((key, total))
                if len(rows) == BULK:
                    count += BULK
                    out.append(encode_json_lines(rows))
                    rows.clear()
    out.append(encode_json_lines(rows))
    return count + len(rows)


def flow_bare(events: list[Any], flow: sf.Flow) -> sf.MemoryTopic[tuple[str, Total]]:
    source: sf.MemoryTopic[Event] = sf.MemoryTopic("events")
    sink = sf.MemoryTopic("totals", value=tuple[str, Total])
    flow.source(source).filter(positive).key_by(user).aggregate(zero, add_amount, name="totals").to(sink)
    for _ in range(PASSES):
        source.send_all(events)
    source.close_input()
    return sink


def flow_typed(payloads: list[Any], flow: sf.Flow) -> sf.MemoryTopic[tuple[str, Total]]:
    source = sf.MemoryTopic("events", value=Event)
    sink = sf.MemoryTopic("totals", value=tuple[str, Total])
    flow.source(source).filter(positive).map(score).key_by(user).aggregate(zero, add_risk, name="totals").to(sink)
    for _ in range(PASSES):
        source.send_all_bytes(payloads)
    source.close_input()
    return sink


@dataclass(frozen=True)
class Job:
    """A flow, the plain loop that does the same, the one that encodes many outputs at a time, and what all read."""

    name: str
    records: list[Any]
    plain: Callable[[list[Any]], int]
    in_bulk: Callable[[list[Any]], int]
    build: Callable[[list[Any], sf.Flow], sf.MemoryTopic[tuple[str, Total]]]


class Watch:
    """Measures from its making on: seconds by the clock, and of CPU in all threads."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def took(self) -> tuple[float, float]:
        return time.perf_counter() - self._wall, time.process_time() - self._cpu


class Epochs(sf.Instrument):
    """Counts commits."""

    def __init__(self) -> None:
        self.count = 0

    def committed(self, epoch: int, records: int, size_bytes: int, seconds: float) -> None:
        self.count += 1


def settle_collector() -> None:
    """Frees what earlier runs left, and keeps the collector from what is there to be read.

    The memory topic's six million records are the benchmark's own: one look at them takes 170 ms.
    """
    gc.unfreeze()
    own_collector()


async def through_flow(job: Job) -> tuple[tuple[float, float], int, int]:
    """Numbered, checkpointed, published; returns what it took, the outputs and the epochs."""
    with tempfile.TemporaryDirectory() as folder:
        flow = sf.Flow("keyed", state=Path(folder) / "keyed.db")
        sink = job.build(job.records, flow)
        epochs = Epochs()
        settle_collector()
        watch = Watch()
        await flow.run(epochs)
        return watch.took(), len(sink), epochs.count


def through_loop(job: Job, loop: Callable[[list[Any]], int]) -> tuple[tuple[float, float], int]:
    """Returns what a plain loop took, and its outputs."""
    settle_collector()
    watch = Watch()
    outputs = loop(job.records)
    return watch.took(), outputs


def compare(job: Job) -> None:
    """Prints interleaved rounds of the plain loops and the flow, and the median of their ratios."""
    records = RECORDS * PASSES
    ratios: list[tuple[float, float, float]] = []
    print(job.name)
    for pair in range(PAIRS):
        alone, outputs = through_loop(job, job.plain)
        flow, published, epochs = asyncio.run(through_flow(job))
        in_bulk, also = through_loop(job, job.in_bulk)
        assert outputs == also == published, f"{outputs} and {also} outputs, {published} published"
        ratios.append((alone[0] / flow[0], alone[1] / flow[1], in_bulk[0] / flow[0]))
        print(
            f"  pair {pair + 1}: plain {records / alone[0]:>11,.0f}/s   flow {records / flow[0]:>11,.0f}/s"
            f"   ratio {ratios[-1][0]:.2f} (CPU of all threads {ratios[-1][1]:.2f})   {epochs} epochs"
            f"   plain, encoding {BULK:,} at a time {records / in_bulk[0]:>11,.0f}/s, ratio {ratios[-1][2]:.2f}"
        )
    wall, cpu, bulk = (statistics.median(column) for column in zip(*ratios, strict=True))
    print(f"  median ratio {wall:.2f} (CPU of all threads {cpu:.2f}); to reach: 0.70")
    print(f"  median ratio to the plain loop that encodes {BULK:,} outputs at a time {bulk:.2f}")


def main() -> None:
    events = make_events()
    payloads = [JsonCodec[Event](Event).encode(event) for event in events]
    print(f"{RECORDS * PASSES:,} records, {KEYS:,} keys, an output for each record, exactly-once; interleaved pairs")
    compare(Job("values: filter -> key_by -> aggregate -> encode", events, plain_bare, plain_bare_in_bulk, flow_bare))
    typed = "JSON: decode -> filter -> map -> key_by -> aggregate -> encode"
    compare(Job(typed, payloads, plain_typed, plain_typed_in_bulk, flow_typed))


if __name__ == "__main__":
    main()
