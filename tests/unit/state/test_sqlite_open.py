"""What an opening refuses, verifies and sets: lock, place, fingerprint, durability, witness."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from streamflow.errors import CorruptStateError, EpochWentBack, StateError, StateLockedError
from streamflow.state import lock, opening
from streamflow.state.files import copy_as_found
from streamflow.state.lock import file_system
from streamflow.state.sqlite import StoreOptions
from streamflow.state.store import Manifest
from streamflow.state.witness import FileWitness, Seen, read_witness
from tests.unit.state.given import MANIFEST, epoch, expected_accounts, full_epoch, loaded, new_store

ACCEPTING = Manifest("orders", "print-1", MANIFEST.tables, MANIFEST.sources, MANIFEST.sinks, accept_missing=True)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "orders.db"


async def made(path: Path, epochs: int = 3) -> None:
    store = new_store(path)
    await store.open(MANIFEST)
    for number in range(1, epochs + 1):
        await store.commit(full_epoch(number))
    await store.close()


async def refused(path: Path, error: type[StateError], words: str, manifest: Manifest = MANIFEST) -> StateError:
    store = new_store(path)
    with pytest.raises(error, match=words) as caught:
        await store.open(manifest)
    assert caught.value.hint
    # what was refused lets go of the lock
    guard = lock.FileLock(path.with_name(path.name + ".lock"))
    guard.acquire()
    guard.release()
    return caught.value


# -- the lock --


@pytest.mark.parametrize("kind", ["inline", "thread"])
async def test_a_second_store_is_refused_and_told_who_holds_the_first(path, kind):
    store = new_store(path, kind)
    await store.open(MANIFEST)
    second = new_store(path, kind)
    with pytest.raises(StateLockedError, match=f"process {os.getpid()} on "):
        await second.open(MANIFEST)
    await store.commit(full_epoch(1))
    await store.close()
    third = new_store(path, kind)
    assert (await third.open(MANIFEST)).epoch == 1
    await third.close()


async def test_a_second_process_is_refused(path):
    script = (
        "import asyncio, sys\n"
        "from tests.unit.state.given import MANIFEST, new_store\n"
        "async def main():\n"
        "    store = new_store(__import__('pathlib').Path(sys.argv[1]))\n"
        "    await store.open(MANIFEST)\n"
        "    print('open', flush=True)\n"
        "    sys.stdin.readline()\n"
        "asyncio.run(main())\n"
    )
    root = Path(__file__).parents[3]
    command = [sys.executable, "-c", script, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        with pytest.raises(StateLockedError, match=f"process {process.pid} on .*, since ") as caught:
            await new_store(path).open(MANIFEST)
        assert "Stop that process" in caught.value.hint
        process.kill()
    # the kernel released the lock with the process, though the file still names it
    assert json.loads(path.with_name("orders.db.lock").read_text())["pid"] == process.pid
    store = new_store(path)
    assert (await store.open(MANIFEST)).generation == 2
    await store.close()


async def test_a_lock_file_full_of_rubbish_is_no_obstacle(path):
    path.with_name("orders.db.lock").write_bytes(b"\xff\x00 not json")
    await made(path)


async def test_an_abandoned_store_can_be_opened_again_at_once(path):
    for kind in ("inline", "thread", "inline", "thread"):
        store = new_store(path, kind)
        before = (await store.open(MANIFEST)).epoch
        await store.commit(full_epoch(before + 1))
        store.abandon()
    store = new_store(path)
    assert (await store.open(MANIFEST)).epoch == 4
    await store.close()


# -- the place --


async def test_symbolic_links_are_refused(path):
    real = path.with_name("real.db")
    await made(real)
    path.symlink_to(real)
    assert "real.db" in (await refused(path, StateError, "symbolic link")).hint
    path.unlink()
    path.with_name("orders.db-wal").symlink_to(real)
    await refused(path, StateError, "symbolic link")


def test_the_type_of_a_file_system_is_found_in_the_mounts(tmp_path):
    mounts = tmp_path / "mounts"
    mounts.write_text(
        "/dev/vda / ext4 rw 0 0\nserver:/x /mnt/my\\040share nfs4 rw 0 0\n"
        "tmpfs /mnt/my\\040share/local tmpfs rw 0 0\nbroken\n/dev/vdb /mnt/other xfs rw 0 0\n"
    )
    assert file_system(Path("/home/x"), mounts) == "ext4"
    assert file_system(Path("/mnt/my share"), mounts) == "nfs4"
    assert file_system(Path("/mnt/my share/deep/er"), mounts) == "nfs4"
    assert file_system(Path("/mnt/my share/local"), mounts) == "tmpfs"
    assert file_system(Path("/mnt/my shared"), mounts) == "ext4"
    assert file_system(Path("/mnt/my share"), tmp_path / "none") == ""


async def test_network_file_systems_are_refused_unless_forced(path, monkeypatch):
    monkeypatch.setattr(lock, "file_system", lambda directory: "nfs4")
    await refused(path, StateError, "network file system")
    store = new_store(path, options=StoreOptions(force_place=True))
    await store.open(MANIFEST)
    await store.close()


async def test_a_file_that_cannot_be_opened_says_why(tmp_path):
    (tmp_path / "orders.db").mkdir()
    await refused(tmp_path / "orders.db", StateError, "cannot be")


# -- the fingerprint --


async def test_foreign_files_are_refused_and_left_alone(path):
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE theirs(x)")
    db.close()
    before = path.read_bytes()
    await refused(path, StateError, "another program")
    assert path.read_bytes() == before
    path.write_text("this is no database, just some text, and long enough to be looked at" * 20)
    await refused(path, CorruptStateError, "not a database")


async def test_newer_formats_are_refused(path):
    await made(path)
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version=99")
    db.close()
    await refused(path, StateError, f"format 99.*format {opening.FORMAT}")


@pytest.mark.parametrize(
    "change",
    [
        "CREATE TRIGGER theirs AFTER INSERT ON epoch BEGIN DELETE FROM outbox; END",
        "CREATE TABLE theirs(x)",
        "DROP TABLE journal",
        "ALTER TABLE sink ADD COLUMN theirs",
        "CREATE INDEX theirs ON state(value)",
    ],
)
async def test_a_changed_schema_is_refused(path, change):
    await made(path)
    with sqlite3.connect(path) as db:
        db.execute(change)
    db.close()
    await refused(path, CorruptStateError, "does not have the tables of format 3")


async def test_views_of_others_do_not_stay(path):
    await made(path)
    with sqlite3.connect(path) as db:
        db.execute("CREATE VIEW theirs AS SELECT load_extension('x')")
        db.execute("DROP VIEW accounts")
    db.close()
    await made(path, 0)
    with sqlite3.connect(path) as db:
        names = {row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'view'")}
    db.close()
    assert names == {"accounts", "panes"}


async def test_an_empty_file_is_a_new_store(path):
    path.touch()
    await made(path)
    assert path.stat().st_size > 0


# -- durability and integrity --


async def test_the_connection_is_set_to_survive_a_power_cut(path):
    store = new_store(path)
    await store.open(MANIFEST)
    connection = store._open_connection()
    settings = "journal_mode synchronous trusted_schema cell_size_check mmap_size wal_autocheckpoint"
    values = [opening.value_of(connection, f"PRAGMA {name}") for name in settings.split()]
    # SQLite builds without memory mapping answer nothing to mmap_size
    assert values in (["wal", 2, 0, 1, 0, 0], ["wal", 2, 0, 1, None, 0])
    assert opening.value_of(connection, "PRAGMA application_id") == opening.APPLICATION_ID
    assert opening.value_of(connection, "PRAGMA user_version") == opening.FORMAT
    await store.close()


async def test_a_place_without_wal_is_refused():
    connection = sqlite3.connect(":memory:")
    with pytest.raises(StateError, match="memory"):
        opening.make_durable(connection)
    connection.close()


async def test_the_thorough_check_runs_after_an_unclean_stop_only(path, monkeypatch):
    asked: list[bool] = []
    real = opening.check_integrity

    def check(connection: sqlite3.Connection, path: Path, *, thorough: bool) -> None:
        asked.append(thorough)
        real(connection, path, thorough=thorough)

    monkeypatch.setattr("streamflow.state.claim.check_integrity", check)
    await made(path)
    store = new_store(path)
    await store.open(MANIFEST)
    store.abandon()
    store = new_store(path)
    await store.open(MANIFEST)
    await store.close()
    assert asked == [False, True]


# -- the witness --


async def test_a_deleted_wal_is_refused(path):
    store = new_store(path)
    await store.open(MANIFEST)
    await store.commit(full_epoch(1))
    while await store.fold():
        pass
    await store.commit(full_epoch(2))
    store.abandon()
    wal = path.with_name("orders.db-wal")
    kept = wal.read_bytes()
    wal.unlink()
    error = await refused(path, EpochWentBack, "epoch 1, .* epoch 2 was committed")
    assert "-wal" in error.hint
    wal.write_bytes(kept)
    store = new_store(path)
    assert (await store.open(MANIFEST)).epoch == 2
    assert (await loaded(store)).plain("accounts") == expected_accounts(2)
    await store.close()


async def test_a_wal_deleted_with_the_schema_in_it_is_refused(path):
    store = new_store(path)
    await store.open(MANIFEST)
    await store.commit(full_epoch(1))
    store.abandon()
    path.with_name("orders.db-wal").unlink()
    await refused(path, EpochWentBack, "gone or empty")


async def test_an_older_copy_is_refused(path):
    await made(path, 2)
    old = path.read_bytes()
    store = new_store(path)
    await store.open(MANIFEST)
    await store.commit(full_epoch(3))
    await store.close()
    path.write_bytes(old)
    await refused(path, EpochWentBack, "epoch 2, .* epoch 3", ACCEPTING)


async def test_a_deleted_store_is_not_silently_begun_anew(path):
    await made(path)
    path.unlink()
    assert "reset" in (await refused(path, EpochWentBack, "gone or empty")).hint
    assert not path.exists()


@pytest.mark.parametrize("content", [None, b"", b"rubbish", b"\x00" * 192])
async def test_a_missing_witness_is_refused_unless_accepted(path, content):
    await made(path)
    witness = path.with_name("orders.db.epoch")
    witness.unlink()
    if content is not None:
        witness.write_bytes(content)
    assert "--accept-missing" in (await refused(path, EpochWentBack, "missing or unreadable")).hint
    store = new_store(path)
    assert (await store.open(ACCEPTING)).epoch == 3
    await store.close()
    assert (await_epoch := read_witness(witness)) is not None
    assert await_epoch.epoch == 3


async def test_another_stores_witness_is_refused_unless_accepted(path):
    await made(path, 3)
    other = path.with_name("other.db")
    await made(other, 5)
    shutil.copy(other.with_name("other.db.epoch"), path.with_name("orders.db.epoch"))
    await refused(path, EpochWentBack, "another store")
    store = new_store(path)
    assert (await store.open(ACCEPTING)).epoch == 3
    await store.close()
    await made(path, 0)


async def test_a_store_without_epochs_needs_no_witness(path):
    await made(path, 0)
    path.with_name("orders.db.epoch").unlink()
    await made(path, 1)


def test_a_torn_witness_leaves_the_other_line(tmp_path):
    file = tmp_path / "x.epoch"
    witness = FileWitness(file)
    for number in (1, 2, 3):
        witness.write(Seen("abc", number, 0))
    witness.close()
    assert read_witness(file) == ("abc", 3, 0)
    content = bytearray(file.read_bytes())
    content[content.index(b"abc 3") + 4] ^= 1
    file.write_bytes(content)
    assert read_witness(file) == ("abc", 2, 0)


def test_the_witness_is_synced_at_most_once_a_second(tmp_path, monkeypatch):
    synced: list[float] = []
    now = [100.0]
    monkeypatch.setattr(os, "fsync", lambda _: synced.append(now[0]))
    witness = FileWitness(tmp_path / "x.epoch", lambda: now[0])
    for number in range(40):
        witness.write(Seen("abc", number, 0))
        now[0] += 0.25
    assert len(synced) == 1 + 10, "the directory, because the name is new, and the file once a second"
    witness.sync()
    witness.sync()
    witness.close()
    assert len(synced) == 1 + 11


async def test_what_another_process_finds_opens_at_the_committed_epoch(path, tmp_path):
    store = new_store(path, "thread")
    await store.open(MANIFEST)
    for number in (1, 2):
        await store.commit(full_epoch(number))
    (tmp_path / "copy").mkdir()
    copy_as_found(path, tmp_path / "copy" / "orders.db")
    await store.commit(epoch(3))
    found = new_store(tmp_path / "copy" / "orders.db")
    assert (await found.open(MANIFEST)).epoch == 2
    assert (await loaded(found)).plain("accounts") == expected_accounts(2)
    await found.close()
    await store.close()
