"""Windows, or a join, over a moving hour: memory and rows stay those of one hour, however long the flow runs.

Prints both each time an hour of event time is over, at the end, and when all changes are folded into rows. Records are
made as they are read.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeAlias

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
SHOWN: Final = "u7"
"""The key whose results leave the flow."""

Event: TypeAlias = tuple[str, int, int]
"""Key, time in milliseconds, and on which side of a join it is."""


@dataclass(frozen=True)
class Load:
    """What flows: so many records of so many keys, evenly over so many hours of event time."""

    records: int = RECORDS
    keys: int = KEYS
    hours: int = HOURS

    def event(self, n: int) -> Event:
        """The n-th record: out of order by up to a second; each key is on the left, then on the right, and so on."""
        at_ms = START_MS + n * self.hours * HOUR_MS // self.records
        return f"u{n * STEP % self.keys}", at_ms - n * 37 % 1000, n // self.keys % 2


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


Build = Callable[[sf.Stream[Event]], Iterator[sf.Stream[int]]]
"""What the records go through, each step named; of its results only those of one key leave the flow."""


def windows(records: sf.Stream[Event]) -> Iterator[sf.Stream[int]]:
    """Sliding windows of an hour, every ten minutes, and sessions."""
    keyed = records.key_by(lambda event: event[0])
    for step in (
        keyed.window(sf.sliding("1h", "10m")).count(name="moving"),
        keyed.window(sf.session("20m")).count(name="visits"),
    ):
        yield step.filter(lambda row: row.key == SHOWN).map(lambda row: row.value)


def join(records: sf.Stream[Event]) -> Iterator[sf.Stream[int]]:
    """Each record on the right with those on the left of the last hour; and those on the left that nothing matched."""
    left = records.filter(lambda event: event[2] == 0, name="left").key_by(lambda event: event[0], name="left-key")
    right = records.filter(lambda event: event[2] == 1, name="right").key_by(lambda event: event[0], name="right-key")
    pairs = left.join(right, within=("0s", "1h"), how="left", types=(Event, Event), name="pairs")
    yield pairs.filter(lambda pair: pair[0][0] == SHOWN).map(lambda pair: pair[0][1])


LOADS: Final[dict[str, tuple[Build, Load]]] = {
    "windows": (windows, Load()),
    # in an hour five records of each key on either side; each on the right meets five on the left
    "join": (join, Load(hours=10)),
}


async def measure(build: Build, load: Load, path: Path, told: Callable[[Reading], None]) -> list[Reading]:
    """Runs the flow to its end; reads memory and rows at each hour of event time, behind the last record, at rest."""
    flow = sf.Flow("moving", state=path)
    records = flow.source(Made(load), time=lambda event: event[1], lateness="2s", idle=None, future_max="3650d")
    for number, stream in enumerate(build(records)):
        # results of one key: what is published must not be what grows
        stream.to(sf.MemoryTopic(f"results-{number}", value=int))
    clock, readings, began = Clock(), list[Reading](), time.perf_counter()
    hours = [*range(1, load.hours), load.hours - 0.01]
    async with flow.running(clock) as run:

        async def read() -> Reading:
            memory_mib, tables = _memory_mib(), run.engine.tables.values()
            entries = sum(sum(map(len, table.index.values())) or len(table) for table in tables)
            in_file = await asyncio.to_thread(_look, path)
            return Reading(hours_passed(), time.perf_counter() - began, entries, *in_file, memory_mib)

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


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bounded_state", description=__doc__)
    parser.add_argument("what", nargs="?", choices=LOADS, default="windows")
    parser.add_argument("--records", type=int, default=RECORDS, help="with as many keys as there are to 100 records")
    options = parser.parse_args(arguments)
    build, full = LOADS[options.what]
    load = replace(full, records=options.records, keys=options.records // (RECORDS // KEYS))
    own_collector()
    print(f"{options.what}: {load.records:,} records of {load.keys:,} keys over {load.hours} hours")
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(measure(build, load, Path(folder) / "moving.db", show))


if __name__ == "__main__":
    main(sys.argv[1:])
