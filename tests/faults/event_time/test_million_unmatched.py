"""Very many records of a join that nothing matched, told by one watermark: bounded memory, short turns, each once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import streamflow as sf
from streamflow.flow import Flow
from tests.faults.traps.burst import measured_burst, write_checkpoint
from tests.faults.traps.tally import Tally

START_MS = 1_700_000_040_000
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
        sides = ("left", "right")

        def entries(keys: range) -> list[str]:
            return [f'["k{key}",[{key % 2},{START_MS * 1000},0],{{"{sides[key % 2]}":"k{key}"}},null]' for key in keys]

        await write_checkpoint(self.flow(), path, "pairs", self.total, START_MS, entries)


def _same(word: str) -> str:
    return word


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_each_is_told_of_once_and_others_run(tmp_path: Path) -> None:
    unmatched = Unmatched(300_000)
    await unmatched.wait_for_all(tmp_path / "flow.db")
    async with measured_burst(unmatched.flow, tmp_path / "flow.db") as burst:
        for topic in unmatched.topics:
            topic.send("last")
        await burst.until(lambda: unmatched.tally.count == unmatched.total + 1)
        assert burst.engine.tables["pairs"].snapshot().keys() == {"last"}
    assert unmatched.given == unmatched.total + 1
    assert unmatched.tally.wrong == []
    burst.check(unmatched.total, bytes_max=GROWN_BYTES_MAX, freeing_ms_max=FREEING_MS_MAX, freeing_turns_max=2)
