"""What order="time" costs: the same keyed flow in the order of arrival and in the order of event time.

Checkpoints on. The ordered flow must give what the ordered input gives: per key the last record is the latest one.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import streamflow as sf
from benchmarks.keyed import Watch

RECORDS = 300_000
KEYS = 1_000
ROUNDS = 3
START_MS = 1_767_225_600_000
APART_MS = 2
DISORDER = 200
"""A record arrives up to so many places from its own."""

LATENESS_MS = 2 * DISORDER * APART_MS
Event = tuple[str, int]


@dataclass(frozen=True)
class Job:
    """How the records arrive.

    Args:
        name: For people.
        partitions: Of each source.
        shuffled: Whether they are out of order within their partitions.
        sources: Two are merged.
    """

    name: str
    partitions: int
    shuffled: bool
    sources: int = 1

    def lanes(self) -> list[list[list[Event]]]:
        """The records of each partition of each source, in the order of arrival."""
        rng = random.Random(1)
        places = [n + (rng.uniform(0, DISORDER) if self.shuffled else 0) for n in range(RECORDS)]
        found: list[list[list[Event]]] = [[[] for _ in range(self.partitions)] for _ in range(self.sources)]
        for n in sorted(range(RECORDS), key=places.__getitem__):
            event = (f"k{n * 7919 % KEYS}", START_MS + n * APART_MS)
            found[n % self.sources][n // self.sources % self.partitions].append(event)
        return found


JOBS = (
    Job("one partition, in order", 1, False),
    Job("one partition, out of order", 1, True),
    Job("four partitions, out of order", 4, True),
    Job("two sources of two partitions, out of order", 2, True, sources=2),
)


def key(event: Event) -> str:
    return event[0]


def nothing() -> list[int]:
    return [0, 0]


def add(so_far: list[int], event: Event) -> list[int]:
    so_far[0] += 1
    so_far[1] = event[1]
    return so_far


async def through_flow(job: Job, lanes: list[list[list[Event]]], *, ordered: bool) -> tuple[float, float]:
    """Numbered, checkpointed, published; returns what it took."""
    names = [f"p{n}" for n in range(job.partitions)]
    topics = [sf.MemoryTopic[Event](f"events{n}", partitions=names) for n in range(job.sources)]
    sink = sf.MemoryTopic("totals", value=tuple[str, list[int]])
    with tempfile.TemporaryDirectory() as folder:
        flow = sf.Flow("ordered", state=Path(folder) / "ordered.db")
        order: Any = "time" if ordered else None
        sources = [
            flow.source(
                topic, time=lambda event: event[1], lateness=f"{LATENESS_MS}ms", future_max="3650d", order=order
            )
            for topic in topics
        ]
        stream = sources[0] if job.sources == 1 else sf.merge(*sources, order=order)
        totals = stream.key_by(key).aggregate(nothing, add, name="totals")
        totals.to(sink)
        for topic, partitions in zip(topics, lanes, strict=True):
            for name, events in zip(names, partitions, strict=True):
                topic.send_all(events, name)
            topic.close_input()
        watch = Watch()
        await flow.run()
        took = watch.took()
    assert len(sink) == RECORDS
    if ordered:
        last = dict(sink.values)
        wanted = {f"k{n * 7919 % KEYS}": START_MS + n * APART_MS for n in range(RECORDS)}
        assert {name: total[1] for name, total in last.items()} == wanted, "not in order"
    return took


def main() -> None:
    """Measures each job in both orders, interleaved."""
    print(f"{RECORDS:,} records, {KEYS:,} keys, disorder {DISORDER} places, lateness {LATENESS_MS} ms; interleaved")
    for job in JOBS:
        lanes, ratios = job.lanes(), []
        for _ in range(ROUNDS):
            arrival = asyncio.run(through_flow(job, lanes, ordered=False))
            by_time = asyncio.run(through_flow(job, lanes, ordered=True))
            ratios.append((arrival[0] / by_time[0], arrival[1] / by_time[1]))
            print(f"  arrival {RECORDS / arrival[0]:>10,.0f}/s   by time {RECORDS / by_time[0]:>10,.0f}/s", flush=True)
        wall, cpu = (statistics.median(column) for column in zip(*ratios, strict=True))
        print(f"{job.name}: {wall:.2f} of the order of arrival (CPU of all threads {cpu:.2f})", flush=True)


if __name__ == "__main__":
    main()
