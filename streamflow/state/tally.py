"""The tally of one transaction: what it changes of the content, and what the ledger learns once it is committed."""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Hashable
from dataclasses import replace
from itertools import takewhile
from typing import Final

from streamflow.state.content import Total, write_content
from streamflow.state.ledger import Held, Ledger

SEEN_IDS_MAX: Final = 1_000_000
"""Ids remembered per source, at least; whole epochs beyond that are forgotten, oldest first."""


class Tally:
    """Counts what one transaction writes and deletes.

    GUARANTEE: the ledger changes in `apply` only, which is called after the COMMIT.

    Args:
        ledger: What is known of the file before.
    """

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self._content = ledger.content
        self._totals = dict(ledger.content.totals)
        self._crcs: list[tuple[str, Hashable, int]] = []
        self._seen: list[tuple[str, Held, int]] = []
        self._chunks: list[tuple[str, Held]] = []
        self._published: list[tuple[str, int]] = []

    def add(self, table: str, rows: int, crcs: int) -> None:
        """Counts rows that were written, or, with negative figures, deleted."""
        self._totals[table] = self._totals.get(table, Total()).plus(rows, crcs)

    def put(self, table: str, total: Total) -> None:
        """Takes a table as it was just counted."""
        self._totals[table] = total

    def replace(self, table: str, key: Hashable, crc: int) -> None:
        """Counts a row of one of `Ledger.crcs`, which takes the place of an older one if there is one."""
        old = self.ledger.crcs[table].get(key)
        self.add(table, int(old is None), crc - (old or 0))
        self._crcs.append((table, key, crc))

    def add_seen(self, source: str, blob: Held) -> int:
        """Counts a blob of ids, and those that need not be remembered any more.

        Returns:
            The epoch up to which they go; 0 if all stay.
        """
        self.add("seen", 1, blob.crc)
        blobs = self.ledger.seen.get(source, ())
        total = blob.items + sum(held.items for held in blobs)
        gone: list[Held] = []
        for held in blobs:
            if total - held.items < SEEN_IDS_MAX:
                break
            total -= held.items
            gone.append(held)
        self.add("seen", -len(gone), -sum(held.crc for held in gone))
        self._seen.append((source, blob, len(gone)))
        return gone[-1].at if gone else 0

    def add_chunk(self, sink: str, chunk: Held) -> None:
        """Counts a chunk in the outbox."""
        self.add("outbox", 1, chunk.crc)
        self._chunks.append((sink, chunk))

    def drop_published(self, sink: str, next_seq: int) -> int:
        """Counts the oldest chunks of a sink, as far as they are published whole; returns how many there are."""
        pending = self.ledger.pending.get(sink, ())
        gone = list(takewhile(lambda chunk: chunk.at + chunk.items <= next_seq, pending))
        self.add("outbox", -len(gone), -sum(chunk.crc for chunk in gone))
        self._published.append((sink, len(gone)))
        return len(gone)

    def write(self, connection: sqlite3.Connection, *, epoch: int | None = None, notes: int = 0) -> None:
        """Writes the content as it will be: the last statement of the transaction."""
        self._content = replace(
            self._content,
            epoch=self._content.epoch if epoch is None else epoch,
            notes=self._content.notes + notes,
            totals=self._totals,
        )
        write_content(connection, self._content)

    def apply(self) -> None:
        """Brings the ledger up to what was committed."""
        ledger = self.ledger
        ledger.content = self._content
        for table, key, crc in self._crcs:
            ledger.crcs[table][key] = crc
        for source, blob, forgotten in self._seen:
            blobs = ledger.seen.setdefault(source, deque())
            for _ in range(forgotten):
                blobs.popleft()
            blobs.append(blob)
        for sink, published in self._published:
            for _ in range(published):
                ledger.pending[sink].popleft()
        for sink, chunk in self._chunks:
            ledger.add_chunk(sink, chunk)
