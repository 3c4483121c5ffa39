"""The state of windows is bounded: hours of records leave no more behind than one hour; a small benchmark."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.bounded_state import Load, measure

LOAD = Load(records=150_000, keys=1_500, hours=5)


@pytest.mark.timeout(180)
async def test_state_is_that_of_one_hour_however_long_the_flow_runs(tmp_path: Path) -> None:
    *running, resting = await measure(LOAD, tmp_path / "moving.db", lambda reading: None)
    assert len(running) == LOAD.hours
    # six closed panes, the open one, and a session for each key
    most = 8 * LOAD.keys
    for reading in running:
        assert 6 * LOAD.keys <= reading.entries <= most, reading
    # under load changes wait to be folded, up to a bound of bytes; what they come to is the rows of one hour
    assert 6 * LOAD.keys <= resting.rows == resting.entries <= most, resting
    assert running[-1].memory_mib < running[1].memory_mib + 40
    assert resting.file_mib < 32
