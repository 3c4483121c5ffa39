"""Reading from outside: history, SQL within limits, facts, backup and destruction."""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from streamflow.batch import Position, Progress, Taken
from streamflow.errors import CorruptStateError, EpochWentBack, StateError, StateLockedError
from streamflow.state.files import backup, destroy
from streamflow.state.reader import Limits, PendingFacts, TableFacts, checkpoints, describe, query
from tests.unit.state.given import MANIFEST, expected_accounts, fold_all, full_epoch, loaded, new_store


@pytest.fixture
def path(tmp_path):
    return tmp_path / "orders.db"


@pytest.fixture(params=["running", "stopped", "killed"])
async def stored(request, path):
    """A store of three epochs whose flow runs, has stopped, or was killed."""
    store = new_store(path, "thread")
    await store.open(MANIFEST)
    for number in (1, 2):
        await store.commit(full_epoch(number))
    await fold_all(store)
    await store.commit(full_epoch(3))
    if request.param == "stopped":
        await store.close()
    if request.param == "killed":
        store.abandon()
        while path.with_name("orders.db-shm").exists() and store._connection is not None:
            time.sleep(0.001)
    yield path
    await store.close()


def files(path: Path) -> set[str]:
    return {file.name for file in path.parent.iterdir()}


async def test_nothing_is_left_beside_the_file(stored):
    before = files(stored)
    checkpoints(stored)
    query(stored, "SELECT 1")
    describe(stored)
    assert files(stored) == before


async def test_checkpoints_are_told_newest_first(stored):
    rows = checkpoints(stored, 2)
    assert [(row.epoch, row.number, row.records, row.entries, row.generation) for row in rows] == [
        (3, 30, 3, 10, 1),
        (2, 20, 2, 10, 1),
    ]
    assert rows[0].digest == b"digest 3"
    assert rows[0].size_bytes > 100
    assert abs(rows[0].at_ms - time.time() * 1000) < 60_000
    assert len(checkpoints(stored)) == 3


async def test_sql_sees_the_last_committed_epoch(stored):
    answer = query(stored, "SELECT key, json_extract(value, '$.spent') AS spent FROM accounts WHERE key = ?", ["key 1"])
    assert answer.columns == ("key", "spent")
    assert answer.rows == [("key 1", 3)]
    assert not answer.cut
    named = query(stored, "SELECT count(*) FROM panes WHERE sub = :sub", {"sub": "w3"})
    assert named.rows == [(1,)]


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM state",
        "UPDATE meta SET value = 0",
        "INSERT INTO meta VALUES ('a', 1)",
        "CREATE TABLE x(y)",
        "CREATE TEMP TABLE x(y)",
        "DROP VIEW accounts",
        "PRAGMA user_version = 7",
        "PRAGMA query_only = OFF",
        "ATTACH DATABASE '/tmp/x.db' AS x",
        "VACUUM",
        "BEGIN IMMEDIATE",
        "SELECT load_extension('x')",
        "WITH x AS (SELECT 1) DELETE FROM state",
    ],
)
async def test_only_reading_is_allowed(stored, sql):
    before = describe(stored)
    with pytest.raises(StateError) as caught:
        query(stored, sql)
    assert caught.value.hint
    assert describe(stored) == before


async def test_a_wrong_query_names_what_can_be_asked(stored):
    with pytest.raises(StateError, match="no such table: nobody") as caught:
        query(stored, "SELECT * FROM nobody")
    assert "accounts, panes" in caught.value.hint
    for sql in ("SELEC 1", "SELECT 1; SELECT 2", "", "SELECT ?"):
        with pytest.raises(StateError):
            query(stored, sql)


async def test_a_query_is_bounded(stored):
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT "
    started = time.monotonic()
    with pytest.raises(StateError, match=r"longer than 0\.2 s"):
        query(stored, endless + "max(i) FROM n", limits=Limits(seconds=0.2))
    assert time.monotonic() - started < 5
    answer = query(stored, endless + "i FROM n", limits=Limits(rows=10))
    assert answer.rows == [(n,) for n in range(1, 11)]
    assert answer.cut
    with pytest.raises(StateError, match="too big"):
        query(stored, "SELECT zeroblob(2000)", limits=Limits(value_bytes=1000))
    with pytest.raises(StateError, match="larger than"):
        query(stored, endless + "zeroblob(1000000) FROM n", limits=Limits(result_bytes=1 << 22))


async def test_describe_tells_what_the_file_is(stored):
    facts = describe(stored)
    assert (facts.flow, facts.generation, facts.epoch, facts.number) == ("orders", 1, 3, 30)
    assert facts.clean == (not stored.with_name("orders.db-wal").exists())
    assert facts.tables["accounts"].entries == 8
    assert facts.tables["panes"] == TableFacts("map", "panes", 1, facts.tables["panes"].unfolded_bytes)
    assert facts.tables["panes"].unfolded_bytes > 0
    assert facts.sinks == {"alerts": PendingFacts(1, 1, 5, 3)}
    assert facts.positions == {"orders": {"p0": 3, "p1": 6}}
    assert facts.ids == {"queue": 9}


def test_a_missing_file_is_named_and_not_made(path):
    for read in (checkpoints, describe, lambda path: query(path, "SELECT 1"), lambda path: backup(path, f"{path}2")):
        with pytest.raises(StateError, match=r"there is no state file .*orders\.db") as caught:
            read(path)
        assert caught.value.hint
    assert files(path) == set()


def test_foreign_files_are_refused(path):
    path.write_bytes(b"not a database at all" * 500)
    with pytest.raises(CorruptStateError):
        describe(path)
    path.unlink()
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE theirs(x)")
    db.close()
    with pytest.raises(StateError, match="another program"):
        query(path, "SELECT * FROM theirs")
    path.write_bytes(b"")
    with pytest.raises(StateError, match="empty"):
        describe(path)


async def test_the_flow_goes_on_while_it_is_read(path):
    store = new_store(path, "thread")
    await store.open(MANIFEST)
    for number in range(1, 40):
        await store.commit(full_epoch(number))
        if number % 4 == 0:
            await store.fold()
        assert query(path, "SELECT min(value), max(value), count(*) FROM accounts").rows == [
            (f'{{"spent":{number}}}', f'{{"spent":{number}}}', 8)
        ]
    await store.close()


# -- files --


async def test_a_backup_is_whole_and_opened_only_on_purpose(stored, tmp_path):
    copy = tmp_path / "new" / "copy.db"
    backup(stored, copy)
    assert files(copy) == {"copy.db"}
    assert copy.stat().st_mode & 0o777 == 0o600
    assert describe(copy).epoch == 3
    with pytest.raises(EpochWentBack):
        await new_store(copy).open(MANIFEST)
    store = new_store(copy)
    assert (await store.open(replace(MANIFEST, accept_missing=True))).epoch == 3
    assert (await loaded(store)).plain("accounts") == expected_accounts(3)
    await store.close()
    with pytest.raises(StateError, match="exists already"):
        backup(stored, copy)


async def test_destroy_deletes_all_and_takes_the_lock(path):
    store = new_store(path)
    await store.open(MANIFEST)
    await store.commit(full_epoch(1))
    with pytest.raises(StateLockedError):
        destroy(path)
    assert len(files(path)) == 5
    store.abandon()
    destroy(path)
    assert files(path) == set()
    destroy(path)
    destroy(path.parent / "nowhere" / "orders.db")
    store = new_store(path)
    assert (await store.open(MANIFEST)).epoch == 0
    await store.close()


async def test_destruction_cut_off_anywhere_leaves_nothing_half(path, monkeypatch):
    class Cut(Exception):
        pass

    real = Path.unlink
    for allowed in range(6):
        store = new_store(path)
        await store.open(MANIFEST)
        await store.commit(full_epoch(1))
        await store.note({"orders": Taken({"p0": Position(9)})}, {"alerts": Progress(1, 2)})
        store.abandon()
        left = [allowed]

        def unlink(self: Path, missing_ok: bool = False, left: list[int] = left) -> None:
            if not left[0]:
                raise Cut
            left[0] -= 1
            real(self, missing_ok=missing_ok)

        monkeypatch.setattr(Path, "unlink", unlink)
        with suppress(Cut):
            destroy(path)
        monkeypatch.undo()
        store = new_store(path)
        try:
            checkpoint = await store.open(MANIFEST)
        except EpochWentBack:
            pass
        else:
            assert checkpoint.epoch == (1 if not allowed else 0)
            await store.close()
        destroy(path)
        assert os.listdir(path.parent) == []
