"""A real flow whose disk fails: it stops with the reason, publishes and acknowledges nothing more, and starts exact."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

import streamflow as sf
from streamflow.errors import CheckpointError, StateError
from tests.faults.store.test_failing_calls import NthCall
from tests.faults.store.trials import folder_in_memory
from tests.faults.store.vfs import FULL, IOERR_FSYNC, IOERR_READ, IOERR_WRITE, Call, Hook, watched

WORDS = [f"word {n % 7}" for n in range(1500)]
EXPECTED = [(word, WORDS[: n + 1].count(word)) for n, word in enumerate(WORDS)]
SENT_AT_ONCE = 50
SETTINGS = sf.Settings(commit_min="0ms", epoch_records_max=60, chunk_bytes=100, epoch_bytes_max=300)
"""Small epochs, some of whose outputs spill."""


class Failing(Hook):
    """Fails calls as told."""

    def __init__(self, fault: NthCall) -> None:
        self.fault = fault

    def before(self, call: Call) -> int:
        return self.fault(call)


class Epochs(sf.Instrument):
    """Counts the input records of all epochs that are told to be committed."""

    def __init__(self) -> None:
        self.records = 0
        self.last = 0

    def committed(self, epoch: int, records: int, size_bytes: int, seconds: float) -> None:
        assert epoch == self.last + 1 or not self.last
        self.last, self.records = epoch, self.records + records


class World:
    """The brokers: a queue whose records are gone once acknowledged, and the topic of the results."""

    def __init__(self, folder: Path) -> None:
        self.words = sf.MemoryTopic("words", value=str, ids=True)
        self.counts = sf.MemoryTopic("counts", value=tuple[str, int])
        self.path = folder / "counting.db"
        self.sent = 0

    async def send(self, ended: Callable[[], bool], told: Epochs) -> None:
        """Sends what was not sent yet: a little, and the next when an epoch was committed, or the flow has ended."""
        while self.sent < len(WORDS):
            before = told.last
            self.words.send_all(WORDS[self.sent : self.sent + SENT_AT_ONCE])
            self.sent += SENT_AT_ONCE
            while told.last == before and not ended():
                await asyncio.sleep(0.0005)
        self.words.close_input()

    async def run(self) -> Epochs:
        told = Epochs()
        flow = sf.Flow("counting", state=self.path, settings=SETTINGS)
        flow.source(self.words).key_by(lambda word: word).count(name="counted").to(self.counts)
        running = asyncio.create_task(flow.run(told))
        sending = asyncio.create_task(self.send(running.done, told))
        try:
            await asyncio.wait_for(running, 60)
        except (CheckpointError, StateError) as error:
            self.error: CheckpointError | StateError | None = error
        else:
            self.error = None
        await sending
        return told

    @property
    def acknowledged(self) -> int:
        return len(WORDS) - len(self.words)


async def calls_of_a_run(kind: str) -> int:
    counting = NthCall(kind, 0)
    with folder_in_memory() as folder, watched(Failing(counting)):
        world = World(folder)
        told = await world.run()
    assert world.error is None
    assert world.counts.values == EXPECTED
    assert told.last > 8, "too few epochs to fail between"
    return counting.seen


@pytest.mark.parametrize(
    ("kind", "code"), [("write", FULL), ("write", IOERR_WRITE), ("sync", IOERR_FSYNC), ("read", IOERR_READ)]
)
@pytest.mark.timeout(300)
async def test_a_flow_stops_without_publishing_and_starts_exact(kind, code, long_run):
    total = await calls_of_a_run(kind)
    found: Counter[str] = Counter()
    trials = 30 if long_run else 5
    for n in range(1, total, max(1, total // trials)):
        fault = NthCall(kind, code, n, for_good=n % 2 == 0)
        with folder_in_memory() as folder:
            world = World(folder)
            with watched(Failing(fault)):
                told = await world.run()
            found["failed calls"] += len(fault.failed) > 0
            found[type(world.error).__name__] += 1
            if world.error is not None:
                assert world.error.hint
                assert len(world.counts) <= told.records, "published what was not committed"
                assert world.acknowledged <= told.records, "acknowledged what was not committed"
                assert world.counts.values == EXPECTED[: len(world.counts)]
                found["stopped in the middle"] += 0 < told.records < len(WORDS)
            await world.run()
            assert world.error is None
            assert world.counts.values == EXPECTED
            assert world.acknowledged == len(WORDS)
    print(f"{kind} {code}: {total} calls, {dict(found)}")
    assert found["failed calls"] > 2
    assert found["CheckpointError"] + found["StateError"] > 0
    if kind != "read":
        assert found["stopped in the middle"] > 0
