"""A recorded disk: what was written and synced, in order, and the images that a power cut could leave of it.

The rules are the strict ones of POSIX, stricter than any journaling file system: after a power cut a file holds all
that was written before its last sync; each sector of 512 bytes written since is there or not, in any of its versions;
the length is one of those it had; a file's name is there only if its directory was synced, else perhaps.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from unittest import mock

from tests.faults.store.vfs import OK, Call, Hook

SECTOR_BYTES: Final = 512


@dataclass(frozen=True, slots=True)
class Mark:
    """A moment that the test wants to find again between the calls."""

    what: Any


class Recorder(Hook):
    """Records every call that succeeded, and marks; ``decide`` may fail some."""

    def __init__(self, decide: Callable[[Call], int] | None = None) -> None:
        self.events: list[Call | Mark] = []
        self._decide = decide

    def before(self, call: Call) -> int:
        code = self._decide(call) if self._decide is not None else OK
        if code != OK and call.kind == "sync":
            # the kernel forgets what it could not write, and says so only once
            self.events.append(Call("sync failed", call.path))
        return code

    def after(self, call: Call) -> None:
        if call.kind != "read":
            self.events.append(call)

    def mark(self, what: Any) -> None:
        self.events.append(Mark(what))

    @contextmanager
    def listening(self, folder: Path) -> Iterator[None]:
        """Records what the store does with files itself, beside SQLite: the witness, new files, deletions."""
        ears = _Ears(self, str(folder))
        with (
            mock.patch.object(os, "open", ears.open),
            mock.patch.object(os, "pwrite", ears.pwrite),
            mock.patch.object(os, "fsync", ears.fsync),
            mock.patch.object(os, "unlink", ears.unlink),
        ):
            yield


class _Ears:
    """The functions of `os` that the store uses, each recorded once it has succeeded."""

    def __init__(self, recorder: Recorder, folder: str) -> None:
        self._recorder = recorder
        self._folder = folder
        self._paths: dict[int, str] = {}
        self._open, self._pwrite, self._fsync, self._unlink = os.open, os.pwrite, os.fsync, os.unlink

    def _ours(self, path: Any) -> bool:
        text = os.fspath(path)
        return isinstance(text, str) and text.startswith(self._folder) and not text.endswith(".lock")

    def _told(self, call: Call) -> None:
        code = self._recorder.before(call)
        if code != OK:
            raise OSError(5, f"injected into {call.kind}", call.path)

    def open(self, path: Any, *arguments: Any, **named: Any) -> int:
        made = self._ours(path) and not os.path.exists(path)
        descriptor = self._open(path, *arguments, **named)
        if self._ours(path):
            self._paths[descriptor] = os.fspath(path)
            if made:
                self._recorder.after(Call("open", os.fspath(path), made=True))
        else:
            self._paths.pop(descriptor, None)
        return descriptor

    def pwrite(self, descriptor: int, data: bytes, offset: int) -> int:
        path = self._paths.get(descriptor)
        call = None if path is None else Call("write", path, offset, bytes(data))
        if call is not None:
            self._told(call)
        written = self._pwrite(descriptor, data, offset)
        if call is not None:
            self._recorder.after(call)
        return written

    def fsync(self, descriptor: int) -> None:
        path = self._paths.get(descriptor)
        call = None if path is None else Call("sync", path, directory=os.path.isdir(path))
        if call is not None:
            self._told(call)
        self._fsync(descriptor)
        if call is not None:
            self._recorder.after(call)

    def unlink(self, path: Any, **named: Any) -> None:
        self._unlink(path, **named)
        if self._ours(path):
            self._recorder.after(Call("delete", os.fspath(path)))


@dataclass(frozen=True, slots=True)
class Cut:
    """How a power cut treats what was not synced.

    Args:
        kept: Share of the unsynced pieces that are there.
        piece_bytes: Size of the pieces that are kept or lost together.
        old_versions: Whether a piece that was written twice may be there as it was in between.
        noise: Whether what a file was lengthened by, and not written, is rubbish instead of zeros.
    """

    kept: float
    piece_bytes: int
    old_versions: bool
    noise: bool

    @staticmethod
    def any(rng: random.Random) -> Cut:
        """Rates differ from cut to cut: with one rate for all, most would look alike."""
        return Cut(
            kept=rng.choice([0.0, 0.03, 0.5, 0.5, 0.97, 1.0]),
            piece_bytes=rng.choice([SECTOR_BYTES, SECTOR_BYTES, 4096]),
            old_versions=rng.random() < 0.5,
            noise=rng.random() < 0.5,
        )


@dataclass(slots=True)
class _Inode:
    """One file: what is durable, what programs see, and what may be there after a cut."""

    durable: bytearray = field(default_factory=bytearray)
    seen: bytearray = field(default_factory=bytearray)
    versions: dict[int, list[bytes]] = field(default_factory=dict)
    sizes: list[int] = field(default_factory=list)
    cut_to: int | None = None

    def write(self, offset: int, data: bytes) -> None:
        end = offset + len(data)
        if end > len(self.seen):
            self.seen.extend(bytes(end - len(self.seen)))
            self.sizes.append(end)
        self.seen[offset:end] = data
        self._touch(offset, end)

    def truncate(self, size: int) -> None:
        """Cuts the file: what was behind the cut is there as it was, or gone, never half."""
        _resize(self.seen, size)
        self.sizes.append(size)
        self.cut_to = size if self.cut_to is None else min(size, self.cut_to)

    def _touch(self, start: int, end: int) -> None:
        for sector in range(start // SECTOR_BYTES, -(-end // SECTOR_BYTES)):
            content = bytes(self.seen[sector * SECTOR_BYTES : (sector + 1) * SECTOR_BYTES])
            self.versions.setdefault(sector, []).append(content.ljust(SECTOR_BYTES, b"\0"))

    def sync(self) -> None:
        if self.cut_to is not None:
            del self.durable[self.cut_to :]
            self.cut_to = None
        for sector, versions in self.versions.items():
            _place(self.durable, sector, versions[-1])
        _resize(self.durable, len(self.seen))
        self.versions.clear()
        self.sizes.clear()

    def fail_sync(self) -> None:
        """What was not written is not dirty any more: no later sync will write it."""
        self.versions.clear()

    def after_cut(self, cut: Cut, rng: random.Random) -> bytes:
        found = bytearray(self.durable)
        size = rng.choice([len(found), *self.sizes]) if cut.kept not in (0.0, 1.0) else len(found)
        if cut.kept == 1.0 and self.sizes:
            size = self.sizes[-1]
        if size > len(found):
            found.extend(rng.randbytes(size - len(found)) if cut.noise else bytes(size - len(found)))
        fate: dict[int, bool] = {}
        for sector, versions in self.versions.items():
            piece = sector * SECTOR_BYTES // cut.piece_bytes
            if piece not in fate:
                fate[piece] = rng.random() < cut.kept
            if fate[piece]:
                _place(found, sector, rng.choice(versions) if cut.old_versions else versions[-1])
        _resize(found, size)
        return bytes(found)


def _place(content: bytearray, sector: int, data: bytes) -> None:
    start = sector * SECTOR_BYTES
    if len(content) < start:
        content.extend(bytes(start - len(content)))
    content[start : start + SECTOR_BYTES] = data


def _resize(content: bytearray, size: int) -> None:
    del content[size:]
    content.extend(bytes(size - len(content)))


class Disk:
    """Replays a record call by call; at any moment it gives images of what a power cut would leave.

    Args:
        lies: Decides for each sync whether the drive only says that it did it.
    """

    def __init__(self, lies: Callable[[Call], bool] = lambda call: False) -> None:
        self._lies = lies
        self._inodes: list[_Inode] = []
        self._names: dict[str, int] = {}
        self._durable_names: dict[str, int] = {}
        self._changes: list[tuple[str, int | None]] = []

    def apply(self, call: Call) -> None:
        """Does what the call did."""
        if call.kind == "open":
            if call.made and call.path not in self._names:
                self._inodes.append(_Inode())
                self._rename(call.path, len(self._inodes) - 1)
            return
        if call.kind == "delete":
            self._rename(call.path, None)
        elif call.kind == "write":
            self._file(call.path).write(call.offset, call.data)
        elif call.kind == "truncate":
            self._file(call.path).truncate(call.offset)
        elif call.kind == "sync failed":
            if call.path in self._names:
                self._file(call.path).fail_sync()
            return
        elif call.kind == "sync" and not self._lies(call) and call.path in self._names:
            self._file(call.path).sync()
        if call.directory and not self._lies(call):
            self._durable_names = dict(self._names)
            self._changes.clear()

    def _file(self, path: str) -> _Inode:
        return self._inodes[self._names[path]]

    def _rename(self, path: str, inode: int | None) -> None:
        self._changes.append((path, inode))
        _bind(self._names, path, inode)

    def seen(self) -> dict[str, bytes]:
        """What programs see now: for a check that the record is complete."""
        return {path: bytes(self._inodes[inode].seen) for path, inode in self._names.items()}

    def after_cut(self, cut: Cut, rng: random.Random) -> dict[str, bytes]:
        """One image of the disk as the power cut leaves it: path -> content."""
        names = dict(self._durable_names)
        for path, inode in self._changes:
            if rng.random() < cut.kept:
                _bind(names, path, inode)
        return {path: self._inodes[inode].after_cut(cut, rng) for path, inode in names.items()}


def _bind(names: dict[str, int], path: str, inode: int | None) -> None:
    if inode is None:
        names.pop(path, None)
    else:
        names[path] = inode
