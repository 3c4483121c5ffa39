"""Place: where a store lies - the door to its database, its lock and its witness.

Production has one place, files on a disk; simulation keeps the same in memory (`streamflow.state.memory`).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from streamflow.state.lock import FileLock, check_place
from streamflow.state.opening import connect_readable, connect_writable, drop_connection, make_durable
from streamflow.state.witness import FileWitness, Witness, check_not_gone


class Place(Protocol):
    """One opening's hold on the place of a store."""

    @property
    def witness(self) -> Witness:
        """The second memory of how far the store had come."""
        ...

    def connect(self, *, force: bool) -> sqlite3.Connection:
        """Takes the lock and opens the one writable connection.

        Args:
            force: Take a place that looks unsafe all the same.

        Raises:
            StateLockedError: Another store holds the lock.
            StateError: The place must not be used.
            EpochWentBack: There is no database where epochs were committed before.
        """
        ...

    def connect_readable(self) -> sqlite3.Connection:
        """Opens a connection that can only read."""
        ...

    def make_durable(self, connection: sqlite3.Connection) -> None:
        """Sets what makes a COMMIT survive."""
        ...

    def drop(self, connection: sqlite3.Connection) -> None:
        """Closes the connection and leaves everything as it is, as the death of the process would."""
        ...

    def release(self) -> None:
        """Gives back the lock."""
        ...


MakePlace = Callable[[Path, Callable[[], float]], Place]
"""Makes the place of a state file; the second argument tells seconds that never go back."""


class FilePlace:
    """Files on a disk: ``<state>``, its write-ahead log, ``<state>.lock`` and ``<state>.epoch``.

    Args:
        path: The state file.
        monotonic: Seconds that never go back.
    """

    def __init__(self, path: Path, monotonic: Callable[[], float]) -> None:
        self.witness: Witness = FileWitness(path.with_name(path.name + ".epoch"), monotonic)
        self._path = path
        self._lock = FileLock(path.with_name(path.name + ".lock"))

    def connect(self, *, force: bool) -> sqlite3.Connection:
        path = self._path
        check_place(path, force=force)
        self._lock.acquire()
        if not path.exists() or not path.stat().st_size:
            check_not_gone(path, self.witness.read())
        return connect_writable(path)

    def connect_readable(self) -> sqlite3.Connection:
        return connect_readable(self._path)

    def make_durable(self, connection: sqlite3.Connection) -> None:
        make_durable(connection)

    def drop(self, connection: sqlite3.Connection) -> None:
        drop_connection(connection, self._path)

    def release(self) -> None:
        self._lock.release()
