"""Opening the SQLite file: settings, fingerprint, schema, integrity, and the translation of SQLite's errors."""

from __future__ import annotations

import logging
import os
import re
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Final

from streamflow.errors import CheckpointError, CorruptStateError, StateError

APPLICATION_ID: Final = 0x73664C57  # "sfLW"
FORMAT: Final = 5
BUSY_SECONDS: Final = 5.0
"""How long a commit waits for a foreign program that holds SQLite's write lock."""
CACHE_KIB: Final = 32 << 10
"""Most memory for pages of the file: folding into a large state reads fewer of them again."""
CHECK_TOLD_SECONDS: Final = 2.0
"""An integrity check that takes longer than this is logged."""

log = logging.getLogger("streamflow.state")


def connect_writable(path: Path) -> sqlite3.Connection:
    """Opens the one writable connection, with nothing in the file believed yet.

    A missing file is made for the owner only; SQLite gives its WAL the same mode.
    """
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    return _distrusting(connection)


def connect_readable(path: Path, *, immutable: bool = False) -> sqlite3.Connection:
    """Opens a connection that can only read.

    Args:
        path: The state file.
        immutable: Whether nobody can be writing: then no file appears beside it.
    """
    address = path.absolute().as_uri() + "?mode=ro" + ("&immutable=1" if immutable else "")
    connection = sqlite3.connect(address, uri=True, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    return _distrusting(connection, "query_only=ON")


def _distrusting(connection: sqlite3.Connection, *more: str) -> sqlite3.Connection:
    """Makes SQLite believe nothing that the file says beyond its rows; closes the connection if it cannot."""
    try:
        for setting in ("trusted_schema=OFF", "cell_size_check=ON", "mmap_size=0", *more):
            connection.execute(f"PRAGMA {setting}").fetchall()
    except BaseException:
        connection.close()
        raise
    return connection


def make_durable(connection: sqlite3.Connection) -> None:
    """Sets what makes a COMMIT survive a power cut, and checks that SQLite agreed.

    Raises:
        StateError: This place cannot hold a write-ahead log.
    """
    mode = value_of(connection, "PRAGMA journal_mode=WAL")
    if mode != "wal":
        raise StateError(
            f"SQLite answers journal mode {mode!r} where it was asked for WAL",
            hint="Put the state file on a local disk.",
        )
    connection.execute("PRAGMA synchronous=FULL")
    if value_of(connection, "PRAGMA synchronous") != 2:
        raise StateError("SQLite does not take synchronous=FULL", hint="Use a standard build of SQLite.")
    # the store checkpoints the WAL itself, when idle: inside a commit it would be paid by the epoch
    connection.execute("PRAGMA wal_autocheckpoint=0").fetchall()
    connection.execute(f"PRAGMA cache_size=-{CACHE_KIB}")
    if sys.platform == "darwin":
        connection.execute("PRAGMA fullfsync=ON")
        connection.execute("PRAGMA checkpoint_fullfsync=ON")


def is_new(connection: sqlite3.Connection, path: Path) -> bool:
    """Looks at the file's fingerprint, before anything else in it is believed.

    Returns:
        Whether it is empty, so that a schema has yet to be made.

    Raises:
        StateError: It belongs to another program or was written by a newer version.
        CorruptStateError: It is no SQLite file, or its schema is not the one of its format.
    """
    try:
        identity = value_of(connection, "PRAGMA application_id")
        version = value_of(connection, "PRAGMA user_version")
        if identity == 0 and version == 0 and not value_of(connection, "SELECT count(*) FROM sqlite_master"):
            return True
        if identity != APPLICATION_ID:
            raise StateError(
                f"{path} is an SQLite file of another program",
                hint="Give the flow a state file of its own: Flow(..., state=...).",
            )
        if version != FORMAT:
            raise StateError(
                f"{path} has format {version}, this streamflow reads format {FORMAT}",
                hint="Use the version of streamflow that wrote it, or a newer one.",
            )
        _check_schema(connection, path)
    except sqlite3.DatabaseError as error:
        raise as_state_error(error, path) from error
    return False


def _check_schema(connection: sqlite3.Connection, path: Path) -> None:
    """Holds tables and indexes against what this format has; views are made anew, a trigger is never ours."""
    found = set(connection.execute(_OBJECTS).fetchall())
    if found != _expected_schema():
        names = sorted({str(row[1]) for row in found ^ _expected_schema()})
        raise CorruptStateError(
            f"{path} does not have the tables of format {FORMAT}: {', '.join(names):.200}",
            hint="It was changed by another program: restore a backup, or run `streamflow reset`.",
        )


_OBJECTS: Final = (
    "SELECT type, name, tbl_name, sql FROM sqlite_master "
    "WHERE type = 'trigger' OR (type <> 'view' AND tbl_name NOT LIKE 'sqlite\\_%' ESCAPE '\\')"
)


@cache
def _expected_schema() -> frozenset[tuple[Any, ...]]:
    connection = sqlite3.connect(":memory:")
    try:
        connection.executescript(schema())
        return frozenset(connection.execute(_OBJECTS).fetchall())
    finally:
        connection.close()


@cache
def schema() -> str:
    """The statements that make the tables."""
    return resources.files("streamflow.state").joinpath("schema.sql").read_text(encoding="utf-8")


def make_schema(connection: sqlite3.Connection) -> None:
    """Makes the tables, inside the caller's transaction."""
    assert connection.in_transaction, "the schema is made in the opening transaction"
    for statement in _statements(schema()):
        connection.execute(statement)
    connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version={FORMAT}")


def _statements(script: str) -> Iterator[str]:
    # executescript would commit the open transaction
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += "" if line.lstrip().startswith("--") else line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def check_integrity(connection: sqlite3.Connection, path: Path, *, thorough: bool) -> None:
    """Lets SQLite check the file's structure.

    Args:
        connection: The connection.
        path: The state file.
        thorough: Whether the last run did not stop cleanly: then indexes are checked against their tables too.

    Raises:
        CorruptStateError: Something is wrong.
    """
    started = time.monotonic()
    pragma = "integrity_check" if thorough else "quick_check"
    try:
        answer = [row[0] for row in connection.execute(f"PRAGMA {pragma}(3)")]
    except sqlite3.DatabaseError as error:
        raise as_state_error(error, path) from error
    seconds = time.monotonic() - started
    if seconds > CHECK_TOLD_SECONDS:
        log.info("%s of %s took %.1f s", pragma, path, seconds)
    if answer != ["ok"]:
        if any(_UNREAD.search(str(line)) for line in answer):
            raise StateError(f"{path} cannot be read: {'; '.join(answer):.200}", hint=_hint("SQLITE_IOERR"))
        raise CorruptStateError(f"{path} fails SQLite's {pragma}: {'; '.join(answer):.200}", hint=RESTORE)


_UNREAD: Final = re.compile(rf"failed to get page|error code=({sqlite3.SQLITE_IOERR}|{sqlite3.SQLITE_IOERR_READ})\b")
"""What a check says of a page that the disk did not give: it may be fine, so nobody should restore a backup yet."""
RESTORE: Final = "Restore a backup (`streamflow state TARGET --backup FILE` makes them), or run `streamflow reset`."


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """One write transaction: committed at the end, rolled back by any exception."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # SQLite may have rolled back by itself; if rolling back fails the next open does it
        with suppress(sqlite3.Error):
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        raise


@contextmanager
def snapshot(connection: sqlite3.Connection) -> Iterator[None]:
    """All that is read inside is of one moment, whatever is committed meanwhile."""
    connection.execute("BEGIN")
    try:
        yield
    finally:
        # what cannot be rolled back has been by SQLite itself
        with suppress(sqlite3.Error):
            connection.execute("ROLLBACK")


def drop_connection(connection: sqlite3.Connection, path: Path) -> None:
    """Closes a connection without the WAL checkpoint that closing implies: the files stay as they are.

    The last connection to close checkpoints and deletes the WAL; a reader that is open meanwhile prevents it, and
    a reader itself cannot.
    """
    reader: sqlite3.Connection | None = None
    try:
        with suppress(sqlite3.Error, OSError, UnicodeDecodeError):
            reader = connect_readable(path)
            reader.execute("SELECT count(*) FROM sqlite_master").fetchall()
        connection.close()
    finally:
        if reader is not None:
            reader.close()


def value_of(connection: sqlite3.Connection, sql: str, *parameters: Any) -> Any:
    """Returns the first value of the first row, or None."""
    row = connection.execute(sql, parameters).fetchone()
    return None if row is None else row[0]


def as_state_error(error: sqlite3.Error, path: Path) -> StateError:
    """Translates what SQLite raised while the store was opened or read."""
    name = getattr(error, "sqlite_errorname", "") or ""
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return CorruptStateError(f"{path} is damaged: {error}", hint=RESTORE)
    return StateError(f"{path} cannot be used: {error} ({name})", hint=_hint(name))


UNREADABLE: Final = (KeyError, TypeError, ValueError, OverflowError, RecursionError)
"""What reading raises, besides SQLite's own errors, where rows or SQLite's messages hold rubbish."""


def as_corrupt(error: Exception, path: Path) -> CorruptStateError:
    """Translates what rubbish in a file that passed SQLite's checks made Python raise."""
    return CorruptStateError(f"{path} holds values that make no sense: {error!r:.200}", hint=RESTORE)


@contextmanager
def reading(path: Path, rubbish: tuple[type[Exception], ...] = UNREADABLE) -> Iterator[None]:
    """Translates what reading the state file can raise into errors that name it.

    Args:
        path: The state file.
        rubbish: What values that make no sense raise; none where users' code runs inside, which raises it too.
    """
    try:
        yield
    except sqlite3.Error as error:
        raise as_state_error(error, path) from error
    except rubbish as error:
        raise as_corrupt(error, path) from error
    except CorruptStateError as error:
        raise naming(error, path) from error


def naming(error: CorruptStateError, path: Path) -> CorruptStateError:
    """The error with the file's name in it."""
    if str(path) in error.message:
        return error
    return CorruptStateError(f"{path} is damaged: {error.message}", hint=error.hint)


def as_checkpoint_error(error: sqlite3.Error, path: Path, doing: str) -> CheckpointError:
    """Translates what SQLite raised while something was written."""
    name = getattr(error, "sqlite_errorname", "") or ""
    return CheckpointError(f"{doing} failed in {path}: {error} ({name})", hint=_hint(name))


def is_passing(error: sqlite3.Error) -> bool:
    """Whether nothing is wrong with file, disk and handle: another program just held the write lock."""
    return (getattr(error, "sqlite_errorname", "") or "").startswith(("SQLITE_BUSY", "SQLITE_LOCKED"))


def _hint(name: str) -> str:
    hints = {
        "SQLITE_FULL": "The disk is full: make room and start again; nothing was lost.",
        "SQLITE_IOERR": "The disk reports errors: check it, then start again; the store is verified then.",
        "SQLITE_CORRUPT": RESTORE,
        "SQLITE_NOTADB": RESTORE,
        "SQLITE_READONLY": "The file or its directory cannot be written: check owner and mode.",
        "SQLITE_CANTOPEN": "Check that the directory exists and may be read and written.",
        "SQLITE_PERM": "Check owner and mode of the file.",
        "SQLITE_BUSY": "Another program holds a write lock on the file: open it read-only there.",
        "SQLITE_LOCKED": "Another program holds a write lock on the file: open it read-only there.",
    }
    return next((hint for prefix, hint in hints.items() if name.startswith(prefix)), "See SQLite's error codes.")
