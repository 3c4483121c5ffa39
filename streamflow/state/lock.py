"""The lock file beside the state file, and the rules for the place both lie in."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import stat
import time
from pathlib import Path
from typing import Final

from streamflow.errors import StateError, StateLockedError

NETWORK_FILE_SYSTEMS: Final = frozenset(
    {"9p", "afs", "beegfs", "ceph", "cifs", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "ocfs2"}
    | {"smb", "smb2", "smb3", "smbfs", "fuse.gcsfuse", "fuse.glusterfs", "fuse.rclone", "fuse.s3fs", "fuse.sshfs"}
)
"""SQLite's WAL needs memory shared between processes and honest locks: these give neither."""

LOCK_RETRIES_MAX: Final = 100


class FileLock:
    """An exclusive flock on ``<state>.lock``.

    GUARANTEE: at most one holder per machine; the kernel releases it when the holder dies, so what the file says
    is for people only.

    Args:
        path: Path of the lock file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = -1

    def acquire(self) -> None:
        """Takes the lock.

        Raises:
            StateLockedError: Another process, or another store in this one, holds it.
        """
        assert self._descriptor < 0, f"{self.path} acquired twice"
        for _ in range(LOCK_RETRIES_MAX):
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                holder = _holder(descriptor)
                os.close(descriptor)
                if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                    raise
                raise StateLockedError(
                    f"{self.path.with_suffix('')} is in use by {holder}",
                    hint="Stop that process first, or give this flow a state file of its own.",
                ) from None
            if _is_same_file(descriptor, self.path):
                self._descriptor = descriptor
                _write_holder(descriptor)
                return
            # `destroy` unlinked the file between our open and our flock: what we hold guards nothing
            os.close(descriptor)
        raise StateLockedError(f"{self.path} is deleted again and again", hint="See which process does that.")

    def release(self) -> None:
        """Gives the lock back; the file stays."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def _is_same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _write_holder(descriptor: int) -> None:
    holder = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
    }
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(holder).encode() + b"\n", 0)


def _holder(descriptor: int) -> str:
    try:
        holder = json.loads(os.pread(descriptor, 4096, 0))
        return f"process {int(holder['pid'])} on {holder['host']!s:.64}, since {holder['since']!s:.32}"
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return "another process"


def check_place(path: Path, *, force: bool = False) -> None:
    """Refuses what is no regular file, and network file systems; makes missing directories, for the owner only.

    Args:
        path: The state file.
        force: Whether a network file system is taken all the same.

    Raises:
        StateError: The file must not be used where it is.
    """
    suffixes = ("", "-wal", "-shm", "-journal", ".epoch", ".lock")
    for one in (path.with_name(path.name + suffix) for suffix in suffixes):
        try:
            mode = one.lstat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            continue
        if stat.S_ISLNK(mode):
            raise StateError(f"{one} is a symbolic link", hint=f"Name the real file instead: {os.path.realpath(one)}")
        if not stat.S_ISREG(mode):
            # opening a named pipe would wait for its other end
            hint = "Give the flow a state file of its own."
            raise StateError(f"{one} cannot be used: it is no regular file", hint=hint)
    for directory in reversed([parent for parent in path.absolute().parents if not parent.exists()]):
        directory.mkdir(mode=0o700, exist_ok=True)
        sync_directory(directory.parent)
    kind = file_system(path.parent)
    if kind in NETWORK_FILE_SYSTEMS and not force:
        raise StateError(
            f"{path} lies on a network file system ({kind}), where SQLite can lose data",
            hint="Put the state file on a local disk, or force it if you know that this one is safe.",
        )


def sync_directory(directory: Path) -> None:
    """Makes the names in a directory durable: syncing a file does not promise that a power cut leaves its name.

    A directory that may be written and not read is left to its file system.
    """
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_system(directory: Path, mounts: Path = Path("/proc/mounts")) -> str:
    """Returns the type of the file system that a directory lies on; empty where the machine does not tell."""
    try:
        lines = mounts.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return ""
    real = os.path.realpath(directory)
    best, kind = "", ""
    for line in lines:
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        point = fields[1].replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        # of several mounts on one point the last one counts
        if inside and len(point) >= len(best):
            best, kind = point, fields[2]
    return kind
