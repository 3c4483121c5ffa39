"""What stored rows have in common: their checksums, texts that SQLite may not judge, and writing many at once."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Final
from zlib import crc32

ROWS_PER_STATEMENT: Final = 250
"""Rows of one multi-row VALUES statement: each statement may cost a hand-over of the GIL."""


def text(value: str) -> bytes:
    """A text as bytes for a ``CAST(? AS TEXT)``: lone surrogates (file names hold them) pass."""
    return value.encode("utf-8", "surrogatepass")


def text_back(value: bytes) -> str:
    """The text that `text` encoded."""
    return value.decode("utf-8", "surrogatepass")


def row_crc(step: int, key: bytes, sub: bytes, value: bytes, expires_ms: int | None) -> int:
    """Checksum of one state row."""
    return crc32(b"%d|%b|%b|%b|%d" % (step, key, sub, value, -1 if expires_ms is None else expires_ms))


def delta_crc(step: int, epoch: int, payload: bytes) -> int:
    """Checksum of one unfolded delta."""
    return crc32(payload, crc32(b"%d|%d|" % (step, epoch)))


def chunk_crc(sink: str, epoch: int, first_seq: int, count: int, payload: bytes) -> int:
    """Checksum of one outbox chunk."""
    return crc32(payload, crc32(b"%b|%d|%d|%d|" % (text(sink), epoch, first_seq, count)))


def blob_crc(epoch: int, payload: bytes) -> int:
    """Checksum of a blob that belongs to an epoch."""
    return crc32(payload, crc32(b"%d|" % epoch))


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


Point = Callable[[str], None]
"""Called at named instants of the commit: simulation raises there, production does nothing."""
