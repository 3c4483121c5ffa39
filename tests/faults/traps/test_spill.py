"""An epoch, or an outbox, larger than memory: it rests in the store, is read back in order, and leaves once."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import streamflow as sf
from streamflow.errors import CorruptStateError
from streamflow.flow import Flow
from streamflow.plan import make_plan
from streamflow.runtime.engine import Engine, Job
from streamflow.runtime.outbox import RUN_BYTES_MAX
from streamflow.state.recovery import PENDING_BYTES_MAX
from streamflow.state.sqlite import SqliteStore
from tests.faults.traps.lives import BRISK, Lives
from tests.faults.traps.slices import Memory
from tests.faults.traps.tally import Tally

SMALL = replace(BRISK, epoch_bytes_max=20_000, outbox_memory_bytes_max=30_000, chunk_bytes=2_000, fragment_rows_max=256)
ROWS = 4_000


class Case:
    """One record that becomes many rows, to any sink."""

    def __init__(self, rows: int = ROWS, row_bytes: int = 50) -> None:
        self.rows, self.row_bytes = rows, row_bytes
        self.source: sf.MemoryTopic[str] = sf.MemoryTopic("in", value=str)
        self.tally = Tally("out", self.expected)
        self.source.send("go")

    def expected(self) -> Iterator[bytes]:
        return (b"%0*d" % (self.row_bytes, number) for number in range(self.rows))

    def done(self) -> bool:
        return self.tally.count == self.rows

    def flow(self) -> Flow:
        flow = Flow("spills")
        flow.source(self.source).flat_map(lambda _: self.expected(), name="many").to(self.tally)
        return flow


@pytest.mark.parametrize(
    ("point", "nth"),
    [
        ("spill.done", 1),
        ("spill.done", 5),
        ("stage.sealed", 1),
        ("epoch.encoded", 1),
        ("commit.written", 1),
        ("commit.done", 1),
        ("epoch.appended", 1),
        ("sink.baseline", 1),
        ("publish.begun", 1),
        ("publish.done", 1),
        ("progress.noted", 2),
        ("stop.drained", 1),
    ],
)
async def test_a_crash_at_any_instant_of_it(tmp_path: Path, point: str, nth: int) -> None:
    case = Case()
    lives = Lives(case.flow, tmp_path / "flow.db", SMALL)
    async with lives.life(point, nth) as life:
        await life.until(lambda: case.tally.count == ROWS and point == "stop.drained")
        if point == "stop.drained":
            life.supervisor.stop()
        await life.until(lambda: False)
    assert lives.kills == 1
    async with lives.life() as life:
        await life.until(lambda: case.tally.count == ROWS)
    assert case.tally.wrong == []
    assert case.tally.count == ROWS


async def test_what_is_spilled_leaves_memory_and_counts_for_the_epoch(tmp_path: Path) -> None:
    case = Case()
    seen: list[tuple[int, int]] = []
    async with Lives(case.flow, tmp_path / "flow.db", SMALL).life("epoch.appended") as life:
        await life.until(life.started)
        staging = life.engine.stagings["out"]
        while not life.dead:
            held = sum(len(chunk.payload) for chunk in (*staging._staged.ahead, *staging._staged.chunks))
            seen.append((held, staging.size_bytes))
            await asyncio.sleep(0)
        outbox = life.engine.outboxes["out"]
        assert outbox.size_bytes > 200_000
        assert outbox.memory_bytes <= SMALL.outbox_memory_bytes_max
    limit = SMALL.epoch_bytes_max + 256 * (case.row_bytes + 4) + SMALL.chunk_bytes
    assert max(held for held, _ in seen) <= limit
    assert max(size for _, size in seen) > 3 * limit, "spilled bytes count, so that the epoch ends soon"


async def test_the_outbox_of_a_sink_that_is_away_leaves_memory(tmp_path: Path) -> None:
    numbers: sf.MemoryTopic[int] = sf.MemoryTopic("numbers", value=int)
    tally = Tally("out", lambda: (b"%050d" % number for number in range(20_000)))

    def make() -> Flow:
        flow = Flow("away")
        flow.source(numbers).map(lambda n: b"%050d" % n, name="bytes").to(tally)
        return flow

    settings = replace(SMALL, commit_min="0ms")
    async with Lives(make, tmp_path / "flow.db", settings).life() as life:
        await life.until(life.started)
        tally.away = True
        outbox = life.engine.outboxes["out"]
        for start in range(0, 20_000, 1_000):
            numbers.send_all(range(start, start + 1_000))
            await life.until(lambda sent=start + 1_000: life.engine.intake.records == sent)  # type: ignore[misc]
            assert outbox.memory_bytes <= SMALL.outbox_memory_bytes_max
        await life.until(lambda: life.engine.pacer.idle and not life.engine.intake.pending)
        assert outbox.size_bytes > 20 * SMALL.outbox_memory_bytes_max
        tally.away = False
        await life.until(lambda: tally.count == 20_000 and not outbox.chunks)
        assert outbox.memory_bytes == outbox.size_bytes == 0
    assert tally.wrong == []


async def test_the_digest_is_the_same_spilled_or_not(tmp_path: Path) -> None:
    digests = set()
    for number, settings in enumerate((BRISK, SMALL, replace(SMALL, epoch_bytes_max=90_000, chunk_bytes=777))):
        case = Case()
        path = tmp_path / f"{number}.db"
        async with Lives(case.flow, path, settings).life() as life:
            await life.until(case.done)
            assert life.passed["spill.done"] == 0 or number
        job = Job(make_plan(case.flow().graph()), SqliteStore(path))
        digests.add((await job.store.open(job.manifest(Engine(job).bound))).digest)
        await job.store.close()
    assert len(digests) == 1


async def test_an_epoch_spills_only_behind_the_commit_of_the_one_before(tmp_path: Path) -> None:
    source: sf.MemoryTopic[int] = sf.MemoryTopic("in", value=int)
    out: sf.MemoryTopic[int] = sf.MemoryTopic("out", value=int)

    def make() -> Flow:
        flow = Flow("pressed")
        numbers = flow.source(source)
        numbers.key_by(lambda n: n).count(name="counted")
        numbers.flat_map(lambda n: [n] * 20, name="many").to(out)
        return flow

    settings = replace(SMALL, epoch_bytes_max=4_000, epoch_records_max=512)
    async with Lives(make, tmp_path / "flow.db", settings, thread=True).life() as life:
        # many keys to be encoded, while what comes next fills its epoch
        source.send_all(range(4_000))
        await life.until(lambda: len(out) == 80_000)
        assert life.engine.committer.last_epoch > 3
    assert out.values == [n for n in range(4_000) for _ in range(20)]


async def test_a_large_outbox_is_not_loaded_whole(tmp_path: Path) -> None:
    case = Case(rows=100_000, row_bytes=1_000)
    settings = replace(BRISK, epoch_bytes_max=4 << 20, outbox_memory_bytes_max=4 << 20)
    lives = Lives(case.flow, tmp_path / "flow.db", settings, thread=True)
    case.tally.away = True
    async with lives.life("epoch.appended") as life:
        await life.until(lambda: False, 60)
    memory = Memory()
    watch = asyncio.create_task(memory.watch())
    async with lives.life() as life:
        await life.until(life.started)
        outbox = life.engine.outboxes["out"]
        assert outbox.size_bytes > 100_000_000
        assert outbox.memory_bytes <= PENDING_BYTES_MAX
        case.tally.away = False
        await life.until(lambda: case.tally.count == case.rows, 60)
    watch.cancel()
    assert case.tally.wrong == []
    # what is kept, a run read, split and checked, and SQLite's cache
    assert memory.grown_mib < (PENDING_BYTES_MAX + 4 * RUN_BYTES_MAX + (34 << 20)) / (1 << 20)


@pytest.mark.parametrize("point", ["publish.begun", "publish.done", "progress.noted"])
async def test_a_file_takes_it_too_and_finds_its_place_again(tmp_path: Path, point: str) -> None:
    case, lines = Case(rows=40_000), tmp_path / "out.txt"
    settings = replace(SMALL, outbox_memory_bytes_max=1)

    def make() -> Flow:
        flow = Flow("to-file")
        many = flow.source(case.source).flat_map(lambda _: case.expected(), name="many")
        many.map(bytes.decode, name="text").to(sf.lines(lines))
        return flow

    lives = Lives(make, tmp_path / "flow.db", settings)
    async with lives.life(point, 2) as life:  # of two runs
        await life.until(lambda: False)
    if point != "progress.noted":
        # a crash between the write and the note of it leaves a line torn, wherever it is
        with lines.open("rb+") as file:
            file.truncate(max(0, lines.stat().st_size - 7))
    async with lives.life() as life:
        await life.until(lambda: lines.read_bytes().count(b"\n") == case.rows)
    assert lines.read_bytes().split() == list(case.expected())


async def test_damage_in_what_rests_is_found_when_it_is_opened_and_when_it_is_read(tmp_path: Path) -> None:
    case = Case()
    lives = Lives(case.flow, tmp_path / "flow.db", SMALL)
    case.tally.away = True
    async with lives.life("epoch.appended") as life:
        await life.until(lambda: False)
    case.tally.away = False

    def damage() -> None:
        with sqlite3.connect(tmp_path / "flow.db") as connection:
            connection.execute(
                "UPDATE outbox SET payload = zeroblob(length(payload)) WHERE first_seq = "
                "(SELECT first_seq FROM outbox ORDER BY first_seq DESC LIMIT 1 OFFSET 5)"
            )
        connection.close()

    async with lives.life("sink.baseline") as life:
        await life.until(lambda: False)
    damage()
    with pytest.raises(CorruptStateError, match="the outbox of sink 'out'"):
        async with lives.life() as life:
            await life.until(lambda: False)
