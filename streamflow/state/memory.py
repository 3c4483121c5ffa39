"""A disk in memory: what outlives a simulated process, without files, locks of the kernel or waiting.

The database of a process lives in SQLite's own memory; at each COMMIT its image replaces the one on the disk, and
each opening, or whatever is done outside of a transaction, starts from what is there. So whoever comes next finds
what another process would find: the last COMMIT, whole, and the witness as it was written.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

from streamflow.errors import StateLockedError
from streamflow.state.witness import Seen, check_not_gone


class MemoryDisk:
    """One store's place in memory; `place` goes into `StoreOptions`.

    GUARANTEE: it changes only by the COMMIT of a place that is attached. BOUND: one image.
    """

    def __init__(self) -> None:
        self.image: bytes | None = None
        self.seen: Seen | None = None
        self.saves = 0
        self._holder: MemoryPlace | None = None

    def place(self, path: Path, monotonic: Callable[[], float]) -> MemoryPlace:
        """Makes a place on this disk."""
        return MemoryPlace(self, path)

    def lose_lock(self) -> None:
        """The lock of a process that lives on is gone, as on a disk that fails over: two may now write."""
        self._holder = None

    def copy(self) -> MemoryDisk:
        """What a copy of the files made now would hold."""
        disk = MemoryDisk()
        disk.image, disk.seen = self.image, self.seen
        return disk

    def hold(self, place: MemoryPlace, path: Path) -> None:
        """Takes the lock.

        Raises:
            StateLockedError: Another place holds it.
        """
        if self._holder is not None:
            raise StateLockedError(f"{path} is in use", hint="Stop the other one first.")
        self._holder = place

    def let_go(self, place: MemoryPlace) -> None:
        """Gives the lock back, if the place holds it."""
        if self._holder is place:
            self._holder = None


class MemoryPlace:
    """One opening's hold on a `MemoryDisk`.

    Args:
        disk: The disk.
        path: What the store is called in messages.
    """

    def __init__(self, disk: MemoryDisk, path: Path) -> None:
        self.disk = disk
        self.witness = _MemoryWitness(self)
        self.attached = True
        self._path = path

    def connect(self, *, force: bool) -> sqlite3.Connection:
        self.disk.hold(self, self._path)
        if self.disk.image is None:
            check_not_gone(self._path, self.disk.seen)
        return self._connected()

    def connect_readable(self) -> sqlite3.Connection:
        connection = self._connected()
        connection.execute("PRAGMA query_only=ON").fetchall()
        return connection

    def _connected(self) -> sqlite3.Connection:
        connection = sqlite3.connect(":memory:", isolation_level=None, factory=_Imaged)
        connection.place = self
        connection.load()
        return connection

    def make_durable(self, connection: sqlite3.Connection) -> None:
        """Nothing to set: a COMMIT is durable when the image is taken."""

    def drop(self, connection: sqlite3.Connection) -> None:
        connection.close()

    def release(self) -> None:
        self.disk.let_go(self)

    def detach(self) -> None:
        """Its process is dead: nothing that it still does arrives, its lock is free."""
        self.attached = False
        self.release()


class _Imaged(sqlite3.Connection):
    """A database in memory that is the disk's image outside of transactions, and replaces that at COMMIT."""

    place: MemoryPlace
    image: bytes | None = None

    def load(self) -> None:
        self.image = self.place.disk.image
        if self.image is not None:
            self.deserialize(self.image)

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        place = self.place
        if place.disk.image is not self.image and place.attached and not self.in_transaction:
            self.load()
        cursor = super().execute(sql, parameters)
        if sql == "COMMIT" and place.attached:
            self.image = place.disk.image = self.serialize()
            place.disk.saves += 1
        return cursor


class _MemoryWitness:
    """The witness of a `MemoryDisk`."""

    def __init__(self, place: MemoryPlace) -> None:
        self._place = place

    def read(self) -> Seen | None:
        return self._place.disk.seen

    def write(self, seen: Seen) -> None:
        if self._place.attached:
            self._place.disk.seen = seen

    def sync(self) -> None:
        """Nothing waits."""

    def forget(self) -> None:
        self._place.disk.seen = None

    def close(self) -> None:
        """Nothing is held."""
