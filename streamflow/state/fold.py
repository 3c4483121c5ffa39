"""The fold: merges committed deltas into readable rows, in slices that a commit never waits long for.

A round takes the oldest deltas of one table and keeps the latest entry per key in memory; it writes them as rows in
the order of the file, a slice per transaction, and deletes the deltas with the last slice. In between both say the
same: a delta that is still there hides the row, and after a crash the round simply starts again.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from time import sleep as give_way
from typing import Any, Final

from streamflow.keys import key_group
from streamflow.state.commit import check_generation
from streamflow.state.content import Total
from streamflow.state.ledger import Ledger
from streamflow.state.opening import transaction
from streamflow.state.recovery import corrupt
from streamflow.state.rows import ROWS_PER_STATEMENT, delta_crc, row_crc, write_rows
from streamflow.state.splitting import Fields, delta_fields, entry_of
from streamflow.state.store import Entry
from streamflow.state.tally import Tally

FOLD_SLICE_SECONDS: Final = 0.008
"""A slice starts nothing new after this long; with its COMMIT it stays near 20 ms."""
FOLD_ROUND_BYTES: Final = 8 << 20
"""A round takes deltas up to this size, and at least one: it bounds the memory of a fold."""
FOLD_BYTES_MIN: Final = 4 << 20
"""Under load a table with less than this unfolded is left alone."""
FOLD_BYTES_MAX: Final = 16 << 20
"""Under load folding is due as soon as more than this is unfolded, however many rows there are."""

PAUSE_EVERY_SECONDS: Final = 0.0005
PAUSE_SECONDS: Final = 50e-6
"""How often the fold gives the interpreter away, and how long: the loop would wait for it up to 5 ms, in each turn."""

_MERGE_ENTRIES: Final = 128


class Folder:
    """Folds one round after the other.

    GUARANTEE: rows and remaining deltas together always give the last committed epoch.

    Args:
        ledger: What is known of the file.
        monotonic: Seconds that never go back.
    """

    def __init__(self, ledger: Ledger, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._ledger = ledger
        self._monotonic = monotonic
        self._round: _Round | None = None

    def slice(self, connection: sqlite3.Connection, *, idle: bool) -> bool:
        """Does about 20 ms of work.

        Args:
            connection: The writable connection, outside a transaction.
            idle: Whether to fold everything; otherwise only tables whose deltas outweigh their rows.

        Returns:
            Whether there was anything to do.

        Raises:
            Fenced: Another process has opened the store.
            CorruptStateError: A delta does not match its checksum.
        """
        deadline = self._monotonic() + FOLD_SLICE_SECONDS
        if self._round is None:
            step = self._choose(idle=idle)
            if step is None:
                return False
            self._round = _Round(connection, step)
        current = self._round
        if not self._advance(current.preparing, deadline):
            return True
        done = False
        tally = Tally(self._ledger)
        with transaction(connection):
            check_generation(connection, self._ledger)
            current.total = Total()
            done = self._advance(current.writing, deadline)
            tally.add("state", *current.total)
            if done:
                tally.add("state_delta", *current.delete_deltas())
            tally.write(connection)
        tally.apply()
        if done:
            self._note(current)
            self._round = None
        return True

    def _choose(self, *, idle: bool) -> int | None:
        """The table with the largest debt among those that are due; all are once they owe too much together."""
        idle = idle or self._ledger.debt_bytes > FOLD_BYTES_MAX
        due = {
            step: size
            for step, size in self._ledger.debt.items()
            if size and (idle or size > min(max(self._ledger.row_bytes.get(step, 0), FOLD_BYTES_MIN), FOLD_BYTES_MAX))
        }
        return max(due, key=due.__getitem__) if due else None

    def _advance(self, work: Iterator[None], deadline: float) -> bool:
        """Runs pieces of work until none is left, or the deadline has passed; at least one."""
        paused = self._monotonic()
        for _ in work:
            now = self._monotonic()
            if now >= deadline:
                return False
            if now - paused > PAUSE_EVERY_SECONDS:
                give_way(PAUSE_SECONDS)
                paused = self._monotonic()
        return True

    def _note(self, folded: _Round) -> None:
        debt, rows = self._ledger.debt, self._ledger.row_bytes
        debt[folded.step] -= folded.size_bytes
        assert debt[folded.step] >= 0, f"fold debt of table {folded.step} is {debt[folded.step]}"
        rows[folded.step] = max(rows.get(folded.step, 0), folded.size_bytes)


class _Round:
    """The oldest deltas of one table on their way into rows."""

    def __init__(self, connection: sqlite3.Connection, step: int) -> None:
        self.step = step
        self.size_bytes = 0
        self._connection = connection
        self.total = Total()
        self._deltas = Total()
        self._ids: list[int] = []
        self._latest: dict[tuple[bytes, bytes], Fields] = {}
        # plain tuples: unlike those of a class, the collector leaves them alone
        self._groups: dict[int, dict[tuple[bytes, bytes], tuple[Any, ...]]] = {}
        for delta, size in connection.execute("SELECT id, bytes FROM state_delta WHERE step = ? ORDER BY id", (step,)):
            if self._ids and self.size_bytes + size > FOLD_ROUND_BYTES:
                break
            self._ids.append(delta)
            self.size_bytes += size
        assert self._ids, f"table {step} has fold debt but no deltas"
        self.preparing = self._prepare()
        self.writing = self._write()

    def _prepare(self) -> Iterator[None]:
        """Reads the deltas, oldest first, keeps what each key has last, and makes entries of that, by key group."""
        for delta in self._ids:
            query = "SELECT epoch, CAST(payload AS BLOB), crc FROM state_delta WHERE id = ?"
            ((epoch, payload, crc),) = self._connection.execute(query, (delta,)).fetchall()
            if crc != delta_crc(self.step, epoch, payload):
                raise corrupt(f"the changes of table {self.step} in epoch {epoch}")
            self._deltas = self._deltas.plus(1, crc)
            entries = iter(delta_fields(payload))
            while part := list(islice(entries, _MERGE_ENTRIES)):
                for fields in part:
                    self._latest[bytes(fields[0]), bytes(fields[1])] = fields
                yield
        latest = iter(self._latest.items())
        while grouped := list(islice(latest, _MERGE_ENTRIES)):
            for address, fields in grouped:
                self._groups.setdefault(key_group(address[0]), {})[address] = tuple(entry_of(fields))
            yield
        self._latest = {}

    def _write(self) -> Iterator[None]:
        """Writes rows in the order of the file."""
        rows = self._rows()
        while part := list(islice(rows, ROWS_PER_STATEMENT)):
            change = _write_part(self._connection, self.step, part)
            self.total = self.total.plus(*change)
            yield

    def _rows(self) -> Iterator[tuple[int, Entry]]:
        for group in sorted(self._groups):
            entries = self._groups.pop(group)
            for address in sorted(entries):
                yield group, Entry(*entries[address])

    def delete_deltas(self) -> Total:
        """Deletes what is now in rows; returns by how much less there is."""
        self._connection.execute("DELETE FROM state_delta WHERE step = ? AND id <= ?", (self.step, self._ids[-1]))
        return Total().plus(-self._deltas.rows, -self._deltas.crcs)


def _write_part(connection: sqlite3.Connection, step: int, part: Sequence[tuple[int, Entry]]) -> Total:
    """Writes and deletes rows; returns how many more there are, and what their checksums add."""
    rows: list[tuple[Any, ...]] = []
    gone: list[Any] = []
    before = _held(connection, step, part)
    for group, entry in part:
        key, sub, value, expires_ms = entry
        if value is None:
            gone += (group, key, sub)
        else:
            rows.append((group, step, key, sub, value, expires_ms, row_crc(group << 24 | step, entry)))
    write_rows(
        connection,
        "INSERT OR REPLACE INTO state(key_group, step, key, sub, value, expires_ms, crc)",
        "(?, ?, CAST(? AS TEXT), CAST(? AS TEXT), CAST(? AS TEXT), ?, ?)",
        rows,
    )
    if gone:
        # each term is one look-up in the primary key; IN (VALUES ...) would scan the table
        term = f"(key_group = ? AND step = {step} AND key = CAST(? AS TEXT) AND sub = CAST(? AS TEXT))"
        connection.execute(f"DELETE FROM state WHERE {' OR '.join([term] * (len(gone) // 3))}", gone)
    return Total(len(rows) - before.rows, sum(row[-1] for row in rows) - before.crcs)


def _held(connection: sqlite3.Connection, step: int, part: Sequence[tuple[int, Entry]]) -> Total:
    """What is stored under the keys of a part before it is written."""
    wanted = ", ".join(["(?, ?, ?)"] * len(part))
    query = (
        f"WITH wanted(key_group, key, sub) AS (VALUES {wanted}) SELECT count(*), coalesce(sum(state.crc), 0) "
        "FROM wanted CROSS JOIN state ON state.key_group = wanted.key_group AND state.step = ? "
        "AND state.key = CAST(wanted.key AS TEXT) AND state.sub = CAST(wanted.sub AS TEXT)"
    )
    parameters: list[Any] = [field for group, entry in part for field in (group, entry.key, entry.sub)]
    return Total(*connection.execute(query, (*parameters, step)).fetchone())
