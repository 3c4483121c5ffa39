"""The state of windows and joins is bounded: hours of records leave no more behind than one hour; a small benchmark."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.bounded_state import Load, Reading, join, measure, windows

WINDOWS = Load(records=150_000, keys=1_500, hours=5)
JOIN = Load(records=150_000, keys=1_500, hours=10)


def check(readings: list[Reading], load: Load, least: int, most: int) -> None:
    """Holds what was there at each hour, and at rest, against how many entries one hour has."""
    *running, resting = readings
    assert len(running) == load.hours
    for reading in running:
        assert least <= reading.entries <= most, reading
    # under load changes wait to be folded, up to a bound of bytes; what they come to is the rows of one hour
    assert least <= resting.rows == resting.entries <= most, resting
    assert running[-1].memory_mib < running[1].memory_mib + 40
    assert resting.file_mib < 32


@pytest.mark.timeout(180)
async def test_windows_hold_one_hour_however_long_the_flow_runs(tmp_path: Path) -> None:
    readings = await measure(windows, WINDOWS, tmp_path / "moving.db", lambda reading: None)
    # six closed panes, the open one, and a session for each key
    check(readings, WINDOWS, 6 * WINDOWS.keys, 8 * WINDOWS.keys)


@pytest.mark.timeout(180)
async def test_a_join_holds_one_hour_however_long_the_flow_runs(tmp_path: Path) -> None:
    readings = await measure(join, JOIN, tmp_path / "moving.db", lambda reading: None)
    # a key is five times on the left in an hour; event time is read where records are taken, up to half an hour ahead;
    # those on the right wait for nobody, and go together, a sixteenth of an hour later
    check(readings, JOIN, 3 * JOIN.keys, 8 * JOIN.keys)
    assert 4.5 * JOIN.keys <= readings[-1].entries <= 6.5 * JOIN.keys
