"""What the whole file must hold: rows and checksums of each table, counted by every transaction that changes them.

A checksum per row tells a damaged row. It does not tell a row that is missing, nor one that was right an hour ago:
pages that a drive never wrote, a log that stands beside another day's file. SQLite's own checks find nothing wrong
with those either (measured: 1 of 100 power cuts of a drive that lies about syncing). So the file also says how many
rows each table has and what their checksums add up to, and an opening counts again.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from streamflow.errors import CorruptStateError
from streamflow.state.opening import RESTORE
from streamflow.state.rows import fields_crc

_COUNTED: Final = ("dead", "source", "event_time", "seen", "sink", "outbox", "state_delta")
"""Tables that an opening counts at once; rows of ``state`` are counted when they are loaded."""


class Total(NamedTuple):
    """Number of rows, and the sum of their checksums."""

    rows: int = 0
    crcs: int = 0

    def plus(self, rows: int, crcs: int) -> Total:
        """After so many more rows; both may be negative."""
        return Total(self.rows + rows, self.crcs + crcs)


@dataclass(frozen=True, slots=True)
class Content:
    """What the file says of itself, as of its last transaction.

    Args:
        epoch: The last committed epoch.
        notes: Transactions that changed anything without an epoch, since the store was made.
        generation: Number of the last opening.
        totals: By table.
    """

    epoch: int = 0
    notes: int = 0
    generation: int = 0
    totals: Mapping[str, Total] = field(default_factory=dict)

    def total(self, table: str) -> Total:
        """What a table holds."""
        return self.totals.get(table, Total())


def write_content(connection: sqlite3.Connection, content: Content) -> None:
    """Writes it into its row."""
    text = json.dumps([content.epoch, content.notes, content.generation, content.totals], separators=(",", ":"))
    connection.execute("UPDATE meta SET value = ? WHERE key = 'content'", (text,))


def read_content(connection: sqlite3.Connection) -> Content:
    """Reads what the file says of itself.

    Raises:
        ValueError, TypeError: It says nothing that makes sense.
    """
    ((text,),) = connection.execute("SELECT value FROM meta WHERE key = 'content'").fetchall()
    epoch, notes, generation, totals = json.loads(text)
    return Content(epoch, notes, generation, {table: Total(*total) for table, total in totals.items()})


def check_content(connection: sqlite3.Connection, content: Content) -> None:
    """Counts every table but ``state``, and holds it against what the file says.

    Raises:
        CorruptStateError: Rows are missing, or too many, or not the latest.
    """
    ((epoch, generation),) = connection.execute(
        "SELECT (SELECT coalesce(max(epoch), 0) FROM epoch), (SELECT value FROM meta WHERE key = 'generation')"
    )
    if (epoch, generation) != (content.epoch, content.generation):
        raise incomplete(
            f"epoch {epoch} of generation {generation}", f"epoch {content.epoch} of generation {content.generation}"
        )
    for table, total in count(connection).items():
        check_total(table, total, content)


def check_total(table: str, total: Total, content: Content) -> None:
    """Holds one table, as it was just counted, against what the file says.

    Raises:
        CorruptStateError: Rows are missing, or too many, or not the latest.
    """
    if total != content.total(table):
        said = content.total(table).rows
        raise incomplete(f"{total.rows} rows in table {table}", str(said) if said != total.rows else "others")


def count(connection: sqlite3.Connection) -> dict[str, Total]:
    """Counts every table but ``state``."""
    totals = {
        table: Total(*connection.execute(f"SELECT count(*), coalesce(sum(crc), 0) FROM {table}").fetchone())
        for table in _COUNTED
    }
    return {**totals, "step": count_steps(connection), "meta": _count_meta(connection)}


def count_steps(connection: sqlite3.Connection) -> Total:
    """Counts the stateful steps, whose rows have no checksum of their own."""
    rows = connection.execute("SELECT id, name, kind, value_type, key_type FROM step").fetchall()
    return Total(len(rows), sum(fields_crc(*row) for row in rows))


def _count_meta(connection: sqlite3.Connection) -> Total:
    names = ("flow", "hash", "incarnation")
    facts = dict(connection.execute("SELECT key, value FROM meta").fetchall())
    return Total(len(names), fields_crc(*(facts[name] for name in names)))


def incomplete(found: str, said: str) -> CorruptStateError:
    """The error for a file whose parts are not of one moment."""
    return CorruptStateError(
        f"the state file holds {found} where it says {said}: a part of it is older or newer than the rest", hint=RESTORE
    )
