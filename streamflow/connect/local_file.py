"""One open local file, for one reader or for one writer at a time."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from streamflow.errors import Fenced, NotFound, SettingsError, Unavailable

_APPEND: Final = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC

_writers_lock: Final = threading.Lock()
_writers: Final[dict[tuple[int, int], LocalFile]] = {}
"""Who in this process holds the write lock of a file, by device and inode."""


class LocalFile:
    """A regular file by its path. Blocking: call it in a thread.

    GUARANTEE: calls from several threads run one after the other, and none touches the file once it is closed; at
    most one writer is open per file: in this process the newest, among processes the first one.
    """

    def __init__(self, path: str, descriptor: int) -> None:
        self.path = path
        self._descriptor: int | None = descriptor
        self._fenced = False
        self._lock = threading.Lock()
        status = os.fstat(descriptor)
        self.inode = status.st_ino
        self._key = (status.st_dev, status.st_ino)

    @classmethod
    def reading(cls, path: str) -> LocalFile:
        """Opens a file to read.

        Raises:
            NotFound, SettingsError: It is not there, or is no file that can be read.
        """
        return cls(path, _open(path, os.O_RDONLY | os.O_CLOEXEC))

    @classmethod
    def writing(cls, path: str) -> LocalFile:
        """Opens a file to write, made if it is not there; closes the writer that this process had before.

        Raises:
            NotFound, SettingsError: The folder is not there, or the path is no file that can be written.
            Unavailable: Another process writes to it.
        """
        file = cls(path, _open(path, _APPEND))
        with _writers_lock:
            older = _writers.pop(file._key, None)
            if older is not None:
                older._close(fenced=True)
            try:
                fcntl.flock(file._use(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                file._close()
                raise Unavailable(
                    f"file {path} is being written by another process ({error.strerror})",
                    hint="Stop that process, or write to another file.",
                ) from None
            _writers[file._key] = file
        _sync_folder(path)
        return file

    def read(self, offset: int, size: int) -> bytes:
        """Reads up to ``size`` bytes; fewer only at the end of the file."""
        parts: list[bytes] = []
        with self._using() as descriptor:
            while size > 0 and (part := os.pread(descriptor, size, offset)):
                parts.append(part)
                offset += len(part)
                size -= len(part)
        return b"".join(parts)

    def size(self) -> int:
        """The file's length in bytes."""
        with self._using() as descriptor:
            return os.fstat(descriptor).st_size

    def replaced(self) -> bool:
        """Whether another file stands at the path now; false while none does."""
        try:
            return os.stat(self.path).st_ino != self.inode
        except FileNotFoundError:
            return False

    def cut(self, size: int) -> None:
        """Shortens the file to ``size`` bytes, durably."""
        with self._using() as descriptor:
            os.ftruncate(descriptor, size)
            os.fsync(descriptor)

    def write(self, offset: int, data: bytes) -> None:
        """Writes all of ``data``, durably."""
        left = memoryview(data)
        with self._using() as descriptor:
            while left:
                written = os.pwrite(descriptor, left, offset)
                offset += written
                left = left[written:]
            os.fsync(descriptor)

    def close(self) -> None:
        """Closes the file and gives up its lock; safe to call twice."""
        with _writers_lock:
            if _writers.get(self._key) is self:
                del _writers[self._key]
        self._close()

    @contextmanager
    def _using(self) -> Iterator[int]:
        with self._lock:
            try:
                yield self._use()
            except OSError as error:
                raise Unavailable(
                    f"file {self.path}: {error.strerror}", hint="Look at the disk: its space, its rights, its health."
                ) from error

    def _use(self) -> int:
        if self._fenced:
            raise Fenced(f"a newer sink writes to file {self.path}", hint="Stop this instance, or the other one.")
        if self._descriptor is None:
            raise Unavailable(f"file {self.path} is closed")
        return self._descriptor

    def _close(self, *, fenced: bool = False) -> None:
        with self._lock:
            descriptor, self._descriptor = self._descriptor, None
            self._fenced = self._fenced or fenced
            if descriptor is not None:
                os.close(descriptor)


def _open(path: str, flags: int) -> int:
    """Opens a regular file, and says plainly why not."""
    try:
        # Without O_NONBLOCK, opening a named pipe would wait for its other end.
        descriptor = os.open(path, flags | os.O_NONBLOCK, 0o666)
    except FileNotFoundError:
        raise NotFound(f"file {path} does not exist, or its folder does not", hint="Check the path.") from None
    except OSError as error:
        link = error.errno == errno.ELOOP
        reason = "is a symbolic link, which a sink does not follow" if link else f"cannot be opened: {error.strerror}"
        raise SettingsError(f"file {path} {reason}", hint="Name a regular file that this user may open.") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise SettingsError(f"{path} is not a regular file", hint="Name a regular file.")
    return descriptor


def _sync_folder(path: str) -> None:
    """Makes the file's name durable: a new file may be lost with its folder's entry otherwise."""
    folder = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
