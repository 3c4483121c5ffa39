"""Event-time windows and joins, checkpoints on, against plain loops that compute the same.

The plain loops keep dicts, know no lateness per record, no state that survives, and close windows every 1,000 records.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import streamflow as sf
from benchmarks import joins, panes
from benchmarks.keyed import Watch
from streamflow.codecs import JsonCodec
from streamflow.runtime.process import own_collector

RECORDS = 1_000_000
KEYS = 1_000
PAIRS = 3
START_MS = 1_767_225_600_000
LATENESS_MS = 2_000
SECONDS = 1200
"""Event time that all records span."""

Event = tuple[str, int]
Row = tuple[str, int, int]
encode = JsonCodec[Row](Row).encode


def make_events() -> list[Event]:
    rng = random.Random(1)
    step = SECONDS * 1000 / RECORDS
    return [
        (f"u{rng.randrange(KEYS)}", START_MS + int(n * step) - rng.randrange(LATENESS_MS // 2)) for n in range(RECORDS)
    ]


def key(event: Event) -> str:
    return event[0]


def time_of(event: Event) -> int:
    return event[1]


def told(row: sf.Windowed[str, int]) -> Row:
    return (row.key, int(row.start.timestamp()), row.value)


def plain_tumbling(events: list[Event]) -> int:
    return _aligned(events, 60_000, 60_000)


def plain_sliding(events: list[Event]) -> int:
    return _aligned(events, 60_000, 6_000)


def _aligned(events: list[Event], size: int, pane: int) -> int:
    """Counts per key and pane; a window is the sum of its panes."""
    panes: dict[int, dict[str, int]] = {}
    out: list[bytes] = []
    latest, ends = 0, START_MS

    def close(upto: int) -> None:
        nonlocal ends
        while ends <= upto:
            found: dict[str, int] = {}
            for at in range(ends - size, ends, pane):
                for name, count in panes.get(at, {}).items():
                    found[name] = found.get(name, 0) + count
            out.extend(encode((name, (ends - size) // 1000, found[name])) for name in sorted(found))
            panes.pop(ends - size, None)
            ends += pane

    for at, event in enumerate(events):
        name, time = key(event), time_of(event)
        latest = max(time, latest)
        start = time - time % pane
        counts = panes.get(start)
        if counts is None:
            counts = panes[start] = {}
        counts[name] = counts.get(name, 0) + 1
        if at % 1000 == 999:
            close(latest - LATENESS_MS)
    close(latest + size + pane)
    return len(out)


def plain_sessions(events: list[Event]) -> int:
    gap = 10_000
    open_: dict[str, list[list[int]]] = {}
    out: list[bytes] = []
    latest = 0
    for at, event in enumerate(events):
        name, time = key(event), time_of(event)
        latest = max(time, latest)
        mine = open_.setdefault(name, [])
        near = [session for session in mine if session[0] - gap <= time <= session[1] + gap]
        if len(near) == 1:
            session = near[0]
            session[0], session[1], session[2] = min(session[0], time), max(session[1], time), session[2] + 1
        else:
            for session in near:
                mine.remove(session)
            first = min([time, *(session[0] for session in near)])
            last = max([time, *(session[1] for session in near)])
            mine.append([first, last, 1 + sum(session[2] for session in near)])
        if at % 1000 == 999:
            _end(open_, latest - LATENESS_MS - gap, out)
    _end(open_, latest + gap + 1, out)
    return len(out)


def _end(open_: dict[str, list[list[int]]], upto: int, out: list[bytes]) -> None:
    ready = [(session[1], name, session) for name, mine in open_.items() for session in mine if session[1] < upto]
    for _, name, session in sorted(ready):
        open_[name].remove(session)
        out.append(encode((name, session[0] // 1000, session[2])))


@dataclass(frozen=True)
class Job:
    """A kind of window, and the plain loop that computes the same."""

    name: str
    kind: Any
    plain: Callable[[list[Event]], int]


def jobs() -> Iterator[Job]:
    yield Job("tumbling 1 min, count", sf.tumbling("1m"), plain_tumbling)
    yield Job("sliding 1 min every 6 s (10 panes), count", sf.sliding("1m", "6s"), plain_sliding)
    yield Job("session of 10 s gap, count", sf.session("10s"), plain_sessions)


async def through_flow(job: Job, events: list[Event]) -> tuple[tuple[float, float], int]:
    """Numbered, checkpointed, published; returns what it took and the outputs."""
    with tempfile.TemporaryDirectory() as folder:
        flow = sf.Flow("windows", state=Path(folder) / "windows.db")
        source: sf.MemoryTopic[Event] = sf.MemoryTopic("events")
        sink = sf.MemoryTopic("counts", value=tuple[str, int, int])
        records = flow.source(source, time=time_of, lateness=f"{LATENESS_MS}ms", future_max="365d")
        records.key_by(key).window(job.kind).count(name="counts").map(told).to(sink)
        source.send_all(events)
        source.close_input()
        watch = Watch()
        await flow.run()
        return watch.took(), len(sink)


def main() -> None:
    events = make_events()
    own_collector()
    print(
        f"{RECORDS:,} records, {KEYS:,} keys, {SECONDS} s of event time, disorder 1 s, lateness 2 s; interleaved pairs"
    )
    for job in jobs():
        print(job.name)
        ratios = []
        for pair in range(PAIRS):
            watch = Watch()
            outputs = job.plain(events)
            alone = watch.took()
            flow, published = asyncio.run(through_flow(job, events))
            assert outputs == published, f"{outputs} outputs, {published} published"
            ratios.append((alone[0] / flow[0], alone[1] / flow[1]))
            print(
                f"  pair {pair + 1}: plain {RECORDS / alone[0]:>11,.0f}/s   flow {RECORDS / flow[0]:>11,.0f}/s"
                f"   ratio {ratios[-1][0]:.2f} (CPU of all threads {ratios[-1][1]:.2f})   {published:,} windows"
            )
        wall, cpu = (statistics.median(column) for column in zip(*ratios, strict=True))
        print(f"  median ratio {wall:.2f} (CPU of all threads {cpu:.2f})")
    panes.measure()
    joins.measure()


if __name__ == "__main__":
    main()
