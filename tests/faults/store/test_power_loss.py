"""Power cuts at any instant of real lives: nothing acknowledged is lost, nothing is corrupt, nothing is half there."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from streamflow.state.sqlite import SqliteStore
from tests.faults.store.disk import Disk, Mark
from tests.faults.store.trials import cut_power, folder_in_memory, record

STEPS = 60


def weaker(mode: str):
    """Weakens a store's durability right after it was opened."""

    def settle(store: SqliteStore) -> None:
        store._open_connection().execute(f"PRAGMA synchronous={mode}").close()

    return settle


async def power_losses(lives: int, images: int, mode: str = "") -> Counter[str]:
    found: Counter[str] = Counter()
    for seed in range(lives):
        with folder_in_memory() as folder:
            recording = await record(folder, seed, STEPS, weaker(mode) if mode else None)
            found += await cut_power(recording, images, Disk(), seed)
    return found


async def test_a_record_is_complete():
    with folder_in_memory() as folder:
        recording = await record(folder, 1, STEPS)
        disk = Disk()
        for event in recording.events:
            if not isinstance(event, Mark):
                disk.apply(event)
        seen = disk.seen()
        assert {Path(path).name for path in seen} == {"orders.db", "orders.db-wal", "orders.db.epoch"}
        for path, content in seen.items():
            assert Path(path).read_bytes() == content, path
        calls = {(event.kind, Path(event.path).suffix) for event in recording.events if not isinstance(event, Mark)}
        for suffix in (".db", ".db-wal", ".db-journal", ".epoch"):
            assert {("open", suffix), ("write", suffix), ("sync", suffix)} <= calls
        assert {("truncate", ".db-wal"), ("delete", ".db-journal"), ("delete", ".db-wal")} <= calls


@pytest.mark.timeout(300)
async def test_a_power_cut_loses_nothing_that_was_acknowledged(long_run):
    lives, images = (50, 40) if long_run else (10, 30)
    found = await power_losses(lives, images)
    print(f"power cuts, synchronous=FULL: {dict(found)}")
    assert found["exact"] + found["exact, under way"] == lives * images, found
    assert found["exact, under way"] > 0, "no cut hit the moment between a COMMIT and its answer"
    assert found["lived on"] > lives * images / 10


async def test_the_method_finds_what_weaker_settings_lose():
    normal = await power_losses(4, 40, "NORMAL")
    print(f"power cuts, synchronous=NORMAL: {dict(normal)}")
    assert normal["older"] + normal["went back"] > 10, "WAL without a sync per COMMIT loses epochs"
    assert normal["refused"] == 0, "but it corrupts nothing"
    off = await power_losses(4, 40, "OFF")
    print(f"power cuts, synchronous=OFF: {dict(off)}")
    assert off["refused"] > 10, "without any sync the file is corrupt, and said to be"
    assert not [found for found in (normal + off) if found.startswith("WRONG")]
