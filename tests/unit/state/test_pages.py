"""The rows of a state file as an opening reads them: joined or fetched, they are the same, and damage shows."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from functools import partial

import pytest

from streamflow.codecs import JsonCodec
from streamflow.errors import CorruptStateError
from streamflow.keys import canonical
from streamflow.state import pages
from streamflow.state.keyed import Table
from streamflow.state.pages import read_pages
from streamflow.state.store import Entries, Entry
from tests.unit.state.given import MANIFEST, delta, epoch, fold_all, loaded, new_store, raw_delta

PLAIN, EXPIRING = 700, 40


def _install(table: Table[dict[str, int]], name: str, entries: Sequence[Entry]) -> None:
    table.install(entries)


@pytest.fixture
async def path(tmp_path):
    """A folded store: plain values, some that expire, one with line feeds between its parts, and entries with subs."""
    path = tmp_path / "orders.db"
    store = new_store(path)
    await store.open(MANIFEST)
    plain = [(f"key {number}\n\u2028", "", {"spent": number}) for number in range(PLAIN)]
    expiring = [(f"soon {number}", "", {"spent": number}, 10_000 + number) for number in range(EXPIRING)]
    panes = [("ann", f"w{number}", number) for number in range(50)]
    odd = raw_delta("accounts", b'["odd","",{"spent":\n7},null]')
    deltas = [delta("accounts", *plain, *expiring), delta("panes", *panes), odd]
    await store.commit(epoch(1, deltas=deltas))
    await fold_all(store)
    await store.close()
    return path


def rows(path, joined_from: int, monkeypatch) -> tuple[list[tuple[int, Entry, int]], int]:
    """All rows, sorted, and the size of the largest page."""
    monkeypatch.setattr(pages, "JOINED_FROM", joined_from)
    connection = sqlite3.connect(path, check_same_thread=False)
    read = list(read_pages(connection))
    connection.close()
    assert all(page.texts for page in read)
    found = [(page.place, entry, crc) for page in read for entry, crc in zip(page.entries, page.crcs, strict=True)]
    return sorted(found, key=lambda row: (row[0], row[1][:2])), sum(len(page.entries) for page in read)


async def test_joined_and_fetched_rows_are_the_same(path, monkeypatch):
    monkeypatch.setattr(pages, "_joined", counted := Counting(pages._joined))
    fetched, total = rows(path, 1_000_000, monkeypatch)
    assert total == PLAIN + EXPIRING + 50 + 1
    assert not counted.given
    assert rows(path, 0, monkeypatch) == (fetched, total)
    # both ways were gone: rows were joined, and the place with a line feed in a value was fetched
    assert sum(len(page.entries) for page, _ in counted.given if page) > PLAIN // 2
    assert [rest for page, rest in counted.given if page is None].count("") == 1


class Counting:
    """Calls a function and keeps what it gave."""

    def __init__(self, function) -> None:
        self._function = function
        self.given: list = []

    def __call__(self, *arguments):
        self.given.append(self._function(*arguments))
        return self.given[-1]


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE state SET value = replace(value, '5', '6') WHERE key LIKE '\"key 5_\\n%'",
        "UPDATE state SET value = value || char(10) || '1' WHERE key LIKE '\"key 5_\\n%'",
        "UPDATE state SET key = CAST(key AS BLOB) WHERE key LIKE '\"key 5_\\n%'",
        "UPDATE state SET expires_ms = 5 WHERE key LIKE '\"key 5_\\n%'",
        "UPDATE state SET expires_ms = NULL WHERE key LIKE '\"soon%'",
        "UPDATE state SET key_group = 255 - key_group WHERE key LIKE '\"key 5_\\n%'",
        "UPDATE state SET crc = crc + 1 WHERE key LIKE '\"key 5_\\n%'",
        "UPDATE state SET step = 77 WHERE key LIKE '\"key 5_\\n%'",
    ],
)
async def test_damage_shows_in_joined_rows_too(path, damage, monkeypatch):
    connection = sqlite3.connect(path)
    assert connection.execute(damage).rowcount > 0
    connection.commit()
    connection.close()
    monkeypatch.setattr(pages, "JOINED_FROM", 0)
    store = new_store(path)

    async def read() -> None:
        await store.open(MANIFEST)
        await loaded(store)

    with pytest.raises(CorruptStateError):
        await read()
    await store.close()


def test_entries_are_a_sequence_of_entries():
    held = [Entry(b"1", b'""', b"{}"), Entry(b"2", b'""', None), Entry(b"3", b'""', b"{}", 5)]
    columns = Entries.of(held)
    assert list(columns) == held
    assert (columns[1], list(columns[1:]), len(columns)) == (held[1], held[1:], 3)
    assert Entries.of(columns) is columns
    assert list(Entries.of([])) == []


async def test_a_load_costs_a_few_times_what_a_plain_dict_does(tmp_path):
    """In processor time, both in one process, so that neighbours on the machine matter little: 4 to 6 times."""
    keys = 50_000
    store = new_store(tmp_path / "orders.db")
    await store.open(MANIFEST)
    await store.commit(epoch(1, deltas=[delta("accounts", *((f"key {n}", "", {"spent": n}) for n in range(keys)))]))
    await fold_all(store)
    ratios = []
    for _ in range(5):
        table: Table[dict[str, int]] = Table("accounts", JsonCodec(dict[str, int]))
        began = time.process_time()
        await store.load(partial(_install, table))
        load = time.process_time() - began
        assert len(table) == keys
        began = time.process_time()
        plain = {f"key {n}": {"spent": n} for n in range(keys)}
        ratios.append(load / (time.process_time() - began))
        assert plain[f"key {keys - 1}"] == table.peek(f"key {keys - 1}")
    await store.close()
    assert sorted(ratios)[1] < 12, ratios


def test_entries_that_cannot_be_read_are_told_apart():
    table: Table[int] = Table("counts", JsonCodec(int))
    table.install([Entry(canonical("a"), b'""', b"1"), Entry(canonical("b"), b'""', None)])
    assert table.snapshot() == {"a": 1}
    with pytest.raises(CorruptStateError, match="cannot be read: Expected `int`"):
        table.install([Entry(canonical("a"), b'""', b"2"), Entry(canonical("b"), b'""', b'"x"')])
