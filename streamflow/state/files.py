"""The state file as files: backup, destruction, and a copy as another process would find it."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Final

from streamflow.errors import StateError
from streamflow.state.lock import FileLock, check_place
from streamflow.state.opening import as_state_error
from streamflow.state.reader import opened

BACKUP_PAGES: Final = 4096
"""Pages copied at once (16 MiB)."""


def backup(path: str | Path, to: str | Path) -> None:
    """Copies the last committed epoch into a new file, while the flow runs or not.

    A plain copy of a live file misses its WAL (measured: epoch 0 of 50). The copy has no witness, so it is opened
    only with ``--accept-missing``: whoever starts from it decides to go back.

    Raises:
        StateError: There is no state file, or the target exists.
    """
    source, target = Path(path), Path(to)
    if not source.is_file():
        raise StateError(f"there is no state file {source}", hint="Run the flow once, or look at its state=...")
    check_place(target, force=True)
    alone = not source.with_name(source.name + "-wal").exists()
    try:
        os.close(os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        raise StateError(f"{target} exists already", hint="Name a new file for the backup.") from None
    copy = sqlite3.connect(target, isolation_level=None)
    try:
        with opened(source, immutable=alone) as db:
            db.execute("ROLLBACK")
            db.backup(copy, pages=BACKUP_PAGES)
    except (sqlite3.Error, StateError) as error:
        target.unlink()
        raise error if isinstance(error, StateError) else as_state_error(error, source) from error
    finally:
        copy.close()
    with target.open("rb") as file:
        os.fsync(file.fileno())


def destroy(path: str | Path) -> None:
    """Deletes a store with all that belongs to it; its content is lost.

    Whatever instant it is cut off at, the rest is either refused by the next open or empty.

    Raises:
        StateLockedError: A flow uses it.
    """
    file = Path(path)
    lock = FileLock(file.with_name(file.name + ".lock"))
    if not file.parent.is_dir():
        return
    try:
        lock.acquire()
    except OSError as error:
        raise StateError(
            f"{lock.path} cannot be locked: {error.strerror}", hint="Remove it if it is a link."
        ) from error
    try:
        for suffix in ("-wal", "-shm", "", ".epoch", ".lock"):
            file.with_name(file.name + suffix).unlink(missing_ok=True)
    finally:
        lock.release()


def copy_as_found(path: str | Path, to: str | Path) -> None:
    """Copies file, WAL and witness as another process would find them, and not the lock. For crash tests.

    Not for a store that other processes use: reading the file drops the locks that SQLite holds in this process.
    """
    source, target = Path(path), Path(to)
    for suffix in ("", "-wal", ".epoch"):
        one = source.with_name(source.name + suffix)
        copy = target.with_name(target.name + suffix)
        if one.exists():
            copy.write_bytes(one.read_bytes())
        else:
            copy.unlink(missing_ok=True)
