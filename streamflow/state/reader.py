"""Reading a state file from outside, while its flow runs or not: for the command line and the web page.

GUARANTEE: nothing here takes the lock, writes to the store, or makes a file beside it.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from streamflow.batch import Partition, Position
from streamflow.errors import StateError
from streamflow.state.dead import LISTED_MAX, StoredLetter, read_dead
from streamflow.state.opening import UNREADABLE, as_corrupt, as_state_error, connect_readable, is_new
from streamflow.state.rows import text_back
from streamflow.state.views import are_ours, quoted, view_names

T = TypeVar("T")

_PROGRESS_STEPS: Final = 2000
_ALLOWED: Final = frozenset(
    {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}
)
_FORBIDDEN_FUNCTIONS: Final = frozenset({"load_extension", "readfile", "writefile", "edit", "fts3_tokenizer"})


@dataclass(frozen=True, slots=True)
class Limits:
    """What a query may cost.

    Args:
        rows: Most rows it gives.
        seconds: Longest time it runs.
        value_bytes: Largest text or blob it may make or read.
        result_bytes: Most bytes of text and blobs in its result.
    """

    rows: int = 1000
    seconds: float = 10.0
    value_bytes: int = 256 << 20
    result_bytes: int = 64 << 20


@dataclass(frozen=True, slots=True)
class Answer:
    """What a query gave; ``cut`` tells that there was more than the row limit allows."""

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    cut: bool


@dataclass(frozen=True, slots=True)
class CheckpointRow:
    """One epoch in the history."""

    epoch: int
    number: int
    now_ms: int
    at_ms: int
    generation: int
    records: int
    entries: int
    size_bytes: int
    duration_ms: float
    digest: bytes


@dataclass(frozen=True, slots=True)
class TableFacts:
    """One stateful step: its kind, the view to read it by, its entries, and how much of it is not folded yet."""

    kind: str
    view: str
    entries: int
    unfolded_bytes: int


@dataclass(frozen=True, slots=True)
class PendingFacts:
    """Outputs of one sink that are not known to be published, and the next sequence number its broker lacks."""

    chunks: int
    frames: int
    size_bytes: int
    next_seq: int


@dataclass(frozen=True, slots=True)
class StoreFacts:
    """What a state file is, at one moment.

    Args:
        flow: Name of the flow.
        incarnation: Id made together with the store.
        generation: How often it was opened.
        clean: Whether it was closed cleanly; also false while a flow runs.
        epoch: The last committed epoch.
        number: Its last micro-batch.
        tables: Stateful steps by table name.
        sinks: Sinks that have published, or have something to publish.
        positions: Per source the position of each partition.
        ids: Per source the number of message ids remembered.
        clocks: Event time in microseconds, and whether it is idle, by source and partition; a source's watermark has
            the partition ``@watermark``.
    """

    flow: str
    incarnation: str
    generation: int
    clean: bool
    epoch: int
    number: int
    tables: Mapping[str, TableFacts]
    sinks: Mapping[str, PendingFacts]
    positions: Mapping[str, Mapping[str, int]]
    ids: Mapping[str, int]
    clocks: Mapping[str, Mapping[str, tuple[int, bool]]]


def checkpoints(path: str | Path, limit: int = 20) -> list[CheckpointRow]:
    """The last epochs, newest first.

    Raises:
        StateError: There is no such state file, or it cannot be read.
    """
    columns = "epoch, number, now_ms, at_ms, generation, records, entries, bytes, duration_ms, digest"
    query = f"SELECT {columns} FROM epoch ORDER BY epoch DESC LIMIT ?"
    return _read(path, lambda db: [CheckpointRow(*row) for row in db.execute(query, (limit,))])


def dead_letters(path: str | Path, ids: Sequence[int] = (), limit: int = LISTED_MAX) -> tuple[str, list[StoredLetter]]:
    """The name of the flow, and its dead letters, oldest first: all, or some by their ids.

    Raises:
        StateError: There is no such state file, or it cannot be read.
    """

    def read(db: sqlite3.Connection) -> tuple[str, list[StoredLetter]]:
        ((flow,),) = db.execute("SELECT value FROM meta WHERE key = 'flow'")
        return flow, read_dead(db, ids=ids, most=limit)

    return _read(path, read)


def query(
    path: str | Path, sql: str, parameters: Sequence[Any] | Mapping[str, Any] = (), limits: Limits | None = None
) -> Answer:
    """Runs one SELECT on the last committed epoch.

    Args:
        path: The state file.
        sql: One statement; each stateful step is a view of its name.
        parameters: Values for its placeholders.
        limits: What it may cost.

    Raises:
        StateError: No such file, a wrong or a writing statement, or a limit was passed.
    """
    bounds = limits or Limits()
    return _read(path, lambda db: _query(db, sql, parameters, bounds))


def _query(db: sqlite3.Connection, sql: str, parameters: Sequence[Any] | Mapping[str, Any], limits: Limits) -> Answer:
    deadline = time.monotonic() + limits.seconds
    db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, limits.value_bytes)
    db.set_progress_handler(lambda: time.monotonic() > deadline, _PROGRESS_STEPS)
    db.set_authorizer(_authorize)
    try:
        cursor = db.execute(sql, parameters)
        if cursor.description is None:
            raise StateError("the statement gives no rows", hint="Write one SELECT.")
        rows = _fetch(cursor, limits)
    except (sqlite3.Error, sqlite3.Warning, OverflowError) as error:
        raise _query_error(error, db, limits) from error
    return Answer(tuple(column[0] for column in cursor.description), rows[: limits.rows], len(rows) > limits.rows)


def _fetch(cursor: sqlite3.Cursor, limits: Limits) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = []
    size = 0
    for row in cursor:
        rows.append(row)
        size += sum(len(value) for value in row if isinstance(value, str | bytes))
        if size > limits.result_bytes:
            raise StateError(
                f"the result is larger than {limits.result_bytes >> 20} MiB", hint="Ask for fewer rows or columns."
            )
        if len(rows) > limits.rows:
            break
    return rows


def _authorize(action: int, first: str | None, second: str | None, _db: str | None, _by: str | None) -> int:
    if action not in _ALLOWED or (action == sqlite3.SQLITE_FUNCTION and second in _FORBIDDEN_FUNCTIONS):
        return sqlite3.SQLITE_DENY
    return sqlite3.SQLITE_OK


def _query_error(error: Exception, db: sqlite3.Connection, limits: Limits) -> StateError:
    name = getattr(error, "sqlite_errorname", "")
    if name == "SQLITE_INTERRUPT":
        return StateError(
            f"the query took longer than {limits.seconds:g} s", hint="Narrow it down, or raise the limit."
        )
    if name == "SQLITE_AUTH":
        return StateError(f"only reading is allowed here: {error}", hint="Write one SELECT.")
    db.set_authorizer(None)
    views = [row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'view' ORDER BY 1")]
    return StateError(f"the query is wrong: {error}", hint=f"Stateful steps to ask: {', '.join(views) or 'none'}.")


def describe(path: str | Path) -> StoreFacts:
    """What the file is and holds. Counting entries reads them: about 1 s per million.

    Raises:
        StateError: There is no such state file, or it cannot be read.
    """
    return _read(path, _describe)


def committed_positions(path: str | Path) -> dict[str, dict[Partition, Position]]:
    """Per source where it would go on in each partition.

    Raises:
        StateError: There is no such state file, or it cannot be read.
    """
    return _read(path, _committed_positions)


def _committed_positions(db: sqlite3.Connection) -> dict[str, dict[Partition, Position]]:
    found: dict[str, dict[Partition, Position]] = {}
    where = "SELECT CAST(source AS BLOB), CAST(partition AS BLOB), position, identity FROM source"
    for source, partition, at, identity in db.execute(where):
        found.setdefault(text_back(source), {})[text_back(partition)] = Position(at, identity)
    return found


def _describe(db: sqlite3.Connection) -> StoreFacts:
    meta = dict(db.execute("SELECT key, value FROM meta"))
    row = db.execute("SELECT epoch, number FROM epoch ORDER BY epoch DESC LIMIT 1").fetchone()
    epoch, number = row or (0, 0)
    positions: dict[str, dict[str, int]] = {}
    where = "SELECT CAST(source AS BLOB), CAST(partition AS BLOB), position FROM source"
    for source, partition, at in db.execute(where):
        positions.setdefault(text_back(source), {})[text_back(partition)] = at
    ids = db.execute("SELECT CAST(source AS BLOB), sum(count) FROM seen GROUP BY 1").fetchall()
    return StoreFacts(
        flow=meta["flow"],
        incarnation=meta["incarnation"],
        generation=meta["generation"],
        clean=meta["clean"] == 1,
        epoch=epoch,
        number=number,
        tables=_describe_tables(db),
        sinks=_describe_sinks(db, epoch),
        positions=positions,
        ids={text_back(source): count for source, count in ids},
        clocks=_describe_clocks(db),
    )


def _describe_clocks(db: sqlite3.Connection) -> dict[str, dict[str, tuple[int, bool]]]:
    clocks: dict[str, dict[str, tuple[int, bool]]] = {}
    where = "SELECT CAST(source AS BLOB), CAST(partition AS BLOB), at_us, idle FROM event_time"
    for source, partition, at_us, idle in db.execute(where):
        clocks.setdefault(text_back(source), {})[text_back(partition)] = (at_us, bool(idle))
    return clocks


def _describe_tables(db: sqlite3.Connection) -> dict[str, TableFacts]:
    steps = db.execute("SELECT id, name, kind FROM step ORDER BY name").fetchall()
    base = {row[0].lower() for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    views = view_names([name for _, name, _ in steps], base)
    unfolded = dict(db.execute("SELECT step, sum(bytes) FROM state_delta GROUP BY step"))
    facts = {}
    for step, name, kind in steps:
        ((entries,),) = db.execute(f"SELECT count(*) FROM {quoted(views[name])}")
        facts[name] = TableFacts(kind, views[name], entries, unfolded.get(step, 0))
    return facts


def _describe_sinks(db: sqlite3.Connection, epoch: int) -> dict[str, PendingFacts]:
    known = dict(db.execute("SELECT sink, next_seq FROM sink"))
    waiting = {
        sink: facts
        for sink, *facts in db.execute(
            "SELECT sink, count(*), sum(count), sum(length(payload)), min(first_seq) FROM outbox WHERE epoch <= ? "
            "GROUP BY sink",
            (epoch,),
        )
    }
    sinks = {}
    for sink in sorted(known.keys() | waiting.keys()):
        chunks, frames, size, first = waiting.get(sink, (0, 0, 0, 1))
        sinks[sink] = PendingFacts(chunks, frames, size, known.get(sink, first))
    return sinks


def _read(path: str | Path, work: Callable[[sqlite3.Connection], T]) -> T:
    """Does some reading in one snapshot.

    Without a WAL beside it nobody writes the file, and SQLite is told so: else it would make a WAL. A flow that
    starts in that moment shows by its own WAL; then all is read again.
    """
    file = Path(path)
    if not file.is_file():
        raise StateError(f"there is no state file {file}", hint="Run the flow once, or look at its state=...")
    wal = file.with_name(file.name + "-wal")
    if not wal.exists():
        try:
            result = _read_once(file, work, immutable=True)
        except StateError:
            if not wal.exists():
                raise
        else:
            if not wal.exists():
                return result
    return _read_once(file, work, immutable=False)


def _read_once(file: Path, work: Callable[[sqlite3.Connection], T], *, immutable: bool) -> T:
    try:
        with opened(file, immutable=immutable) as db:
            return work(db)
    except sqlite3.Error as error:
        raise as_state_error(error, file) from error
    except UNREADABLE as error:
        raise as_corrupt(error, file) from error


@contextmanager
def opened(file: Path, *, immutable: bool) -> Iterator[sqlite3.Connection]:
    """A read-only connection to a file that is really a state file, inside one read transaction."""
    db = connect_readable(file, immutable=immutable)
    try:
        if is_new(db, file):
            raise StateError(f"{file} is empty", hint="Run the flow once.")
        db.execute("BEGIN")
        if are_ours(db):
            # some versions of SQLite (3.40 is one) let no view that they do not trust call JSON functions
            db.execute("PRAGMA trusted_schema=ON")
        yield db
    finally:
        db.close()
