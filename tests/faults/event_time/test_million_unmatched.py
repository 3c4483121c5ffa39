"""Very many records of a join that nothing matched, told by one watermark: bounded memory, short turns, each once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

import streamflow as sf
from streamflow.batch import Taken
from streamflow.flow import Flow
from streamflow.plan import make_plan
from streamflow.runtime.engine import Engine, Job
from streamflow.state.sqlite import SqliteStore
from streamflow.state.store import Delta, Epoch
from tests.faults.traps.lives import BRISK, Lives
from tests.faults.traps.slices import Memory, measured
from tests.faults.traps.tally import Tally

START_MS = 1_700_000_040_000
SLICE_MS_MAX = 10
FREEING_MS_MAX = 25
GROWN_BYTES_MAX = 600
"""Per record, in the burst, beyond what the waiting records themselves occupy."""


class Unmatched:
    """A flow whose state file holds very many records that wait for a match, one per key."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.given = 0
        self.topics = [sf.MemoryTopic[str](name, value=str) for name in ("left", "right")]
        self.tally = Tally("out", self.expected)

    def expected(self) -> Iterator[bytes]:
        """What moves the watermark matches itself; then in the order of the keys as JSON."""
        yield b"last last"
        yield from (f"{key} alone".encode() for key in sorted(f"k{key}" for key in range(self.total)))

    def flow(self) -> Flow:
        flow = Flow("unmatched")
        left, right = (
            flow.source(topic, time=lambda word: START_MS + 120_000, idle=None).key_by(_same, name=topic.name)
            for topic in self.topics
        )
        left.join(right, within="1m", how="outer", name="pairs", types=(str, str)).map(self.told).to(self.tally)
        return flow

    def told(self, pair: tuple[str | None, str | None]) -> bytes:
        self.given += 1
        return f"{pair[0] or pair[1]} {'last' if all(pair) else 'alone'}".encode()

    async def wait_for_all(self, path: Path) -> None:
        """Writes a checkpoint in which every record waits."""
        job = Job(make_plan(self.flow().graph()), SqliteStore(path))
        await job.store.open(job.manifest(Engine(job).bound))
        for epoch in range(1, 11):
            keys = range((epoch - 1) * self.total // 10, epoch * self.total // 10)
            sides = ("left", "right")
            rows = [f'["k{key}",[{key % 2},{START_MS * 1000},0],{{"{sides[key % 2]}":"k{key}"}},null]' for key in keys]
            delta = Delta("pairs", (0, 255), len(rows), f"[{','.join(rows)}]".encode())
            taken = {"left": Taken(), "right": Taken()}
            await job.store.commit(Epoch(epoch, epoch, START_MS, taken, deltas=[delta]))
        await job.store.close()


def _same(word: str) -> str:
    return word


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_each_is_told_of_once_and_others_run(tmp_path: Path) -> None:
    unmatched = Unmatched(300_000)
    await unmatched.wait_for_all(tmp_path / "flow.db")
    with measured() as slices:
        async with Lives(unmatched.flow, tmp_path / "flow.db", BRISK, thread=True).life() as life:
            await life.until(life.started, 100)
            memory = Memory()
            await asyncio.sleep(0)
            slices.milliseconds.clear()  # building the engine is the start, not the burst
            watch = asyncio.create_task(memory.watch())
            for topic in unmatched.topics:
                topic.send("last")
            await life.until(lambda: unmatched.tally.count == unmatched.total + 1 and life.engine.pacer.idle, 200)
            over = slices.over(SLICE_MS_MAX)
            assert life.engine.tables["pairs"].snapshot().keys() == {"last"}
            watch.cancel()
    assert unmatched.given == unmatched.total + 1
    assert unmatched.tally.wrong == []
    grown = memory.most - memory.before
    assert grown < (48 << 20) + GROWN_BYTES_MAX * unmatched.total, f"{grown / unmatched.total:.0f} bytes per record"
    assert max(over, default=0) < FREEING_MS_MAX, over
    assert len(over) <= 2, f"{over} of {slices.total_seconds:.1f} s"
