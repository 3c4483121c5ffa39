"""What the file says of its own content: missing rows and rows of another day are found, though each one is right."""

from __future__ import annotations

import json
import os
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from streamflow.batch import Position, Progress, Taken
from streamflow.errors import CorruptStateError, EpochWentBack
from streamflow.state.files import copy_as_found
from tests.unit.state.given import MANIFEST, expected_accounts, fold_all, full_epoch, loaded, new_store


@pytest.fixture
def path(tmp_path):
    return tmp_path / "orders.db"


async def filled(path: Path) -> None:
    """Rows, deltas, positions, ids, an outbox."""
    store = new_store(path)
    await store.open(MANIFEST)
    for number in (1, 2, 3):
        await store.commit(full_epoch(number))
    await fold_all(store)
    for number in (4, 5):
        await store.commit(full_epoch(number))
    await store.close()


async def read(path: Path):
    store = new_store(path)
    try:
        await store.open(MANIFEST)
        return await loaded(store)
    finally:
        store.abandon()


@pytest.mark.parametrize(
    "change",
    [
        "DELETE FROM state WHERE key = '\"key 3\"'",
        "DELETE FROM state_delta WHERE epoch = 4",
        "DELETE FROM source WHERE partition = 'p1'",
        "DELETE FROM seen WHERE epoch = 2",
        "DELETE FROM outbox",
        "DELETE FROM sink",
        "DELETE FROM epoch WHERE epoch = 5",
        "UPDATE step SET name = 'other' WHERE name = 'panes'",
        "UPDATE meta SET value = value + 1 WHERE key = 'generation'",
        "UPDATE meta SET value = 'ordert' WHERE key = 'flow'",
        "UPDATE meta SET value = '' WHERE key = 'content'",
        "DELETE FROM meta WHERE key = 'content'",
        # the same bytes, but SQLite sorts them elsewhere
        "UPDATE state SET key = CAST(key AS BLOB)",
        "UPDATE state_delta SET payload = CAST(payload AS BLOB)",
        "UPDATE source SET partition = CAST(partition AS BLOB)",
        "UPDATE seen SET ids = CAST(ids AS BLOB)",
    ],
)
async def test_what_no_row_alone_can_tell_is_found(path, change):
    await filled(path)
    with sqlite3.connect(path) as db:
        assert db.execute(change).rowcount > 0
    db.close()
    before = path.read_bytes()
    with pytest.raises((CorruptStateError, EpochWentBack), match=r"orders\.db") as caught:
        await read(path)
    assert caught.value.hint
    if " state " not in change and "payload" not in change:
        assert path.read_bytes() == before, "what is refused is not changed"


async def test_rows_of_another_day_are_found(path):
    store = new_store(path)
    await store.open(MANIFEST)
    await store.commit(full_epoch(1))
    await fold_all(store)
    db = sqlite3.connect(path)
    older = db.execute("SELECT * FROM state").fetchall()
    await store.commit(full_epoch(2))
    await fold_all(store)
    await store.close()
    with db:
        db.executemany("INSERT OR REPLACE INTO state VALUES (?, ?, ?, ?, ?, ?, ?)", older)
    db.close()
    with pytest.raises(CorruptStateError, match=r"rows in table state .* older or newer"):
        await read(path)


async def test_the_content_is_kept_through_renaming_and_dropping(path):
    await filled(path)
    renamed = replace(
        MANIFEST,
        tables={"people": MANIFEST.tables["accounts"]},
        sources=("orders", "messages"),
        drop={"panes"},
        renamed={"accounts": "people", "queue": "messages"},
    )
    store = new_store(path)
    checkpoint = await store.open(renamed)
    assert len(checkpoint.taken["messages"].ids) == 15
    assert set((await loaded(store)).tables) == {"people"}
    await store.close()
    store = new_store(path)
    assert len((await store.open(renamed)).taken["messages"].ids) == 15
    assert (await loaded(store)).plain("people") == expected_accounts(5)
    await store.close()


async def test_a_lost_note_is_found_by_the_witness(path, tmp_path):
    store = new_store(path)
    await store.open(MANIFEST)
    await store.note({"orders": Taken({"p0": Position(7, "made-1")})}, {})
    copy_as_found(path, tmp_path / "before.db")
    await store.note({}, {"alerts": Progress(0, 100, b"the broker's head")})
    store.abandon()
    for suffix in ("", "-wal"):
        older = tmp_path / f"before.db{suffix}"
        path.with_name(path.name + suffix).write_bytes(older.read_bytes())
    with pytest.raises(EpochWentBack, match=r"epoch 0 with note 1, .* epoch 0 with note 2"):
        await read(path)
    for suffix in ("", "-wal"):
        path.with_name(path.name + suffix).unlink()
    with pytest.raises(EpochWentBack, match="gone or empty, and its witness says that epoch 0 with note 2"):
        await read(path)


async def test_what_a_changed_flow_dropped_does_not_come_back(path, tmp_path):
    await filled(path)
    copy_as_found(path, tmp_path / "before.db")
    store = new_store(path)
    await store.open(replace(MANIFEST, tables={"accounts": MANIFEST.tables["accounts"]}, drop={"panes"}))
    await store.close()
    path.write_bytes((tmp_path / "before.db").read_bytes())
    with pytest.raises(EpochWentBack, match=r"epoch 5 with note 0, .* epoch 5 with note 1"):
        await read(path)


async def test_new_names_are_made_durable(tmp_path, monkeypatch):
    synced: list[int] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_ino)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    path = tmp_path / "new" / "deep" / "orders.db"
    store = new_store(path)
    await store.open(MANIFEST)
    store.abandon()
    places = [tmp_path, tmp_path / "new", tmp_path / "new" / "deep", path.with_name("orders.db.epoch")]
    assert synced == [place.stat().st_ino for place in places]


async def test_the_content_can_be_read_by_people(path):
    await filled(path)
    db = sqlite3.connect(path)
    ((text,),) = db.execute("SELECT value FROM meta WHERE key = 'content'")
    epoch, notes, generation, totals = json.loads(text)
    assert (epoch, notes, generation) == (5, 0, 1)
    for table in ("source", "seen", "sink", "outbox", "state", "state_delta"):
        assert totals[table] == list(db.execute(f"SELECT count(*), sum(crc) FROM {table}").fetchone())
    db.close()
