"""Interval joins, checkpoints on, against plain loops that compute the same; `benchmarks.windows` runs them too.

The plain loops keep a list per key and side, know no lateness and no state that survives.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import streamflow as sf
from benchmarks.keyed import Watch
from streamflow.codecs import JsonCodec

RECORDS = 400_000
"""Of both sides together."""

PAIRS = 3
START_MS = 1_767_225_600_000
LATENESS_MS = 2_000
SECONDS = 600
"""Event time that all records span."""

Event = tuple[str, int]
Row = tuple[str, int, int | None]
encode = JsonCodec[Row](Row).encode


@dataclass(frozen=True)
class Job:
    """A join: within how long, of how many keys that come again and again; 0 for a key per pair of records."""

    name: str
    how: Any
    within_ms: int
    keys: int

    def events(self) -> tuple[list[Event], list[Event]]:
        rng = random.Random(1)
        step = SECONDS * 2000 / RECORDS

        def made(behind_ms: int) -> list[Event]:
            times = [
                START_MS + behind_ms + int(n * step) - rng.randrange(LATENESS_MS // 2) for n in range(RECORDS // 2)
            ]
            return [(f"k{rng.randrange(self.keys) if self.keys else n}", time) for n, time in enumerate(times)]

        return made(0), made(0 if self.keys else self.within_ms // 2)


def jobs() -> Iterator[Job]:
    yield Job("inner join within 2 s, 1,000 keys", "inner", 2_000, 1_000)
    yield Job("left join within 5 s, a key for each two records", "left", 5_000, 0)


def key(event: Event) -> str:
    return event[0]


def time_of(event: Event) -> int:
    return event[1]


def told(pair: tuple[Event, Event | None]) -> Row:
    left, right = pair
    return (left[0], left[1], None if right is None else right[1])


def plain(job: Job, sides: tuple[list[Event], list[Event]]) -> int:
    within, tells = job.within_ms, job.how == "left"
    waiting: tuple[dict[str, list[list[Any]]], dict[str, list[list[Any]]]] = ({}, {})
    out: list[bytes] = []
    latest = [0, 0]

    def expire(upto: int) -> None:
        for side, rows_of in enumerate(waiting):
            for name in list(rows_of):
                rows = rows_of[name]
                gone = [row for row in rows if row[0] + within < upto]
                if not gone:
                    continue
                if tells and side == 0:
                    out.extend(encode(told((row[1], None))) for row in gone if not row[2])
                if len(gone) == len(rows):
                    del rows_of[name]
                else:
                    rows_of[name] = [row for row in rows if row[0] + within >= upto]

    for at, pair in enumerate(zip(*sides, strict=True)):
        for side, event in enumerate(pair):
            name, time = key(event), time_of(event)
            latest[side] = max(latest[side], time)
            mine = [time, event, False]
            for row in waiting[1 - side].get(name, ()):
                if -within <= row[0] - time <= within:
                    mine[2] = row[2] = True
                    out.append(encode(told((row[1], event) if side else (event, row[1]))))
            rows = waiting[side].get(name)
            if rows is None:
                waiting[side][name] = [mine]
            else:
                rows.append(mine)
        if at % 1000 == 999:
            expire(min(latest) - LATENESS_MS)
    expire(max(latest) + within + 1)
    return len(out)


async def through_flow(job: Job, sides: tuple[list[Event], list[Event]]) -> tuple[tuple[float, float], int]:
    """Numbered, checkpointed, published; returns what it took and the outputs."""
    with tempfile.TemporaryDirectory() as folder:
        flow = sf.Flow("joins", state=Path(folder) / "joins.db")
        topics = [sf.MemoryTopic[Event](name) for name in ("left", "right")]
        sink = sf.MemoryTopic("pairs", value=tuple[str, int, int | None])
        left, right = (
            flow.source(topic, time=time_of, lateness=f"{LATENESS_MS}ms", future_max="365d").key_by(
                key, name=topic.name
            )
            for topic in topics
        )
        joined: Any = left.join(right, within=f"{job.within_ms}ms", how=job.how, name="joined", types=(Event, Event))
        joined.map(told).to(sink)
        for topic, events in zip(topics, sides, strict=True):
            topic.send_all(events)
            topic.close_input()
        watch = Watch()
        await flow.run()
        return watch.took(), len(sink)


def measure() -> None:
    """Measures every join, in a process whose collector is its own."""
    print(f"{RECORDS:,} records, {SECONDS} s of event time, disorder 1 s, lateness 2 s; interleaved pairs")
    for job in jobs():
        print(job.name)
        sides, ratios = job.events(), []
        for pair in range(PAIRS):
            watch = Watch()
            outputs = plain(job, sides)
            alone = watch.took()
            flow, published = asyncio.run(through_flow(job, sides))
            assert outputs == published, f"{outputs} outputs, {published} published"
            ratios.append((alone[0] / flow[0], alone[1] / flow[1]))
            print(
                f"  pair {pair + 1}: plain {RECORDS / alone[0]:>11,.0f}/s   flow {RECORDS / flow[0]:>11,.0f}/s"
                f"   ratio {ratios[-1][0]:.2f} (CPU of all threads {ratios[-1][1]:.2f})   {published:,} pairs"
            )
        wall, cpu = (statistics.median(column) for column in zip(*ratios, strict=True))
        print(f"  median ratio {wall:.2f} (CPU of all threads {cpu:.2f})")
