"""State files of any size, made at once: rows as folding leaves them, without the epochs that would lead there."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, Final

from streamflow.keys import KEY_GROUPS, PLAIN_SUB, canonical, key_group
from streamflow.state.content import Total, read_content, write_content
from streamflow.state.rows import row_crc
from streamflow.state.sqlite import SqliteStore
from streamflow.state.store import Entry, Manifest

ROWS_AT_ONCE: Final = 10_000


async def build(path: Path, manifest: Manifest, keys: int, value: Callable[[int], bytes]) -> None:
    """Makes a store whose only table holds the keys ``user-0`` to ``user-<keys - 1>``.

    Args:
        path: The state file.
        manifest: Of a flow with one table of plain values.
        keys: Number of keys.
        value: JSON of the n-th key's value.
    """
    store = SqliteStore(path)
    await store.open(manifest)
    await store.close()
    connection = sqlite3.connect(path, isolation_level=None)
    ((step,),) = connection.execute("SELECT id FROM step")
    connection.execute("PRAGMA synchronous=OFF")
    connection.execute("BEGIN")
    rows = _rows(step, keys, value)
    statement = "INSERT INTO state VALUES (?, ?, CAST(? AS TEXT), CAST(? AS TEXT), CAST(? AS TEXT), NULL, ?)"
    while part := list(islice(rows, ROWS_AT_ONCE)):
        connection.executemany(statement, part)
    ((held, crcs),) = connection.execute("SELECT count(*), sum(crc) FROM state")
    content = read_content(connection)
    write_content(connection, replace(content, totals={**content.totals, "state": Total(held, crcs)}))
    connection.execute("COMMIT")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


def key(number: int) -> str:
    """The n-th key."""
    return f"user-{number}"


def _rows(step: int, keys: int, value: Callable[[int], bytes]) -> Iterator[tuple[Any, ...]]:
    """All rows in the order of the file: sorted, it grows at its end only."""
    groups: list[list[tuple[bytes, int]]] = [[] for _ in range(KEY_GROUPS)]
    for number in range(keys):
        text = b'"user-%d"' % number
        groups[key_group(text)].append((text, number))
    assert canonical(key(0)) == b'"user-0"', "the text of a key is its canonical one"
    for group, held in enumerate(groups):
        place = group << 24 | step
        for text, number in sorted(held):
            stored = value(number)
            yield group, step, text, PLAIN_SUB, stored, row_crc(place, Entry(text, PLAIN_SUB, stored))
        held.clear()
