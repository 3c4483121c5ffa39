"""Numbers fit into a slice of the loop's time: slow steps get few rows at a time, fast ones full numbers."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

import streamflow as sf

SLOW_SECONDS = 100e-6
SLOW_RECORDS = 6000
RECORDS = 30_000


class Sizes(sf.Instrument):
    """Keeps the size of each number."""

    def __init__(self) -> None:
        self.rows: list[int] = []

    def number(self, number: int, records: int) -> None:
        self.rows.append(records)


@pytest.mark.allow_blocking("the step is slow on purpose")
async def test_a_slow_step_gets_small_numbers_and_a_fast_one_large_ones_again(tmp_path: Path) -> None:
    source: sf.MemoryTopic[int] = sf.MemoryTopic("in")
    sink: sf.MemoryTopic[int] = sf.MemoryTopic("out", value=int)
    source.send_all(range(RECORDS))
    source.close_input()

    def slow_at_first(value: int) -> int:
        until = time.perf_counter() + (SLOW_SECONDS if value < SLOW_RECORDS else 0.0)
        while time.perf_counter() < until:
            pass
        return value

    flow = sf.Flow("slow", state=tmp_path / "slow.db")
    flow.source(source).map(slow_at_first).to(sink)
    sizes = Sizes()
    await flow.run(sizes)
    assert sink.values == list(range(RECORDS))
    taken = 0
    slow_ones = [rows for rows in sizes.rows if (taken := taken + rows) < SLOW_RECORDS]
    # halved from number to number, from 1024 until 2 ms are kept; a few are under way before the first is measured
    assert min(slow_ones) <= 32
    assert slow_ones[-1] <= 64
    assert max(sizes.rows[-8:]) >= 512
