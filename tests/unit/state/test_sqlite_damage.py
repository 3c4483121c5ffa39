"""Disks that fail, fill or lie: an error that says so, and never a wrong state."""

from __future__ import annotations

import random
import resource
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from streamflow.errors import CheckpointError, CorruptStateError, StateError
from streamflow.state.files import copy_as_found
from streamflow.state.sqlite import SqliteStore
from streamflow.state.store import Checkpoint
from tests.unit.state.given import (
    MANIFEST,
    Held,
    chunk,
    delta,
    epoch,
    expected_accounts,
    fold_all,
    full_epoch,
    loaded,
    new_store,
    raw_delta,
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "orders.db"


async def filled(path: Path) -> SqliteStore:
    """A store with rows, deltas, an outbox, and two epochs in the WAL."""
    store = new_store(path)
    await store.open(MANIFEST)
    for number in (1, 2, 3):
        await store.commit(full_epoch(number))
    await fold_all(store)
    for number in (4, 5):
        await store.commit(full_epoch(number))
    return store


# -- checksums: what SQLite itself cannot see --


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("UPDATE state SET value = replace(value, '3', '4')", "state of step 'accounts' for key .*key"),
        ("UPDATE state SET key = replace(key, 'key 1', 'key 9')", "state of step 'accounts'"),
        ("UPDATE state SET expires_ms = 5", "state of step"),
        ("UPDATE state SET key_group = (key_group + 1) % 256", "state of step"),
        ("UPDATE state SET step = 3 - step", "state of step"),
        ("UPDATE state_delta SET payload = replace(payload, '4', '7')", "changes of step 'accounts' in epoch 4"),
        ("UPDATE state_delta SET epoch = epoch + 1", "changes of step 'accounts' in epoch 5"),
        ("UPDATE state_delta SET count = 1 WHERE step = 1", "number of changes of step 'accounts'"),
        ("UPDATE outbox SET payload = x'00'", "outbox of sink 'alerts', sequence 5"),
        ("UPDATE outbox SET chunk = 7", "outbox of sink 'alerts'"),
        ("UPDATE outbox SET first_seq = first_seq + 100 WHERE first_seq = 5", "outbox of sink 'alerts'"),
        ("UPDATE source SET position = position + 1", "position of source 'orders', partition 'p0'"),
        ("UPDATE source SET identity = 'other'", "position of source 'orders'"),
        ("UPDATE seen SET ids = replace(ids, 'id-2', 'id-9')", "source 'queue' took in epoch 2"),
        ("UPDATE sink SET next_seq = next_seq - 1", "progress of sink 'alerts'"),
        ("UPDATE sink SET cursor = x''", "progress of sink 'alerts'"),
        ("UPDATE epoch SET number = number - 1", "row of epoch 5"),
        ("UPDATE epoch SET digest = x''", "row of epoch 5"),
    ],
)
async def test_a_changed_field_is_found_and_named(path, change, words):
    await (await filled(path)).close()
    with sqlite3.connect(path) as db:
        db.execute(change)
    db.close()
    with pytest.raises(CorruptStateError, match=words) as caught:
        await content(path)
    assert caught.value.hint


async def test_a_gap_in_the_outbox_is_found(path):
    store = new_store(path)
    await store.open(MANIFEST)
    await store.commit(epoch(1, chunks=[chunk(1, 1), chunk(2, 1, index=1), chunk(3, 1, index=2)]))
    await store.close()
    with sqlite3.connect(path) as db:
        db.execute("DELETE FROM outbox WHERE first_seq = 2")
    db.close()
    with pytest.raises(CorruptStateError, match="2 rows in table outbox where it says 3"):
        await new_store(path).open(MANIFEST)


async def content(path: Path) -> tuple[Any, Held]:
    store = new_store(path)
    try:
        checkpoint: Checkpoint = await store.open(MANIFEST)
        held = await loaded(store)
    finally:
        store.abandon()
    told = (checkpoint.epoch, checkpoint.number, checkpoint.taken, checkpoint.progress, checkpoint.pending)
    return (*told, checkpoint.digest), held


@pytest.mark.parametrize("stopped", ["cleanly", "killed"])
async def test_a_flipped_bit_is_found_or_without_effect(path, tmp_path, stopped, long_run):
    store = await filled(path)
    if stopped == "cleanly":
        await store.close()
    else:
        store.abandon()
    copy_as_found(path, tmp_path / "first.db")
    right = await content(tmp_path / "first.db")
    chosen = random.Random(7)
    found = harmless = 0
    victims = [path] if stopped == "cleanly" else [path, path.with_name("orders.db-wal")]
    for trial in range(4000 if long_run else 250):
        victim = chosen.choice(victims)
        trial_path = tmp_path / "trial.db"
        copy_as_found(path, trial_path)
        target = trial_path.with_name(victim.name.replace("orders", "trial"))
        data = bytearray(target.read_bytes())
        place = chosen.randrange(len(data))
        data[place] ^= 1 << chosen.randrange(8)
        target.write_bytes(data)
        try:
            now = await content(trial_path)
        except StateError:
            found += 1
        else:
            assert now == right, f"trial {trial}: byte {place} of {target.name} changed the state unseen"
            harmless += 1
        trial_path.with_name("trial.db-shm").unlink(missing_ok=True)
    assert found > 5
    assert harmless > 5, "free space was hit too, so the trials really opened something"


async def test_a_truncated_file_is_found(path, tmp_path):
    await (await filled(path)).close()
    whole = path.read_bytes()
    for size in range(0, len(whole), 4096):
        path.write_bytes(whole[: size + 100])
        with pytest.raises(StateError):
            await content(path)


# -- writing --


async def test_a_full_disk_stops_the_commit_and_nothing_of_it_is_stored(path):
    store = new_store(path)
    await store.open(MANIFEST)
    await store.commit(full_epoch(1))
    connection = store._open_connection()
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count={pages + 2}")
    with pytest.raises(CheckpointError, match=r"epoch 2 .*full.*SQLITE_FULL") as caught:
        await store.commit(epoch(2, journal=b"j" * 100_000))
    assert "make room" in caught.value.hint
    with pytest.raises(CheckpointError, match="not written to any more"):
        await store.commit(full_epoch(2))
    await store.close()
    store = new_store(path)
    assert (await store.open(MANIFEST)).epoch == 1
    assert (await loaded(store)).plain("accounts") == expected_accounts(1)
    await store.commit(full_epoch(2))
    await store.close()


async def test_a_failing_write_stops_the_commit(path):
    store = new_store(path)
    await store.open(MANIFEST)
    await store.commit(full_epoch(1))
    size = path.with_name("orders.db-wal").stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 5000, hard))
    try:
        with pytest.raises(CheckpointError, match="epoch 2") as caught:
            await store.commit(epoch(2, journal=b"j" * 100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.hint
    store.abandon()
    store = new_store(path)
    assert (await store.open(MANIFEST)).epoch == 1
    await store.close()


class Failing:
    """A connection whose COMMIT fails as the disk would."""

    def __init__(self, real: sqlite3.Connection, name: str) -> None:
        self._real = real
        self._name = name
        self.commits = 0

    def execute(self, sql: str, *parameters: Any) -> Any:
        if sql == "COMMIT":
            self.commits += 1
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorname = self._name
            raise error
        return self._real.execute(sql, *parameters)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("SQLITE_IOERR_FSYNC", "disk reports errors"),
        ("SQLITE_IOERR_WRITE", "disk reports errors"),
        ("SQLITE_CORRUPT", "backup"),
        ("SQLITE_READONLY", "owner and mode"),
    ],
)
async def test_after_a_failed_commit_the_handle_is_never_used_again(path, name, hint):
    store = new_store(path)
    await store.open(MANIFEST)
    await store.commit(full_epoch(1))
    real = store._open_connection()
    failing = Failing(real, name)
    store._connection = failing  # type: ignore[assignment]
    with pytest.raises(CheckpointError, match=name) as caught:
        await store.commit(full_epoch(2))
    assert hint in caught.value.hint
    for write in (
        lambda: store.commit(full_epoch(2)),
        lambda: store.note({}, {"alerts": full_epoch(2).progress["alerts"]}),
        lambda: store.spill([chunk(2, 2)]),
        store.fold,
    ):
        with pytest.raises(CheckpointError, match="not written to any more"):
            await write()
    assert failing.commits == 1
    assert not real.in_transaction
    store._connection = real
    await store.close()
    db = sqlite3.connect(path)
    assert db.execute("SELECT value FROM meta WHERE key = 'clean'").fetchall() == [(0,)]
    db.close()
    store = new_store(path)
    assert (await store.open(MANIFEST)).epoch == 1
    await store.close()


async def test_a_foreign_write_lock_is_waited_for_and_then_named(path):
    store = new_store(path)
    await store.open(MANIFEST)
    store._open_connection().execute("PRAGMA busy_timeout=50")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(CheckpointError, match="SQLITE_BUSY") as caught:
        await store.commit(full_epoch(1))
    assert "Another program" in caught.value.hint
    other.execute("ROLLBACK")
    other.close()
    # nothing is wrong with file or handle
    await store.commit(full_epoch(1))
    await store.close()


async def test_a_witness_that_cannot_be_written_does_not_undo_the_epoch(path, monkeypatch, caplog):
    store = new_store(path)
    await store.open(MANIFEST)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store._witness, "write", fail)
    await store.commit(full_epoch(1))
    assert "witness" in caplog.text
    with pytest.raises(CheckpointError, match="No space left"):
        await store.commit(full_epoch(2))
    await store.close()
    monkeypatch.undo()
    store = new_store(path)
    assert (await store.open(MANIFEST)).epoch == 1
    await store.close()


async def test_state_that_is_not_json_is_refused_before_it_is_stored(path):
    store = new_store(path)
    await store.open(MANIFEST)
    with pytest.raises(CheckpointError, match="'accounts' is not encoded as JSON"):
        await store.commit(epoch(1, deltas=[raw_delta("accounts", b'["a","",bare text,null]')]))
    with pytest.raises(AssertionError, match="entries"):
        await store.commit(epoch(1, deltas=[raw_delta("accounts", b'["a","",1,null],["b","",1,null]')]))
    await store.commit(epoch(1, deltas=[delta("accounts", ("a", "", 1))]))
    await store.close()
