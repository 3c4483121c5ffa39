"""Keeping the write-ahead log short: checkpoints of our own choosing, on the store's thread."""

from __future__ import annotations

import logging
import sqlite3
from pathlib import Path
from typing import Final

from streamflow.state.opening import BUSY_SECONDS

WAL_CHECKPOINT_BYTES: Final = 4 << 20
"""Between commits the log is checkpointed once it is this long: a bounded piece of work."""
WAL_BYTES_MAX: Final = 64 << 20
"""A commit that finds the log longer than this checkpoints it first of all, and says so."""

log = logging.getLogger("streamflow.state")


def write_back(connection: sqlite3.Connection, path: Path) -> None:
    """Writes all that an opening has found in the log back to the file, and syncs it, before anything builds on it.

    What is found need not be on the disk: if a sync failed, the kernel still shows what it could not write, and no
    later sync of the log would write it. The next power cut would take it away, and all that was appended since.
    """
    ((busy, _, _),) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    if busy:
        log.warning("%s: a reader keeps an old snapshot open, so its log could not be written back", path)


class WalKeeper:
    """Decides when the WAL is checkpointed.

    BOUND: the log stays under `WAL_BYTES_MAX`, unless a foreign reader holds an old snapshot open: that is logged.

    Args:
        path: The state file.
    """

    def __init__(self, path: Path) -> None:
        self._wal = path.with_name(path.name + "-wal")
        self._next_bytes = WAL_CHECKPOINT_BYTES

    def size_bytes(self) -> int:
        """Length of the log now."""
        try:
            return self._wal.stat().st_size
        except FileNotFoundError:
            return 0

    def between_commits(self, connection: sqlite3.Connection, *, idle: bool) -> bool:
        """Checkpoints if it is worth it; returns whether it did.

        Args:
            connection: The writable connection.
            idle: Whether nothing else is to do: then any log at all is written back.
        """
        size = self.size_bytes()
        threshold = 1 if idle and self._next_bytes == WAL_CHECKPOINT_BYTES else self._next_bytes
        if size < threshold:
            return False
        self._checkpoint(connection, size)
        return True

    def after_commit(self, connection: sqlite3.Connection) -> None:
        """Checkpoints if the log has passed its cap in spite of all."""
        size = self.size_bytes()
        if size > WAL_BYTES_MAX and size >= self._next_bytes:
            self._checkpoint(connection, size)

    def _checkpoint(self, connection: sqlite3.Connection, size: int) -> None:
        # a reader must not hold up the store: what can be written back now is, the rest next time
        connection.execute("PRAGMA busy_timeout=0")
        try:
            ((busy, _, _),) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        finally:
            connection.execute(f"PRAGMA busy_timeout={int(BUSY_SECONDS * 1000)}")
        self._next_bytes = size + WAL_CHECKPOINT_BYTES if busy else WAL_CHECKPOINT_BYTES
        if busy and size > WAL_BYTES_MAX:
            log.warning("%s has grown to %d MiB: some reader keeps an old snapshot open", self._wal, size >> 20)
