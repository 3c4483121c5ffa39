"""A watched VFS: every call by which Python's own SQLite touches a file passes a hook, which may record or fail it.

The library that ``_sqlite3`` is linked with is found in this process (never a second copy), its default VFS is copied,
and the copy becomes the default. The copy's ``xOpen`` calls the real one and then gives the file a method table in
which reading, writing, truncating and syncing are ours; everything else, shared memory and locks among it, is the
real thing.
"""

from __future__ import annotations

import ctypes
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

OK: Final = 0
IOERR_READ: Final = 10 | 1 << 8
IOERR_SHORT_READ: Final = 10 | 2 << 8
IOERR_WRITE: Final = 10 | 3 << 8
IOERR_FSYNC: Final = 10 | 4 << 8
IOERR_TRUNCATE: Final = 10 | 6 << 8
IOERR_DELETE: Final = 10 | 10 << 8
FULL: Final = 13
CANTOPEN: Final = 14

OPEN_CREATE: Final = 0x4
SYNCS_ITS_DIRECTORY: Final = 0x800 | 0x4000 | 0x80000
"""Journals and WALs: SQLite syncs the directory with the first sync of one that it may have made (DIRSYNC)."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call that reaches the disk.

    Args:
        kind: ``open``, ``read``, ``write``, ``truncate``, ``sync`` or ``delete``.
        path: The file.
        offset: Where it writes; the new length for ``truncate``.
        data: What it writes.
        made: Whether ``open`` is about to make the file.
        directory: Whether a ``sync`` or ``delete`` makes the names in its directory durable too.
    """

    kind: str
    path: str
    offset: int = 0
    data: bytes = b""
    made: bool = False
    directory: bool = False


class Hook:
    """What a test hangs into the calls; this one lets them all pass."""

    def before(self, call: Call) -> int:
        """Returns `OK` to let the call happen, or the error that it gives instead."""
        return OK

    def after(self, call: Call) -> None:
        """Is told of a call that succeeded."""


_POINTER = ctypes.c_void_p


class _Methods(ctypes.Structure):
    _fields_ = [
        ("version", ctypes.c_int),
        *((name, _POINTER) for name in ("close", "read", "write", "truncate", "sync", "file_size")),
        *((name, _POINTER) for name in ("lock", "unlock", "check_reserved_lock", "file_control", "sector_size")),
        *((name, _POINTER) for name in ("characteristics", "shm_map", "shm_lock", "shm_barrier", "shm_unmap")),
        *((name, _POINTER) for name in ("fetch", "unfetch")),
    ]


class _File(ctypes.Structure):
    _fields_ = [("methods", ctypes.POINTER(_Methods))]


class _Vfs(ctypes.Structure):
    _fields_ = [
        ("version", ctypes.c_int),
        ("file_bytes", ctypes.c_int),
        ("path_bytes_max", ctypes.c_int),
        ("next", _POINTER),
        ("name", ctypes.c_char_p),
        ("data", _POINTER),
        *((name, _POINTER) for name in ("open", "delete", "access", "full_pathname")),
        *((name, _POINTER) for name in ("dl_open", "dl_error", "dl_sym", "dl_close")),
        *((name, _POINTER) for name in ("randomness", "sleep", "current_time", "last_error", "current_time_int64")),
        *((name, _POINTER) for name in ("set_system_call", "get_system_call", "next_system_call")),
    ]


_OPEN = ctypes.CFUNCTYPE(
    ctypes.c_int, _POINTER, _POINTER, ctypes.POINTER(_File), ctypes.c_int, ctypes.POINTER(ctypes.c_int)
)
_DELETE = ctypes.CFUNCTYPE(ctypes.c_int, _POINTER, ctypes.c_char_p, ctypes.c_int)
_TRANSFER = ctypes.CFUNCTYPE(ctypes.c_int, _POINTER, _POINTER, ctypes.c_int, ctypes.c_int64)
_TRUNCATE = ctypes.CFUNCTYPE(ctypes.c_int, _POINTER, ctypes.c_int64)
_SYNC = ctypes.CFUNCTYPE(ctypes.c_int, _POINTER, ctypes.c_int)


class NoLibrary(Exception):
    """The running Python's SQLite cannot be watched."""


@cache
def library() -> ctypes.CDLL:
    """The SQLite that `sqlite3` uses, found through the extension module that is linked with it.

    Raises:
        NoLibrary: It is linked statically, with its symbols hidden.
    """
    import _sqlite3

    found = ctypes.CDLL(getattr(_sqlite3, "__file__", None))
    try:
        for name in ("sqlite3_vfs_find", "sqlite3_vfs_register", "sqlite3_vfs_unregister", "sqlite3_sourceid"):
            getattr(found, name)
    except AttributeError as error:
        raise NoLibrary(f"this Python's SQLite gives no access to its VFS: {error}") from error
    found.sqlite3_vfs_find.restype = ctypes.POINTER(_Vfs)
    found.sqlite3_vfs_find.argtypes = [ctypes.c_char_p]
    found.sqlite3_vfs_register.argtypes = [ctypes.POINTER(_Vfs), ctypes.c_int]
    found.sqlite3_sourceid.restype = ctypes.c_char_p
    connection = sqlite3.connect(":memory:")
    ((used,),) = connection.execute("SELECT sqlite_source_id()")
    connection.close()
    if used.encode() != found.sqlite3_sourceid():
        raise NoLibrary("the SQLite library that was found is not the one that Python uses")
    return found


class WatchedVfs:
    """The copy of the default VFS. One per process, since files may stay open after a test has ended."""

    def __init__(self) -> None:
        self.hook = Hook()
        self._library = library()
        self._real = self._library.sqlite3_vfs_find(None)
        self._files: dict[int, tuple[str, bool]] = {}
        self._tables: dict[int, _Methods] = {}
        self._kept: list[Any] = []
        self._vfs = _Vfs()
        ctypes.memmove(ctypes.byref(self._vfs), self._real, ctypes.sizeof(_Vfs))
        self._vfs.name = b"watched"
        self._vfs.next = None
        self._vfs.open = self._callback(_OPEN, self._open)
        self._vfs.delete = self._callback(_DELETE, self._delete)

    def install(self) -> None:
        """Makes it the VFS that new connections use."""
        assert self._library.sqlite3_vfs_register(ctypes.byref(self._vfs), 1) == OK

    def remove(self) -> None:
        """Gives new connections the real one again."""
        assert self._library.sqlite3_vfs_register(self._real, 1) == OK
        assert self._library.sqlite3_vfs_unregister(ctypes.byref(self._vfs)) == OK

    def _callback(self, kind: Any, function: Callable[..., int]) -> int | None:
        wrapped = kind(function)
        self._kept.append(wrapped)
        return ctypes.cast(wrapped, _POINTER).value

    def _guarded(self, call: Call, real: Callable[[], int]) -> int:
        code = self.hook.before(call)
        if code == OK:
            code = real()
            if code == OK:
                self.hook.after(call)
        return code

    def _open(self, vfs: int, name: int | None, file: Any, flags: int, flags_out: Any) -> int:
        # SQLite keeps the pointer and reads parameters behind the name: a copy of the text would not do
        path = os.fsdecode(ctypes.string_at(name)) if name else ""
        made = bool(flags & OPEN_CREATE) and bool(path) and not os.path.exists(path)

        def real() -> int:
            code: int = _OPEN(self._real.contents.open)(vfs, name, file, flags, flags_out)
            if code == OK:
                address = ctypes.cast(file, _POINTER).value
                assert address is not None
                self._files[address] = (path, bool(flags & OPEN_CREATE and flags & SYNCS_ITS_DIRECTORY))
                file.contents.methods = ctypes.pointer(self._watching(file.contents.methods))
            return code

        return self._guarded(Call("open", path, made=made), real)

    def _delete(self, vfs: int, name: bytes, sync_directory: int) -> int:
        call = Call("delete", os.fsdecode(name), directory=bool(sync_directory))
        return self._guarded(call, lambda: _DELETE(self._real.contents.delete)(vfs, name, sync_directory))

    def _watching(self, real: Any) -> _Methods:
        address = ctypes.cast(real, _POINTER).value
        assert address is not None
        if address not in self._tables:
            table = _Methods()
            # older versions of the table are shorter, and then nobody looks at its end
            ctypes.memmove(ctypes.byref(table), real, ctypes.sizeof(_Methods))
            self._watch_reads(table, _TRANSFER(real.contents.read), _TRANSFER(real.contents.write))
            self._watch_lengths(table, _TRUNCATE(real.contents.truncate), _SYNC(real.contents.sync))
            self._tables[address] = table
        return self._tables[address]

    def _watch_reads(self, table: _Methods, real_read: Any, real_write: Any) -> None:
        def read(file: int, buffer: int, size: int, offset: int) -> int:
            path, _ = self._files[file]
            return self._guarded(Call("read", path, offset), lambda: real_read(file, buffer, size, offset))

        def write(file: int, buffer: int, size: int, offset: int) -> int:
            path, _ = self._files[file]
            data = ctypes.string_at(buffer, size)
            return self._guarded(Call("write", path, offset, data), lambda: real_write(file, buffer, size, offset))

        table.read = self._callback(_TRANSFER, read)
        table.write = self._callback(_TRANSFER, write)

    def _watch_lengths(self, table: _Methods, real_truncate: Any, real_sync: Any) -> None:
        def truncate(file: int, size: int) -> int:
            path, _ = self._files[file]
            return self._guarded(Call("truncate", path, size), lambda: real_truncate(file, size))

        def sync(file: int, flags: int) -> int:
            path, directory = self._files[file]
            code = self._guarded(Call("sync", path, directory=directory), lambda: real_sync(file, flags))
            if code == OK:
                self._files[file] = (path, False)
            return code

        table.truncate = self._callback(_TRUNCATE, truncate)
        table.sync = self._callback(_SYNC, sync)


@cache
def _the_vfs() -> WatchedVfs:
    return WatchedVfs()


@contextmanager
def watched(hook: Hook) -> Iterator[None]:
    """Lets every connection that is opened inside pass its calls through ``hook``."""
    vfs = _the_vfs()
    vfs.hook = hook
    vfs.install()
    try:
        yield
    finally:
        vfs.remove()
        vfs.hook = Hook()
