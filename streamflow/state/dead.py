"""Dead letters in the store: records that a policy put aside, written by the commit that leaves them out."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any, Final
from zlib import crc32

from streamflow.batch import DeadLetter
from streamflow.errors import CorruptStateError, StateError
from streamflow.graph import LETTERS
from streamflow.state.opening import RESTORE, value_of
from streamflow.state.rows import fields_crc, text, text_back, write_rows
from streamflow.state.store import LISTED_MAX, StoredLetter
from streamflow.state.tally import Tally

_HEAD: Final = (
    "INSERT INTO dead(id, epoch, at_ms, kind, name, error, traceback, source, partition, position, message, key, "
    "headers, timestamp_ms, payload, requeued, crc)"
)
_ROW: Final = (
    "(?, ?, ?, ?, CAST(? AS TEXT), CAST(? AS TEXT), CAST(? AS TEXT), CAST(? AS TEXT), CAST(? AS TEXT), ?, "
    "CAST(? AS TEXT), ?, ?, ?, ?, ?, ?)"
)
_COLUMNS: Final = (
    "id, epoch, at_ms, kind, CAST(name AS BLOB), CAST(error AS BLOB), CAST(traceback AS BLOB), CAST(source AS BLOB), "
    "CAST(partition AS BLOB), position, CAST(message AS BLOB), key, headers, timestamp_ms, payload, "
    "requeued, crc"
)
_HIGHEST: Final = (
    "SELECT max(coalesce((SELECT max(id) FROM dead), 0), "
    "coalesce((SELECT max(position) FROM source WHERE source = ?), 0), "
    "coalesce((SELECT CAST(value AS INTEGER) FROM meta WHERE key = 'letters'), 0))"
)
"""The highest number given to a letter: of those that are there, that their source has taken, and that are gone."""

__all__ = ["LISTED_MAX", "StoredLetter", "delete_dead", "mark_requeued", "read_dead", "write_dead"]


def write_dead(
    connection: sqlite3.Connection, tally: Tally, epoch: int, at_ms: int, letters: Sequence[DeadLetter]
) -> None:
    """Adds letters, inside the caller's transaction.

    Their numbers follow all that were given before: one that is gone leaves its number to nobody, whom a command
    meant for it would find, or the source of dead letters pass over.
    """
    if not letters:
        return
    highest = value_of(connection, _HIGHEST, LETTERS)
    rows = []
    for id, letter in enumerate(letters, highest + 1):
        fields = _fields(epoch, at_ms, letter)
        crc = _crc(fields, letter.payload, None)
        rows.append((id, *fields, letter.payload, None, crc))
        tally.add("dead", 1, crc)
    write_rows(connection, _HEAD, _ROW, rows)
    connection.execute("INSERT OR REPLACE INTO meta(key, value) VALUES('letters', ?)", (highest + len(letters),))


def _fields(epoch: int, at_ms: int, letter: DeadLetter) -> tuple[Any, ...]:
    names = map(text, (letter.name, letter.error, letter.traceback, letter.source, letter.partition))
    headers = json.dumps(dict(letter.headers)) if letter.headers else ""
    place = (letter.position, text(letter.id))
    return (epoch, at_ms, letter.kind, *names, *place, letter.key, headers, letter.timestamp_ms)


def _crc(fields: Sequence[Any], payload: bytes, requeued: bytes | None) -> int:
    known = [b"" if field is None else field for field in fields]
    again = b"" if requeued is None else b"+" + requeued
    return crc32(again, crc32(payload, fields_crc(*known)))


def delete_dead(connection: sqlite3.Connection, tally: Tally, ids: Sequence[int]) -> None:
    """Removes letters, inside the caller's transaction.

    Raises:
        StateError: One does not exist.
    """
    for id in ids:
        row = connection.execute("SELECT crc FROM dead WHERE id = ?", (id,)).fetchone()
        if row is None:
            raise _no_letter(id)
        connection.execute("DELETE FROM dead WHERE id = ?", (id,))
        tally.add("dead", -1, -row[0])


def mark_requeued(connection: sqlite3.Connection, tally: Tally, requeue: Mapping[int, bytes]) -> None:
    """Notes what is to be taken in again by the next run, inside the caller's transaction.

    Raises:
        StateError: A letter does not exist, or came from no source.
    """
    for id, payload in requeue.items():
        letters = read_dead(connection, ids=[id])
        if not letters:
            raise _no_letter(id)
        (found,) = letters
        if not found.letter.source:
            raise StateError(
                f"dead letter {id} of {found.letter.kind} {found.letter.name!r} is no record of a source",
                hint="Drop it: streamflow dead TARGET drop.",
            )
        fields = _fields(found.epoch, found.at_ms, found.letter)
        before, after = (_crc(fields, found.letter.payload, again) for again in (found.requeued, payload))
        connection.execute("UPDATE dead SET requeued = ?, crc = ? WHERE id = ?", (payload, after, id))
        tally.add("dead", 0, after - before)


def read_dead(
    connection: sqlite3.Connection,
    *,
    ids: Sequence[int] = (),
    requeued: bool = False,
    above: int = 0,
    most: int = LISTED_MAX,
) -> list[StoredLetter]:
    """Reads letters, oldest first.

    Args:
        connection: The connection.
        ids: Only these.
        requeued: Only those that are to be taken in again.
        above: Only those with a higher number.
        most: No more than so many.

    Raises:
        CorruptStateError: One does not match its checksum.
    """
    where = "AND requeued IS NOT NULL" if requeued else ""
    if ids:
        where = f"AND id IN ({', '.join('?' * len(ids))})"
    query = f"SELECT {_COLUMNS} FROM dead WHERE id > ? {where} ORDER BY id LIMIT ?"
    rows = connection.execute(query, (above, *ids, most))
    return [_letter(*row) for row in rows]


def _letter(id: int, epoch: int, at_ms: int, kind: str, *rest: Any) -> StoredLetter:
    *texts, position, message, key, headers, timestamp_ms, payload, requeued, crc = rest
    fields = (epoch, at_ms, kind, *texts, position, message, key, headers, timestamp_ms)
    if crc != _crc(fields, payload, requeued):
        raise CorruptStateError(f"dead letter {id} does not match its checksum", hint=RESTORE)
    name, error, traceback, source, partition = map(text_back, texts)
    found = DeadLetter(
        kind,
        name,
        error,
        traceback,
        source,
        partition,
        position,
        text_back(message),
        key,
        json.loads(headers) if headers else None,
        payload,
        timestamp_ms,
    )
    return StoredLetter(id, epoch, at_ms, found, requeued)


def _no_letter(id: int) -> StateError:
    return StateError(f"there is no dead letter {id}", hint="List them: streamflow dead TARGET list.")
