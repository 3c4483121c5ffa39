"""Fold and views: whatever is folded or not, views, loads and look-ups show the last committed epoch."""

from __future__ import annotations

import json
import random
import sqlite3
import subprocess
from pathlib import Path
from shutil import which
from typing import Any

import pytest

from streamflow.errors import CorruptStateError
from streamflow.state import fold, rows, wal
from streamflow.state.sqlite import SqliteStore
from streamflow.state.store import Manifest, TableShape
from tests.unit.state.given import MANIFEST, compact, delta, epoch, fold_all, full_epoch, loaded, new_store, raw_delta

Model = dict[str, dict[Any, Any]]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "orders.db"


@pytest.fixture
def tiny(monkeypatch):
    """Every limit of the fold so small that each slice does one piece of work."""
    monkeypatch.setattr(fold, "FOLD_SLICE_SECONDS", 0.0)
    monkeypatch.setattr(fold, "FOLD_ROUND_BYTES", 400)
    monkeypatch.setattr(fold, "_MERGE_ENTRIES", 3)
    monkeypatch.setattr(fold, "ROWS_PER_STATEMENT", 2)
    monkeypatch.setattr(rows, "ROWS_PER_STATEMENT", 2)
    monkeypatch.setattr(wal, "WAL_CHECKPOINT_BYTES", 1 << 16)


def shown(path: Path) -> Model:
    """What the views show to another program."""
    db = sqlite3.connect(path.as_uri() + "?mode=ro", uri=True)
    try:
        accounts = {key: json.loads(value) for key, value, _ in db.execute("SELECT * FROM accounts")}
        panes = {(key, sub): json.loads(value) for key, sub, value, _ in db.execute("SELECT * FROM panes")}
        return {"accounts": accounts, "panes": panes}
    finally:
        db.close()


async def check(store: SqliteStore, path: Path, model: Model) -> None:
    held = await loaded(store)
    assert {table: held.plain(table) for table in model} == model
    assert shown(path) == model
    for key in range(12):
        value = await store.get("accounts", b'"k%d"' % key)
        assert (None if value is None else json.loads(value)) == model["accounts"].get(f"k{key}")


def changed(chosen: random.Random, model: Model, number: int) -> list[Any]:
    """Random changes of both tables, applied to the model."""
    found = []
    for table in ("accounts", "panes"):
        entries: list[tuple[Any, ...]] = []
        for key in chosen.sample(range(12), chosen.randint(0, 9)):
            sub = "" if table == "accounts" else f"s{chosen.randint(0, 3)}"
            address = f"k{key}" if table == "accounts" else (f"k{key}", sub)
            if address in model[table] and chosen.random() < 0.4:
                entries.append((f"k{key}", sub))
                del model[table][address]
            else:
                entries.append((f"k{key}", sub, {"n": number}))
                model[table][address] = {"n": number}
        found.append(delta(table, *entries))
    return found


@pytest.mark.parametrize("seed", range(6))
async def test_every_way_of_reading_agrees_after_every_slice(path, tiny, seed):
    chosen = random.Random(seed)
    model: Model = {"accounts": {}, "panes": {}}
    store = new_store(path)
    await store.open(MANIFEST)
    number = 0
    for _ in range(25):
        action = chosen.random()
        if action < 0.4:
            number += 1
            await store.commit(epoch(number, deltas=changed(chosen, model, number)))
        elif action < 0.9:
            await store.fold()
        else:
            store.abandon()
            store = new_store(path)
            assert (await store.open(MANIFEST)).epoch == number
        await check(store, path, model)
    while await store.fold():
        await check(store, path, model)
    assert store.fold_debt_bytes == 0
    db = sqlite3.connect(path)
    assert db.execute("SELECT count(*) FROM state_delta").fetchall() == [(0,)]
    assert db.execute("SELECT count(*) FROM state").fetchall() == [(sum(map(len, model.values())),)]
    db.close()
    await store.close()


async def test_a_commit_between_slices_is_not_lost(path, tiny):
    store = new_store(path, "thread")
    await store.open(MANIFEST)
    model: Model = {"accounts": {}, "panes": {}}
    for number in range(1, 30):
        entries = [(f"k{n}", "", number) for n in range(12)]
        model["accounts"] = {f"k{n}": number for n in range(12)}
        await store.commit(epoch(number, deltas=[delta("accounts", *entries)]))
        await store.fold()
    await check(store, path, model)
    await fold_all(store)
    await check(store, path, model)
    await store.close()


async def test_under_load_a_table_is_folded_when_its_deltas_outweigh_its_rows(path, monkeypatch):
    monkeypatch.setattr(fold, "FOLD_BYTES_MIN", 1000)
    monkeypatch.setattr(fold, "FOLD_BYTES_MAX", 20_000)
    store = new_store(path)
    await store.open(MANIFEST)
    number = 0

    async def commit(keys: int) -> None:
        nonlocal number
        number += 1
        await store.commit(epoch(number, deltas=[delta("accounts", *((f"k{n}", "", number) for n in range(keys)))]))

    await commit(10)
    assert not await store.fold(idle=False), "less than the least worth folding"
    assert store.fold_debt_bytes
    await commit(500)
    while await store.fold(idle=False):
        pass
    assert store.fold_debt_bytes == 0
    await commit(200)
    assert not await store.fold(idle=False), "less than the rows"
    for _ in range(10):
        await commit(200)
        while await store.fold(idle=False):
            pass
    assert store.fold_debt_bytes < 9000
    await fold_all(store)
    assert store.fold_debt_bytes == 0
    await store.close()


async def test_many_tables_together_never_owe_more_than_the_bound(path, monkeypatch):
    monkeypatch.setattr(fold, "FOLD_BYTES_MIN", 4000)
    monkeypatch.setattr(fold, "FOLD_BYTES_MAX", 5000)
    names = [f"t{n}" for n in range(5)]
    store = new_store(path)
    await store.open(Manifest("f", "", tables={name: TableShape("value", "int", "str") for name in names}))
    for number in range(1, 9):
        changes = [delta(name, *((f"k{n}", "", number) for n in range(30))) for name in names]
        await store.commit(epoch(number, deltas=changes))
        while await store.fold(idle=False):
            pass
        assert store.fold_debt_bytes <= 5000
    await store.close()


async def test_a_damaged_delta_is_not_folded(path):
    store = new_store(path)
    await store.open(MANIFEST)
    await store.commit(full_epoch(1))
    with sqlite3.connect(path) as db:
        db.execute("UPDATE state_delta SET payload = replace(payload, '\"spent\":1', '\"spent\":7')")
    db.close()
    with pytest.raises(CorruptStateError, match="epoch 1"):
        await fold_all(store)
    await store.close()


async def test_the_wal_is_written_back_when_idle_and_stays_under_its_cap(path, monkeypatch, caplog):
    monkeypatch.setattr(wal, "WAL_CHECKPOINT_BYTES", 1 << 18)
    monkeypatch.setattr(wal, "WAL_BYTES_MAX", 1 << 20)
    store = new_store(path)
    store._wal._next_bytes = 1 << 18
    await store.open(MANIFEST)
    size = path.with_name("orders.db-wal").stat
    number = 0
    for _ in range(80):
        number += 1
        await store.commit(epoch(number, journal=b"j" * 50_000))
        assert size().st_size < (1 << 20) + (1 << 18)
    await fold_all(store)
    assert size().st_size == 0
    assert not await store.fold()
    # a reader on an old snapshot: the store goes on, and says what holds it up
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM epoch").fetchall()
    for _ in range(40):
        number += 1
        await store.commit(epoch(number, journal=b"j" * 50_000))
        await store.fold()
    assert size().st_size > 1 << 20
    assert "keeps an old snapshot open" in caplog.text
    reader.close()
    await store.commit(epoch(number + 1, journal=b"j" * 300_000))
    await fold_all(store)
    assert size().st_size == 0
    await store.close()


# -- views --


async def test_the_query_of_the_readme_works_in_any_sqlite(path):
    store = new_store(path)
    await store.open(MANIFEST)
    await store.commit(epoch(1, deltas=[delta("accounts", *((f"u{n}", "", {"spent": n}) for n in range(9)))]))
    await fold_all(store)
    await store.commit(epoch(2, deltas=[delta("accounts", ("u1", "", {"spent": 99}), ("u8", ""))]))
    query = "select key, json_extract(value,'$.spent') from accounts order by 2 desc limit 3"
    expected = [("u1", 99), ("u7", 7), ("u6", 6)]
    db = sqlite3.connect(path)
    assert db.execute(query).fetchall() == expected
    db.close()
    shell = which("sqlite3")
    if shell:
        answer = subprocess.run([shell, "-readonly", path, query], capture_output=True, text=True, check=True)
        assert answer.stdout.splitlines() == [f"{key}|{spent}" for key, spent in expected]
    await store.close()


async def test_views_have_the_steps_name_however_odd(path):
    odd = [
        "state",
        "Epoch",
        'say "hi"',
        "x; DROP TABLE meta",
        "sqlite_x",
        "Step",
        "STEP_",
        "ünï",
        "a b",
        "it's",
        "t@timers",
    ]
    shapes = {name: TableShape("map" if name == "t@timers" else "value", "int", "str") for name in odd}
    store = new_store(path)
    await store.open(Manifest("f", "", tables=shapes))
    await store.commit(epoch(1, deltas=[delta(name, (name, "", 1)) for name in odd]))
    db = sqlite3.connect(path)
    names = {row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'view'")}
    expected = {"state_", "Epoch_", "_sqlite_x", "STEP_", "Step__", *odd[2:4], *odd[7:]}
    assert names == expected
    keys = [db.execute('SELECT key FROM "' + name.replace('"', '""') + '"').fetchall() for name in sorted(names)]
    assert sorted(key for ((key,),) in keys) == sorted(odd)
    db.close()
    await store.close()


async def test_keys_show_as_plain_text_and_numbers(path):
    keys = [
        (b'"plain"', "plain"),
        (b'"quo\\"te \\\\ \\n"', 'quo"te \\ \n'),
        ('"é\U0001f600"'.encode(), "é\U0001f600"),
        (b'""', ""),
        (b"7", 7),
        (b"-9223372036854775808", -(1 << 63)),
        (b"9223372036854775808", "9223372036854775808"),
        (b'"nul \\u0000 inside"', '"nul \\u0000 inside"'),
        (b'["a",1]', '["a",1]'),
        (b'{"uuid":"x"}', '{"uuid":"x"}'),
        (b'"12"', "12"),
    ]
    store = new_store(path)
    await store.open(MANIFEST)
    await store.commit(epoch(1, deltas=[raw_delta("accounts", *(b'[%b,"",1,5]' % raw for raw, _ in keys))]))
    for folded in (False, True):
        if folded:
            await fold_all(store)
        db = sqlite3.connect(path)
        found = db.execute("SELECT key, value, expires_ms FROM accounts").fetchall()
        db.close()
        assert sorted(found, key=repr) == sorted(((key, "1", 5) for _, key in keys), key=repr)
    await store.close()


@pytest.mark.parametrize("kind", ["inline", "thread"])
async def test_odd_values_survive_exactly(path, kind):
    values = [
        b'"nul \\u0000 inside"',
        b'"\\ud800 alone"',
        b'{"\\udfff":["\\ud83d"]}',
        b"123456789012345678901234567890",
        b"-9223372036854775809",
        b"[1.0,1e400,-0.0,0.1]",
        '"é \U0001f600 \u2028"'.encode(),
        b'{"a":{"b":[[],{},null,true]}}',
        b'""',
        compact("x" * 300_000),
        b'"\x7f"',
    ]
    entries = [b"[%d,%b,%b,null]" % (n, value, value) for n, value in enumerate(values)]
    keyed = [b'[[%b],"",%b,%d]' % (value, value, 1 << 40) for value in values]
    store = new_store(path, kind)
    await store.open(MANIFEST)
    await store.commit(epoch(1, deltas=[raw_delta("panes", *entries), raw_delta("accounts", *keyed)]))
    for folded in (False, True):
        if folded:
            await fold_all(store)
        held = (await loaded(store)).tables
        assert sorted(entry.value or b"" for entry in held["panes"].values()) == sorted(values)
        assert sorted(entry.sub for entry in held["panes"].values()) == sorted(values)
        assert sorted(entry.value or b"" for entry in held["accounts"].values()) == sorted(values)
        assert {entry.expires_ms for entry in held["accounts"].values()} == {1 << 40}
        for value in values:
            assert await store.get("accounts", b"[%b]" % value) == value
    await store.commit(epoch(2, deltas=[raw_delta("accounts", *(b'[[%b],""]' % value for value in values))]))
    await fold_all(store)
    assert not (await loaded(store)).tables.get("accounts")
    await store.close()


async def test_odd_names_and_ids_survive_exactly(path):
    from streamflow.batch import Position, Taken

    odd = ["", "nul \x00 inside", "\udcff surrogate", "é\U0001f600", "'\"`"]
    taken = {"orders": Taken({name: Position(n, name) for n, name in enumerate(odd)}), "queue": Taken(ids=odd)}
    store = new_store(path)
    await store.open(MANIFEST)
    await store.commit(epoch(1, taken=taken))
    await store.commit(epoch(2, taken={"orders": Taken({odd[1]: Position(77, odd[2])})}))
    await store.close()
    store = new_store(path)
    checkpoint = await store.open(MANIFEST)
    assert checkpoint.taken["queue"].ids == odd
    assert checkpoint.taken["orders"].positions == {**taken["orders"].positions, odd[1]: Position(77, odd[2])}
    await store.close()
