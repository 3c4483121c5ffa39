"""The store's contract, the same on the thread and inline: open, load, commit, note, spill, close."""

from __future__ import annotations

import asyncio
import sqlite3
import stat

import pytest

from streamflow.batch import Position, Progress, Taken
from streamflow.errors import CheckpointError, Fenced, StateError
from streamflow.state import commit as writing
from streamflow.state import tally
from streamflow.state.store import Entry
from tests.unit.state.given import (
    MANIFEST,
    chunk,
    delta,
    epoch,
    expected_accounts,
    fold_all,
    full_epoch,
    loaded,
    new_store,
)


@pytest.fixture(params=["inline", "thread"])
def kind(request):
    return request.param


@pytest.fixture
def path(tmp_path):
    return tmp_path / "orders.db"


async def test_a_new_store_is_empty(kind, path):
    store = new_store(path, kind)
    checkpoint = await store.open(MANIFEST)
    assert (checkpoint.epoch, checkpoint.number, checkpoint.now_ms, checkpoint.generation) == (0, 0, 0, 1)
    assert checkpoint.incarnation
    assert (checkpoint.taken, checkpoint.progress, checkpoint.pending) == ({}, {}, {})
    assert (await loaded(store)).tables == {}
    await store.close()


async def test_everything_of_an_epoch_comes_back(kind, path):
    store = new_store(path, kind)
    first = await store.open(MANIFEST)
    for number in (1, 2, 3):
        await store.commit(full_epoch(number))
    await store.close()
    store = new_store(path, kind)
    checkpoint = await store.open(MANIFEST)
    assert (checkpoint.epoch, checkpoint.number, checkpoint.now_ms) == (3, 30, 3000)
    assert (checkpoint.generation, checkpoint.incarnation) == (2, first.incarnation)
    assert checkpoint.digest == b"digest 3"
    assert checkpoint.taken["orders"].positions == {"p0": Position(3, "made-1"), "p1": Position(6, "made-1")}
    assert checkpoint.taken["queue"].ids == [f"id-{e}-{n}" for e in (1, 2, 3) for n in range(3)]
    assert checkpoint.progress == {"alerts": Progress(2, 3, b"cursor 2")}
    assert checkpoint.pending == {"alerts": [chunk(3, 3)]}
    held = await loaded(store)
    assert held.plain("accounts") == expected_accounts(3)
    assert held.plain("panes") == {("ann", "w3"): 3}
    await store.close()


async def test_rows_and_deltas_load_alike(kind, path):
    store = new_store(path, kind)
    await store.open(MANIFEST)
    await store.commit(epoch(1, deltas=[delta("accounts", ("ann", "", 1), ("bob", "", 2, 99), ("eve", "", 3))]))
    before = await loaded(store)
    await fold_all(store)
    assert store.fold_debt_bytes == 0
    assert await loaded(store) == before
    await store.commit(epoch(2, deltas=[delta("accounts", ("eve", ""), ("ann", "", 5))]))
    assert store.fold_debt_bytes > 0
    held = await loaded(store)
    assert held.plain("accounts") == {"ann": 5, "bob": 2}
    assert held.tables["accounts"][b'"bob"', b'""'] == Entry(b'"bob"', b'""', b"2", 99)
    await fold_all(store)
    assert await loaded(store) == held
    await store.close()


async def test_many_small_deltas_become_few_rows(kind, path):
    store = new_store(path, kind)
    await store.open(MANIFEST)
    slices = [delta("accounts", (f"k{n}", "", n)) for n in range(100)]
    await store.commit(epoch(1, deltas=[*slices, delta("panes"), delta("panes", ("a", "b", 1))]))
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT count, json_array_length(payload) FROM state_delta").fetchall() == [
            (100, 100),
            (1, 1),
        ]
    db.close()
    assert (await loaded(store)).plain("accounts") == {f"k{n}": n for n in range(100)}
    await store.close()


async def test_an_epoch_must_follow_the_last_one(kind, path):
    store = new_store(path, kind)
    await store.open(MANIFEST)
    await store.commit(full_epoch(1))
    with pytest.raises(Fenced):
        await store.commit(full_epoch(1))
    with pytest.raises(Fenced):
        await store.commit(epoch(3))
    await store.commit(full_epoch(2))
    await store.close()


async def test_a_newer_generation_fences(kind, path):
    store = new_store(path, kind)
    await store.open(MANIFEST)
    await store.commit(full_epoch(1))
    # as a copy that another machine opened would do, past the lock file
    with sqlite3.connect(path) as db:
        db.execute("UPDATE meta SET value = value + 1 WHERE key = 'generation'")
    for write in (
        lambda: store.commit(full_epoch(2)),
        lambda: store.note({}, {"alerts": Progress(1, 2)}),
        lambda: store.spill([chunk(2, 2)]),
        store.fold,
    ):
        with pytest.raises(Fenced) as caught:
            await write()
        assert caught.value.hint
    await store.close()
    assert db.execute("SELECT max(epoch) FROM epoch").fetchall() == [(1,)]
    assert db.execute("SELECT value FROM meta WHERE key = 'clean'").fetchall() == [(0,)]
    assert db.execute("SELECT count(*) FROM state").fetchall() == [(0,)]
    db.close()


async def test_a_note_is_not_an_epoch(kind, path):
    store = new_store(path, kind)
    await store.open(MANIFEST)
    await store.note({"orders": Taken({"p0": Position(7, "x")})}, {"alerts": Progress(0, 1, b"head")})
    await store.note({}, {})
    await store.commit(full_epoch(1))
    await store.note({}, {"alerts": Progress(1, 2, b"later")})
    with pytest.raises(AssertionError):
        await store.note({"queue": Taken(ids=["a"])}, {})
    await store.close()
    store = new_store(path, kind)
    checkpoint = await store.open(MANIFEST)
    assert checkpoint.epoch == 1
    assert checkpoint.progress == {"alerts": Progress(1, 2, b"later")}
    assert checkpoint.pending == {}
    await store.commit(epoch(2, chunks=[chunk(2, 2)]))
    await store.close()


async def test_an_accepted_head_moves_the_next_sequence_number(kind, path):
    store = new_store(path, kind)
    await store.open(MANIFEST)
    await store.note({}, {"alerts": Progress(0, 100)})
    with pytest.raises(AssertionError, match="expected 100"):
        await store.commit(epoch(1, chunks=[chunk(1, 1)]))
    await store.commit(epoch(1, chunks=[chunk(100, 1)]))
    await store.close()


async def test_spilled_chunks_count_only_once_their_epoch_is_committed(kind, path):
    store = new_store(path, kind)
    await store.open(MANIFEST)
    await store.commit(full_epoch(1))
    await store.spill([chunk(2, 2, 3, index=0), chunk(5, 2, 2, index=1)])
    store.abandon()
    store = new_store(path, kind)
    checkpoint = await store.open(MANIFEST)
    assert checkpoint.pending == {"alerts": [chunk(1, 1)]}
    await store.spill([chunk(2, 2, 3, index=0)])
    await store.commit(epoch(2, chunks=[chunk(5, 2, 1, index=1)]))
    await store.close()
    store = new_store(path, kind)
    checkpoint = await store.open(MANIFEST)
    assert checkpoint.pending == {"alerts": [chunk(1, 1), chunk(2, 2, 3, index=0), chunk(5, 2, 1, index=1)]}
    await store.close()


async def test_a_chunk_leaves_when_it_is_published_whole(kind, path):
    store = new_store(path, kind)
    await store.open(MANIFEST)
    await store.commit(epoch(1, chunks=[chunk(1, 1, 5), chunk(6, 1, 5, index=1)]))
    await store.commit(epoch(2, progress={"alerts": Progress(0, 8)}))
    await store.close()
    store = new_store(path, kind)
    assert (await store.open(MANIFEST)).pending == {"alerts": [chunk(6, 1, 5, index=1)]}
    await store.close()


async def test_what_breaks_an_invariant_is_not_committed(kind, path):
    store = new_store(path, kind)
    await store.open(MANIFEST)
    await store.commit(full_epoch(1))
    wrong = [
        epoch(2, chunks=[chunk(3, 2)]),
        epoch(2, chunks=[chunk(2, 3)]),
        epoch(2, deltas=[delta("nobody", ("a", "", 1))]),
        epoch(2, taken={"orders": Taken({"p0": Position(1 << 63)})}),
    ]
    for one in wrong:
        with pytest.raises((AssertionError, KeyError)):
            await store.commit(one)
    await store.commit(full_epoch(2))
    await store.close()


async def test_ids_are_remembered_up_to_their_bound(kind, path, monkeypatch):
    monkeypatch.setattr(tally, "SEEN_IDS_MAX", 7)
    store = new_store(path, kind)
    await store.open(MANIFEST)
    for number in range(1, 7):
        await store.commit(full_epoch(number))
        if number == 4:
            await store.close()
            store = new_store(path, kind)
            await store.open(MANIFEST)
    await store.close()
    store = new_store(path, kind)
    ids = (await store.open(MANIFEST)).taken["queue"].ids
    assert ids == [f"id-{e}-{n}" for e in (4, 5, 6) for n in range(3)]
    await store.close()


async def test_history_is_kept_for_a_thousand_epochs_and_trimmed_in_batches(kind, path, monkeypatch):
    monkeypatch.setattr(writing, "HISTORY_EPOCHS", 10)
    monkeypatch.setattr(writing, "HISTORY_TRIM_EVERY", 4)
    store = new_store(path, kind)
    await store.open(MANIFEST)
    for number in range(1, 19):
        await store.commit(full_epoch(number))
    await store.close()
    db = sqlite3.connect(path)
    for table in ("epoch", "journal", "internal"):
        assert [row[0] for row in db.execute(f"SELECT epoch FROM {table} ORDER BY 1")] == list(range(7, 19))
    db.close()


async def test_get_reads_the_last_committed_value(kind, path):
    store = new_store(path, kind)
    await store.open(MANIFEST)
    assert await store.get("accounts", b'"ann"') is None
    tricky = ("eve", "", '["ann","",7,null]')
    await store.commit(epoch(1, deltas=[delta("accounts", ("ann", "", {"a": [1]}), ("bob", "", 2), tricky)]))
    await store.commit(epoch(2, deltas=[delta("accounts", ("bob", "", 3), tricky)]))
    for folded in (False, True):
        if folded:
            await fold_all(store)
        assert await store.get("accounts", b'"ann"') == b'{"a":[1]}'
        assert await store.get("accounts", b'"bob"') == b"3"
        assert await store.get("accounts", b'"nobody"') is None
    await store.commit(epoch(3, deltas=[delta("accounts", ("bob", ""), ("ann", "", 1, 3000), ("eve", "", 1, 3001))]))
    for folded in (False, True):
        if folded:
            await fold_all(store)
        assert await store.get("accounts", b'"bob"') is None
        assert await store.get("accounts", b'"ann"') is None, "expired at the epoch's own time"
        assert await store.get("accounts", b'"eve"') == b"1"
    both = await asyncio.gather(*(store.get("accounts", b'"eve"') for _ in range(5)))
    assert both == [b"1"] * 5
    with pytest.raises(KeyError, match="nobody"):
        await store.get("nobody", b"1")
    await store.close()


async def test_a_store_that_is_not_open_says_so(kind, path):
    store = new_store(path, kind)
    await store.close()
    store.abandon()
    store = new_store(path, kind)
    await store.open(MANIFEST)
    await store.close()
    await store.close()
    store.abandon()


async def test_files_are_for_the_owner_only(kind, tmp_path):
    path = tmp_path / "made" / "deep" / "orders.db"
    store = new_store(path, kind)
    await store.open(MANIFEST)
    await store.commit(full_epoch(1))
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert set(modes) == {"orders.db", "orders.db-wal", "orders.db-shm", "orders.db.lock", "orders.db.epoch"}
    assert set(modes.values()) == {0o600}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.parent.parent.stat().st_mode) == 0o700
    await store.close()
    assert {file.name for file in path.parent.iterdir()} == {"orders.db", "orders.db.lock", "orders.db.epoch"}


async def test_a_cancelled_commit_is_whole_all_the_same(path):
    store = new_store(path, "thread")
    await store.open(MANIFEST)
    for number in range(1, 30):
        task = asyncio.create_task(store.commit(full_epoch(number)))
        await asyncio.sleep(0 if number % 2 else 0.0002)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        # another caller neither finds an open transaction nor commits somebody else's half
        await store.note({"orders": Taken({"other": Position(number)})}, {})
        in_transaction = await store._executor.run(lambda: store._open_connection().in_transaction)
        assert not in_transaction
        if store._ledger.epoch < number:
            await store.commit(full_epoch(number))
    await store.close()


async def test_a_cancelled_open_lets_everything_go(path):
    for delay in (0, 0.0005, 0.001, 0.002, 0.005):
        store = new_store(path, "thread")
        task = asyncio.create_task(store.open(MANIFEST))
        await asyncio.sleep(delay)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        if not task.cancelled() and task.exception() is None:
            await store.close()
        again = new_store(path, "inline")
        await again.open(MANIFEST)
        await again.close()


async def test_writing_to_an_abandoned_store_is_refused(kind, path):
    store = new_store(path, kind)
    await store.open(MANIFEST)
    store.abandon()
    with pytest.raises((StateError, CheckpointError, AssertionError, ValueError)):
        await store.commit(full_epoch(1))
