"""Hostile state files and hostile queries (S11, S12): refused as state errors, soon, and nothing else happens."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from streamflow.batch import Chunk
from streamflow.codecs import JsonCodec
from streamflow.errors import CorruptStateError, IncompatibleStateError, StateError
from streamflow.state import rows
from streamflow.state.content import Total, read_content, write_content
from streamflow.state.content import count as count_tables
from streamflow.state.fitting import check_fit
from streamflow.state.keyed import Table
from streamflow.state.opening import FORMAT
from streamflow.state.reader import Limits, checkpoints, describe, query
from streamflow.state.store import Entry
from tests.security.test_fuzz import SECONDS_MAX
from tests.unit.state.given import MANIFEST, fold_all, full_epoch, new_store

READERS: list[Callable[[Path], object]] = [
    checkpoints,
    describe,
    lambda path: query(path, "SELECT * FROM accounts"),
    lambda path: check_fit(path, MANIFEST),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of three epochs, the last one not folded, closed; only to be read."""
    path = tmp_path_factory.mktemp("hostile") / "orders.db"

    async def make() -> None:
        store = new_store(path)
        await store.open(MANIFEST)
        for number in (1, 2):
            await store.commit(full_epoch(number))
        await fold_all(store)
        await store.commit(full_epoch(3))
        await store.close()

    asyncio.run(make())
    return path


@pytest.fixture
def path(made: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may change."""
    for suffix in ("", ".epoch"):
        (tmp_path / f"orders.db{suffix}").write_bytes(made.with_name(made.name + suffix).read_bytes())
    return tmp_path / "orders.db"


def change(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        for statement in statements:
            db.execute(statement)
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")


# -- queries --

WRITES = [
    "DELETE FROM state", "UPDATE meta SET value = 0", "INSERT INTO meta VALUES ('a', 1)",
    "REPLACE INTO meta VALUES (1, 1)",
    "CREATE TABLE x(y)", "CREATE TEMP TABLE x(y)", "CREATE TEMP VIEW v AS SELECT 1", "DROP VIEW accounts",
    "DROP TABLE meta",
    "CREATE INDEX i ON state(value)", "CREATE TEMP TRIGGER t AFTER INSERT ON meta BEGIN SELECT 1; END",
    "ALTER TABLE meta ADD COLUMN x", "REINDEX", "ANALYZE", "VACUUM", "VACUUM INTO '{other}'",
    "ATTACH DATABASE '{other}' AS x", "ATTACH ':memory:' AS x", "DETACH DATABASE main",
    "BEGIN", "BEGIN IMMEDIATE", "COMMIT", "ROLLBACK", "SAVEPOINT a", "RELEASE a", "END",
    "PRAGMA user_version = 7", "PRAGMA query_only = OFF", "PRAGMA writable_schema = ON", "PRAGMA trusted_schema = ON",
    "PRAGMA journal_mode = DELETE", "PRAGMA wal_checkpoint", "PRAGMA incremental_vacuum", "PRAGMA user_version",
    "PRAGMA database_list", "PRAGMA temp_store_directory = '/tmp'", "PRAGMA optimize", "PRAGMA hard_heap_limit = 1",
    "SELECT * FROM pragma_user_version", "SELECT * FROM pragma_database_list",
    "SELECT * FROM pragma_journal_mode('DELETE')",
    "SELECT load_extension('{other}')", "SELECT writefile('{other}', 'x')", "SELECT readfile('/etc/passwd')",
    "SELECT edit('x', 'touch {other}')", "SELECT fts3_tokenizer('x', x'00')",
    "CREATE VIRTUAL TABLE x USING fts5(y)", "WITH x AS (SELECT 1) DELETE FROM state",
    "INSERT INTO meta SELECT 1, 2 RETURNING *", "SELECT 1; DELETE FROM state", "EXPLAIN DELETE FROM state",
]  # fmt: skip


@pytest.mark.parametrize("sql", WRITES)
def test_a_query_can_only_read(made: Path, sql: str) -> None:
    before = {file.name: file.read_bytes() for file in made.parent.iterdir()}
    with pytest.raises(StateError) as caught:
        query(made, sql.format(other=made.with_name("other")))
    assert caught.value.hint
    assert {file.name: file.read_bytes() for file in made.parent.iterdir()} == before


def test_a_query_that_reads_is_answered(made: Path) -> None:
    columns = "upper(key), count(*) OVER (), json_extract(value, '$.spent')"
    sql = f"SELECT {columns} FROM accounts WHERE key LIKE 'key%' LIMIT 1"
    assert query(made, sql).rows == [("KEY 0", 8, 3)]
    assert query(made, "SELECT ?, typeof(:2)", ["'; DROP TABLE state; --", b"\0"]).rows == [
        ("'; DROP TABLE state; --", "blob")
    ]


@pytest.mark.parametrize(
    "sql",
    [
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n ORDER BY -i",
        "SELECT count(*) FROM state a, state b, state c, state d, state e, state f, state g, state h, state i, state j",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION SELECT i + 1 FROM n) SELECT group_concat(i) FROM n",
    ],
)
def test_a_query_ends_in_time(made: Path, sql: str) -> None:
    started = time.monotonic()
    with pytest.raises(StateError, match=r"longer than 0\.3 s"):
        query(made, sql, limits=Limits(seconds=0.3))
    assert time.monotonic() - started < 5


def test_a_query_gives_no_more_rows_and_bytes_than_asked(made: Path) -> None:
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n"
    answer = query(made, endless, limits=Limits(rows=7))
    assert (len(answer.rows), answer.cut) == (7, True)
    for sql in (
        "SELECT zeroblob(1 << 20)",
        "SELECT replace(hex(zeroblob(200000)), '0', 'xxxx')",
        "SELECT hex(zeroblob(600000))",
    ):
        with pytest.raises(StateError, match="too big"):
            query(made, sql, limits=Limits(value_bytes=1 << 19))


# -- files --

SCHEMAS = {
    "trigger": ["CREATE TRIGGER t AFTER INSERT ON epoch BEGIN UPDATE meta SET value = 'owned' WHERE key = 'flow'; END"],
    "generated column": ["ALTER TABLE meta ADD COLUMN g AS (abs(value))"],
    "default": ["ALTER TABLE meta ADD COLUMN g DEFAULT 7"],
    "index on an expression": ["CREATE INDEX i ON state(abs(value))"],
    "partial index": ["CREATE INDEX i ON state(value) WHERE json_valid(value)"],
    "virtual table": ["CREATE VIRTUAL TABLE v USING fts5(x)"],
    "check": ["DROP TABLE journal", "CREATE TABLE journal(epoch INTEGER PRIMARY KEY CHECK (abs(epoch)), payload, crc)"],
    "missing": ["DROP TABLE outbox"],
    "another collation": [
        "DROP TABLE sink",
        "CREATE TABLE sink(sink TEXT COLLATE NOCASE PRIMARY KEY, epoch, next_seq, cursor, crc) WITHOUT ROWID",
    ],
    "view in place of a table": ["DROP TABLE journal", "CREATE VIEW journal AS SELECT 1 AS epoch, 2 AS payload"],
}  # fmt: skip


@pytest.mark.parametrize("what", SCHEMAS)
async def test_a_schema_that_is_not_ours_is_refused_before_it_acts(path: Path, what: str) -> None:
    change(path, *SCHEMAS[what])
    before = path.read_bytes()
    for read in READERS:
        with pytest.raises(StateError):
            read(path)
    # SQLite itself refuses some, since functions in a schema are not trusted
    words = f"does not have the tables of format {FORMAT}|malformed database schema"
    with pytest.raises(CorruptStateError, match=words):
        await new_store(path).open(MANIFEST)
    assert path.read_bytes() == before, "it was written to"


async def test_a_trigger_that_hides_behind_another_table_does_not_act(path: Path) -> None:
    """Written into the schema by hand, under a table name that would be passed over."""
    sql = "CREATE TRIGGER t AFTER INSERT ON epoch BEGIN UPDATE meta SET value = 7; END"
    row = f"VALUES ('trigger', 't', 'sqlite_x', 0, '{sql}')"
    insert = f"INSERT INTO sqlite_master(type, name, tbl_name, rootpage, sql) {row}"
    change(path, "PRAGMA writable_schema = ON", insert)
    with pytest.raises(CorruptStateError):
        await new_store(path).open(MANIFEST)


@pytest.mark.parametrize(
    "body",
    [
        "SELECT load_extension('x') AS key",
        "SELECT writefile('/tmp/x', 'y') AS key, 1 AS value",
        "SELECT * FROM accounts",
    ],
)
async def test_views_of_others_are_not_believed_and_do_not_stay(path: Path, body: str) -> None:
    change(path, "DROP VIEW accounts", f"CREATE VIEW accounts AS {body}", f"CREATE VIEW more AS {body}")
    for view in ("accounts", "more"):
        with pytest.raises(StateError):
            query(path, f"SELECT * FROM {view}")
    store = new_store(path)
    await store.open(MANIFEST)
    await store.close()
    assert query(path, "SELECT key FROM accounts ORDER BY key LIMIT 1").rows == [("key 0",)]
    with pytest.raises(StateError, match="no such table: more"):
        query(path, "SELECT * FROM more")


@pytest.mark.parametrize("kind", ["TABLE x{}(a)", "VIEW x{} AS SELECT 1"])
async def test_a_huge_schema_is_refused_or_cleaned_up_soon(path: Path, kind: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("BEGIN")
        for at in range(1500):
            db.execute(f"CREATE {kind.format(at)}")
        db.execute("COMMIT")
    started = time.monotonic()
    store = new_store(path)
    if kind.startswith("TABLE"):
        with pytest.raises(CorruptStateError, match="does not have the tables") as caught:
            await store.open(MANIFEST)
        assert len(str(caught.value)) < 1000
    else:
        await store.open(MANIFEST)
        await store.close()
        assert len(query(path, "SELECT name FROM sqlite_master WHERE type = 'view'").rows) == 2
    assert time.monotonic() - started < 20


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("PRAGMA application_id = 1", "another program"),
        ("PRAGMA application_id = 0", "another program"),
        (f"PRAGMA user_version = {FORMAT - 1}", f"format {FORMAT - 1}"),
        ("PRAGMA user_version = -1", "format -1"),
        ("PRAGMA user_version = 0", "format 0"),
    ],
)
async def test_the_fingerprint_comes_first(path: Path, statement: str, words: str) -> None:
    """Also where all else would be refused for another reason."""
    change(path, statement, "CREATE TABLE evil(x)")
    for read in READERS:
        with pytest.raises(StateError, match=words):
            read(path)
    with pytest.raises(StateError, match=words):
        await new_store(path).open(MANIFEST)


async def test_a_file_in_another_encoding_is_refused(path: Path, tmp_path: Path) -> None:
    """The same tables and rows, but texts in UTF-16: what is cast to bytes is something else then."""
    other = tmp_path / "utf16.db"
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(other)) as target:
        target.execute("PRAGMA encoding = 'UTF-16'")
        for line in source.iterdump():
            if "CREATE VIEW" not in line:
                target.execute(line) if not line.startswith(("BEGIN", "COMMIT")) else None
        target.commit()
        for pragma in ("application_id", "user_version"):
            ((value,),) = source.execute(f"PRAGMA {pragma}").fetchall()
            target.execute(f"PRAGMA {pragma} = {value}")
    path.with_name("utf16.db.epoch").write_bytes(path.with_name("orders.db.epoch").read_bytes())
    store = new_store(other)

    async def open_and_load() -> None:
        await store.open(MANIFEST)
        await load(store)

    with pytest.raises(StateError):
        await open_and_load()
    await store.close()


# -- rows that lie, each with the checksum that belongs to the lie --

COLUMNS = [
    ("meta", "value"), ("meta", "key"), ("epoch", "epoch"), ("epoch", "number"), ("epoch", "now_ms"),
    ("epoch", "digest"),
    ("epoch", "generation"), ("epoch", "duration_ms"), ("source", "source"), ("source", "partition"),
    ("source", "position"), ("source", "identity"), ("seen", "ids"), ("seen", "count"), ("seen", "epoch"),
    ("seen", "source"), ("step", "name"), ("step", "kind"), ("step", "value_type"), ("step", "key_type"),
    ("step", "id"),
    ("state", "key"), ("state", "sub"), ("state", "value"), ("state", "expires_ms"), ("state", "step"),
    ("state", "key_group"), ("state_delta", "payload"), ("state_delta", "count"), ("state_delta", "bytes"),
    ("state_delta", "step"), ("state_delta", "epoch"), ("outbox", "sink"), ("outbox", "first_seq"), ("outbox", "epoch"),
    ("outbox", "chunk"), ("outbox", "count"), ("outbox", "payload"), ("sink", "sink"), ("sink", "epoch"),
    ("sink", "next_seq"), ("sink", "cursor"),
]  # fmt: skip
VALUES: list[Any] = [
    0, 1, -1, 2**63 - 1, -(2**63), 1e308, float("inf"), "", "x", "\0", "é" * 100, b"", b"\xff\xfe", b"[" * 50_000,
    "[" * 50_000, "9" * 5000, '"', "[]", "[[]]", '[["a","",1,null]]', '[["a","",{"spent":"x"},1e400]]', "null", "{}",
    '{"bytes":5}', '["\\ud800"]', "NaN", "'; DROP TABLE state; --", "x" * 100_000,
]  # fmt: skip


def lie(path: Path, rng: random.Random) -> str:
    """Puts one value where another was, and makes the row's checksum right again; returns what was done."""
    table, column = rng.choice(COLUMNS)
    value = rng.choice(VALUES)
    as_text = rng.random() < 0.3
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.text_factory = lambda data: data.decode("utf-8", "surrogateescape")
        names = [row[1] for row in db.execute(f"PRAGMA table_info({table})")]
        chosen = rng.choice(db.execute(f"SELECT * FROM {table}").fetchall())
        where = " AND ".join(f"{name} IS ?" for name in names)
        try:
            cast = "CAST(? AS TEXT)" if as_text else "?"
            db.execute(f"UPDATE {table} SET {column} = {cast} WHERE {where}", (value, *chosen))
        except (sqlite3.IntegrityError, sqlite3.OperationalError, sqlite3.DataError):
            return ""
        if "crc" in names:
            with suppress(sqlite3.OperationalError):  # a text that no function can be given keeps its wrong checksum
                set_checksums(db, table)
        with suppress(sqlite3.Error, KeyError, TypeError, ValueError):  # rows that nobody can count stay uncounted
            set_content(db)
    return f"{table}.{column} = {'text ' if as_text else ''}{value!r:.60}"


def set_content(db: sqlite3.Connection) -> None:
    """Makes what the file says of its content fit the lie."""
    ((epoch, generation),) = db.execute(
        "SELECT (SELECT max(epoch) FROM epoch), (SELECT value FROM meta WHERE key = 'generation')"
    )
    state = Total(*db.execute("SELECT count(*), sum(crc) FROM state").fetchone())
    told = replace(read_content(db), epoch=epoch, generation=generation, totals={**count_tables(db), "state": state})
    write_content(db, told)


def set_checksums(db: sqlite3.Connection, table: str) -> None:
    def crc(*fields: Any) -> int:
        try:
            return checksum(table, fields)
        except (TypeError, ValueError, AttributeError, OverflowError):
            return 0

    count = {"state": 7, "state_delta": 3, "source": 4, "seen": 3, "outbox": 6, "sink": 4, "epoch": 9}[table]
    columns = {
        "state": "key_group, step, CAST(key AS BLOB), CAST(sub AS BLOB), CAST(value AS BLOB), expires_ms, 0",
        "state_delta": "step, epoch, CAST(payload AS BLOB)",
        "source": "CAST(source AS BLOB), CAST(partition AS BLOB), position, CAST(identity AS BLOB)",
        "seen": "epoch, CAST(ids AS BLOB), CAST(source AS BLOB)",
        "outbox": "sink, epoch, chunk, first_seq, count, payload",
        "sink": "sink, epoch, next_seq, cursor",
        "epoch": "epoch, number, now_ms, at_ms, generation, records, entries, bytes, digest",
    }[table]
    db.create_function("sum_of", count, crc)
    db.execute(f"UPDATE {table} SET crc = sum_of({columns})")


def checksum(table: str, fields: tuple[Any, ...]) -> int:
    if table == "state":
        group, step, key, sub, value, expires, _ = fields
        return rows.row_crc(group << 24 | step, Entry(key, sub, value, expires))
    if table == "state_delta":
        return rows.delta_crc(*fields)
    if table == "source":
        source, partition, at, identity = fields
        return rows.fields_crc(rows.text_back(source), rows.text_back(partition), at, rows.text_back(identity))
    if table == "seen":
        epoch, ids, source = fields
        return rows.blob_crc(epoch, ids, rows.text_back(source))
    if table == "outbox":
        sink, epoch, index, first, count, payload = fields
        return rows.chunk_crc(Chunk(sink, epoch, index, first, count, payload))
    return rows.fields_crc(*fields)


async def load(store: Any) -> None:
    tables: dict[str, Table[Any]] = {
        "accounts": Table("accounts", JsonCodec(dict[str, int])),
        "panes": Table("panes", JsonCodec(int), subs=True),
    }
    await store.load(lambda name, entries: tables[name].install(entries))


async def test_rows_that_lie_are_state_errors(path: Path, tmp_path: Path, long_run: bool) -> None:
    """Whatever stands in one field, opening, loading and reading end as they should, or as a state error."""
    rng = random.Random(7)
    good, witness = path.read_bytes(), path.with_name("orders.db.epoch").read_bytes()
    outcomes: Counter[str] = Counter()
    for trial in range(600 if long_run else 60):
        one = tmp_path / f"{trial}.db"
        one.write_bytes(good)
        one.with_name(f"{trial}.db.epoch").write_bytes(witness)
        told = lie(one, rng)
        started = time.monotonic()
        for read in READERS:
            outcomes[await outcome(partial(read, one), told)] += 1
        store = new_store(one)
        opened = await outcome(partial(store.open, MANIFEST), told)
        outcomes[opened] += 1
        if opened == "fine":
            outcomes[await outcome(partial(load, store), told)] += 1
        await store.close()
        assert time.monotonic() - started < 3 * SECONDS_MAX, told
        for file in tmp_path.glob(f"{trial}.db*"):
            file.unlink()
    assert outcomes["fine"] > 60
    assert outcomes["CorruptStateError"] > 10
    assert outcomes["IncompatibleStateError"] > 0


async def outcome(work: Callable[[], Any], told: str) -> str:
    try:
        result = work()
        if hasattr(result, "__await__"):
            await result
    except StateError as error:
        return "IncompatibleStateError" if isinstance(error, IncompatibleStateError) else type(error).__name__
    except Exception as error:
        raise AssertionError(f"{told}: {error!r}") from error
    return "fine"
