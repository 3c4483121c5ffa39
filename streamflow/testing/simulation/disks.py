"""Disks of simulated hosts: what of a store outlives its process."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from streamflow.state.files import copy_as_found
from streamflow.state.memory import MemoryDisk, MemoryPlace
from streamflow.state.place import FilePlace, Place


class Disk(Protocol):
    """Where the stores of one flow lie, life after life."""

    @property
    def path(self) -> Path:
        """The state file."""
        ...

    def place(self, path: Path, monotonic: Callable[[], float]) -> Place:
        """Makes the place of one opening."""
        ...

    def detach(self, places: Sequence[Place]) -> None:
        """Their process died: nothing that is left of it reaches the disk any more."""
        ...

    def lose_lock(self) -> bool:
        """Frees the lock of a process that lives on; False where that cannot be."""
        ...

    def copy(self) -> Disk | None:
        """A disk of its own with what is on this one; None where that cannot be."""
        ...

    def close(self) -> None:
        """Removes everything."""
        ...


class MemDisk:
    """SQLite in memory: fast, and all that most schedules need."""

    def __init__(self, disk: MemoryDisk | None = None) -> None:
        self.path = Path("simulated.db")
        self._disk = disk or MemoryDisk()

    def place(self, path: Path, monotonic: Callable[[], float]) -> Place:
        return self._disk.place(path, monotonic)

    def detach(self, places: Sequence[Place]) -> None:
        for place in places:
            assert isinstance(place, MemoryPlace)
            place.detach()

    def lose_lock(self) -> bool:
        self._disk.lose_lock()
        return True

    def copy(self) -> Disk | None:
        return MemDisk(self._disk.copy())

    def close(self) -> None:
        """Nothing is held."""


class FileDisk:
    """Real files with a write-ahead log: each life finds a copy of them, made at the instant of the death."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="streamflow-sim-"))
        self._deaths = 0
        self.path = self._folder / "0.db"

    def place(self, path: Path, monotonic: Callable[[], float]) -> Place:
        return FilePlace(path, monotonic)

    def detach(self, places: Sequence[Place]) -> None:
        self._deaths += 1
        found = self._folder / f"{self._deaths}.db"
        if self.path.exists():
            copy_as_found(self.path, found)
        self.path = found

    def lose_lock(self) -> bool:
        return False

    def copy(self) -> Disk | None:
        return None

    def close(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
