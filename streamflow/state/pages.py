"""Reading the rows of ``state`` at an opening: pages of a few columns instead of rows, since rows are many.

Most rows are plain: a value of its key, for ever. SQLite joins those of one key group and step to three texts, which
costs a third of what fetching them one by one does, and leaves the interpreter to others meanwhile. All other rows are
fetched.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Final

import msgspec

from streamflow.keys import PLAIN_SUB
from streamflow.state.store import Entries

LOAD_ROWS: Final = 256
"""Rows fetched at once; twice as fast as 4096, which leave the processor's cache."""
JOINED_FROM: Final = 4096
"""With fewer rows than this, looking for their key groups costs more than joining saves."""

GIVEN_SECONDS: Final = 20e-6
"""So long the interpreter is given to the thread that reads ahead: it would get it only when the page is done."""


def are_texts(*columns: str) -> str:
    """An expression that is false where a column holds bytes: its checksum may be right, but it sorts elsewhere."""
    return " AND ".join(f"typeof({column}) = 'text'" for column in columns)


_TEXTS: Final = are_texts("key", "sub", "value")
_PLAIN: Final = f"sub = '\"\"' AND expires_ms IS NULL AND {_TEXTS}"
_FETCHED: Final = (
    "SELECT key_group << 24 | step, CAST(key AS BLOB), CAST(sub AS BLOB), CAST(value AS BLOB), expires_ms, crc, "
    f"{_TEXTS} FROM state"
)
_JOINED: Final = (
    "SELECT count(*), (SELECT count(*) FROM state WHERE key_group = ?1 AND step = ?2), "
    "CAST(group_concat(key, x'0A') AS BLOB), CAST(group_concat(value, x'0A') AS BLOB), "
    f"'[' || group_concat(crc) || ']' FROM state WHERE key_group = ?1 AND step = ?2 AND {_PLAIN}"
)
_NEXT_PLACE: Final = (
    "SELECT key_group, step FROM state WHERE (key_group, step) > (?, ?) ORDER BY key_group, step LIMIT 1"
)
_integers: Final = msgspec.json.Decoder(list[int]).decode


@dataclass(frozen=True, slots=True)
class Page:
    """Rows of one key group and step.

    Args:
        place: Key group and step in one number: ``key_group << 24 | step``.
        entries: What they hold.
        crcs: Their checksums, as stored and not looked at yet.
        texts: Whether keys and values are stored as texts; bytes would sort elsewhere.
    """

    place: int
    entries: Entries
    crcs: Sequence[int]
    texts: bool

    @property
    def step(self) -> int:
        """The table's id."""
        return self.place & 0xFFFFFF


def read_pages(connection: sqlite3.Connection) -> Iterator[Page]:
    """Reads all rows; those of one table come in the order of the file, but for what sets some of them apart."""
    ((total,),) = connection.execute("SELECT count(*) FROM state").fetchall()
    if total < JOINED_FROM:
        yield from _fetched(connection, "ORDER BY key_group, step, key, sub", ())
    else:
        yield from _ahead(_by_place(connection))


def _by_place(connection: sqlite3.Connection) -> Iterator[Page]:
    for place in list(_places(connection)):
        page, rest = _joined(connection, place)
        if page is not None:
            yield page
        if rest is not None:
            yield from _fetched(connection, f"WHERE key_group = ? AND step = ? {rest}", place)


def _ahead(pages: Iterator[Page]) -> Iterator[Page]:
    """Reads the next page while one is looked at: SQLite needs no interpreter for most of it."""
    with ThreadPoolExecutor(1, "streamflow-load") as thread:
        following = thread.submit(next, pages, None)
        while (page := following.result()) is not None:
            following = thread.submit(next, pages, None)
            time.sleep(GIVEN_SECONDS)
            yield page


def _places(connection: sqlite3.Connection) -> Iterator[tuple[int, int]]:
    """Every key group and step that there are rows of, by one look-up each."""
    at = (-1 << 63, -1 << 63)
    while found := connection.execute(_NEXT_PLACE, at).fetchall():
        at = found[0]
        yield at


def _joined(connection: sqlite3.Connection, place: tuple[int, int]) -> tuple[Page | None, str | None]:
    """The plain rows of a place, if they can be told apart, and the condition of those that are still to be fetched.

    JSON holds no line feed within a text, but between its parts it may: a codec of somebody's own may write one.
    """
    try:
        ((count, held, *texts),) = connection.execute(_JOINED, place).fetchall()
    except (sqlite3.DataError, sqlite3.OperationalError):
        return None, ""  # too long a text; whatever else it is comes up again when rows are fetched
    # looking for others where there are none would look at every row once more
    rest = None if count == held else f"AND NOT ({_PLAIN})"
    if not count:
        return None, rest
    keys, values = texts[0].split(b"\n"), texts[1].split(b"\n")
    if not len(keys) == len(values) == count:
        return None, ""
    group, step = place
    entries = Entries(keys, [PLAIN_SUB] * count, values, [None] * count)
    return Page(group << 24 | step, entries, _integers(texts[2]), texts=True), rest


def _fetched(connection: sqlite3.Connection, which: str, parameters: tuple[int, ...]) -> Iterator[Page]:
    cursor = connection.execute(f"{_FETCHED} {which}", parameters)
    while rows := cursor.fetchmany(LOAD_ROWS):
        for place, run in groupby(rows, key=itemgetter(0)):
            _, keys, subs, values, expires, crcs, texts = zip(*run, strict=True)
            yield Page(place, Entries(keys, subs, values, expires), crcs, texts=all(texts))
