"""Windows over a moving hour: memory and rows stay those of one hour, however long the flow runs.

Prints both each time an hour of event time is over, at the end, and when all changes are folded into rows. Records are
made as they are read.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import sys
import tempfile
import time
from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import streamflow as sf
from streamflow.batch import Partition, Position, SourceBatch, Taken
from streamflow.codecs import Codec
from streamflow.connect.contracts import Guarantee, Level, Probe, SourceContext
from streamflow.runtime.process import own_collector

RECORDS: Final = 10_000_000
KEYS: Final = 100_000
HOURS: Final = 5
START_MS: Final = 1_767_225_600_000
HOUR_MS: Final = 3_600_000
BATCH: Final = 2048
STEP: Final = 7_919
"""Keys come in an order that meets each once before any comes twice: it shares no factor with their number."""

Event = tuple[str, int]


@dataclass(frozen=True)
class Load:
    """What flows: so many records of so many keys, evenly over so many hours of event time."""

    records: int = RECORDS
    keys: int = KEYS
    hours: int = HOURS

    def event(self, n: int) -> Event:
        """The n-th record: out of order by up to a second."""
        at_ms = START_MS + n * self.hours * HOUR_MS // self.records
        return f"u{n * STEP % self.keys}", at_ms - n * 37 % 1000


class Made:
    """A source whose records are made when they are read; its position is the number of the next."""

    guarantee = Guarantee(Level.EXACTLY_ONCE, "each record follows from its number")

    def __init__(self, load: Load) -> None:
        self.load = load
        self.name = "made"
        self.codec: Codec[Event] | None = None
        self._next = 0

    def describe(self) -> str:
        return f"{self.load.records:,} records made here"

    def source(self) -> Made:
        return Made(self.load)

    async def probe(self) -> Probe:
        return Probe(True)

    async def open(self, ctx: SourceContext, resume: Mapping[Partition, Position]) -> Mapping[Partition, Position]:
        self._next = resume[""].at if resume else 0
        return {"": Position(self._next)}

    async def read(self) -> SourceBatch | None:
        start, stop = self._next, min(self._next + BATCH, self.load.records)
        if start == stop:
            await asyncio.Event().wait()  # an end would close the windows, and leave nothing to measure
        self._next = stop
        return SourceBatch("", [self.load.event(n) for n in range(start, stop)], range(start + 1, stop + 1))

    async def ends(self) -> Mapping[Partition, Position | None]:
        return {"": Position(self.load.records)}

    def pause(self, partitions: Set[Partition]) -> None:
        """Nothing is read ahead."""

    async def committed(self, epoch: int, taken: Taken) -> None:
        """Nothing to acknowledge."""

    async def close(self) -> None:
        """Nothing to close."""


@dataclass(frozen=True)
class Reading:
    """What was there when so many hours of event time were over; ``unfolded`` are changes that are not in rows yet."""

    hours: float
    seconds: float
    entries: int
    rows: int
    unfolded: int
    file_mib: float
    memory_mib: float


class Clock(sf.Instrument):
    """Tells how far event time is."""

    def __init__(self) -> None:
        self.at_us = START_MS * 1000

    def watermark(self, sources: str, at_us: int) -> None:
        self.at_us = at_us


async def measure(load: Load, path: Path, told: Any) -> list[Reading]:
    """Runs the flow to its end; reads memory and rows at each hour of event time, behind the last record, at rest."""
    flow = sf.Flow("moving", state=path)
    records = flow.source(Made(load), time=lambda event: event[1], lateness="2s", idle=None, future_max="3650d")
    keyed = records.key_by(lambda event: event[0])
    results = keyed.window(sf.sliding("1h", "10m")).count(name="moving")
    sessions = keyed.window(sf.session("20m")).count(name="visits")
    for stream, name in ((results, "results"), (sessions, "sessions")):
        # results of one key: what is published must not be what grows
        stream.filter(lambda row: row.key == "u7").map(lambda row: row.value).to(sf.MemoryTopic(name, value=int))
    clock, readings, began = Clock(), list[Reading](), time.perf_counter()
    hours = [*range(1, load.hours), load.hours - 0.01]
    async with flow.running(clock) as run:

        async def read() -> Reading:
            tables = run.engine.tables.values()
            entries = sum(len(subs) for table in tables for subs in table.index.values())
            in_file = await asyncio.to_thread(_look, path)
            return Reading(hours_passed(), time.perf_counter() - began, entries, *in_file, _memory_mib())

        def hours_passed() -> float:
            return (clock.at_us / 1000 - START_MS) / HOUR_MS

        while len(readings) < len(hours) + 1:
            await asyncio.sleep(0.05)
            at_rest = len(readings) == len(hours)
            if at_rest or hours_passed() >= hours[len(readings)]:
                reading = await read()
                if not at_rest or not reading.unfolded:
                    readings.append(reading)
                    told(reading)
    return readings


def _look(path: Path) -> tuple[int, int, float]:
    """Rows of the file that are folded, changes that are not, and its size with its log."""
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        ((rows,),) = connection.execute("SELECT count(*) FROM state")
        ((unfolded,),) = connection.execute("SELECT count(*) FROM state_delta")
    finally:
        connection.close()
    return rows, unfolded, sum(each.stat().st_size for each in path.parent.glob(f"{path.name}*")) / 2**20


def _memory_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def show(reading: Reading) -> None:
    print(
        f"  {reading.hours:5.2f} h of event time, {reading.seconds:5.1f} s: {reading.entries:>7,} entries in memory, "
        f"{reading.rows:>7,} rows in the file, {reading.memory_mib:5.0f} MiB, {reading.file_mib:4.0f} of file",
        flush=True,
    )


def main() -> None:
    load = Load()
    own_collector()
    print(f"{load.records:,} records of {load.keys:,} keys over {load.hours} hours; sliding 1 h every 10 min, sessions")
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(measure(load, Path(folder) / "moving.db", show))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.exit("python -m benchmarks.bounded_state takes no arguments")
    main()
