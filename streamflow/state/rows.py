"""What stored rows have in common: their checksums, texts that SQLite may not judge, and writing many at once."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final
from zlib import crc32

from streamflow.batch import Ahead, Chunk
from streamflow.state.store import Entry

ROWS_PER_STATEMENT: Final = 250
"""Rows of one multi-row VALUES statement: each statement may cost a hand-over of the GIL."""


def text(value: str) -> bytes:
    """A text as bytes for a ``CAST(? AS TEXT)``: lone surrogates (file names hold them) pass."""
    return value.encode("utf-8", "surrogatepass")


def text_back(value: bytes) -> str:
    """The text that `text` encoded."""
    return value.decode("utf-8", "surrogatepass")


def above_text(above: Sequence[Ahead]) -> str:
    """What was taken of a partition behind its position, as JSON."""
    return json.dumps(above, separators=(",", ":"))


def above_back(value: str) -> tuple[Ahead, ...]:
    """What `above_text` wrote."""
    return tuple(Ahead(*fields) for fields in json.loads(value))


def fields_crc(*fields: str | int | bytes) -> int:
    """Checksum of a row's small fields."""
    return crc32(ascii(fields).encode())


def row_crc(place: int, entry: Entry) -> int:
    """Checksum of one state row.

    Args:
        place: Key group and step in one number: ``key_group << 24 | step``.
        entry: The entry.
    """
    key, sub, value, expires_ms = entry
    assert value is not None, "a deletion has no row"
    return crc32(value, crc32(sub, crc32(key, row_seed(place, expires_ms))))


def row_seed(place: int, expires_ms: int | None) -> int:
    """What a row's checksum starts from: another one for every place and expiry that differ by one bit."""
    return place if expires_ms is None else (place ^ expires_ms ^ (expires_ms >> 32) ^ 0x5BD1E995) & 0xFFFFFFFF


def delta_crc(step: int, epoch: int, payload: bytes) -> int:
    """Checksum of one unfolded delta."""
    return crc32(payload, crc32(b"%d|%d|" % (step, epoch)))


def chunk_crc(chunk: Chunk) -> int:
    """Checksum of one outbox chunk."""
    return crc32(chunk.payload, fields_crc(chunk.sink, chunk.epoch, chunk.index, chunk.first_seq, chunk.count))


def blob_crc(epoch: int, payload: bytes, source: str = "") -> int:
    """Checksum of a blob that belongs to an epoch, and perhaps to a source."""
    return crc32(payload, crc32(text(source), crc32(b"%d|" % epoch)))


def write_rows(
    connection: sqlite3.Connection, head: str, row: str, rows: Sequence[Sequence[Any]], tail: str = ""
) -> None:
    """Writes rows by as few statements as possible.

    Args:
        connection: The connection, in a transaction.
        head: The statement up to VALUES.
        row: Placeholders of one row, in parentheses.
        rows: Values.
        tail: What follows the rows, such as an ON CONFLICT clause.
    """
    for start in range(0, len(rows), ROWS_PER_STATEMENT):
        part = rows[start : start + ROWS_PER_STATEMENT]
        parameters = [value for values in part for value in values]
        connection.execute(_statement(head, row, len(part), tail), parameters)


@lru_cache(maxsize=64)
def _statement(head: str, row: str, count: int, tail: str) -> str:
    return f"{head} VALUES {','.join([row] * count)} {tail}"
