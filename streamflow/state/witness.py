"""The epoch witness beside the state file: a second memory of how far the store had come.

SQLite opens a store whose WAL was deleted, or cut short by one flipped bit, as if nothing were missing (measured:
epoch 9 of 30, integrity "ok"). So after each COMMIT the epoch is written to a file of its own, and a store that is
behind it is refused. Notes, which store positions and progress between epochs, are counted in the same way: a lost
baseline would let a sink take its own records for older ones.
"""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from streamflow.errors import EpochWentBack
from streamflow.state.lock import sync_directory

FSYNC_SECONDS: Final = 1.0
"""The witness is synced at most this often: after a power cut it may be older than the store, never newer."""

_SLOT_BYTES: Final = 96
_SLOTS: Final = 2


class Seen(NamedTuple):
    """What a witness says: which store it saw, at which epoch, after how many notes."""

    incarnation: str
    epoch: int
    notes: int


class Witness(Protocol):
    """What remembers an epoch outside of the store."""

    def read(self) -> Seen | None:
        """Returns the newest epoch it tells; None if it is missing or says nothing readable."""
        ...

    def write(self, seen: Seen) -> None:
        """Writes what was just committed.

        Raises:
            OSError: The disk refused.
        """
        ...

    def sync(self) -> None:
        """Waits until what was written is on the disk."""
        ...

    def forget(self) -> None:
        """Removes it, so that the next `write` makes it anew."""
        ...

    def close(self) -> None:
        """Lets go of it without syncing it."""
        ...


class FileWitness:
    """Writes ``<state>.epoch``: two lines in turns, so that a torn write leaves the other one.

    GUARANTEE: what it says is never ahead of what the store has committed.

    Args:
        path: Path of the witness file.
        monotonic: Seconds that never go back.
    """

    def __init__(self, path: Path, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.path = path
        self._monotonic = monotonic
        self._descriptor = -1
        self._synced = float("-inf")
        self._unsynced = False

    def read(self) -> Seen | None:
        return read_witness(self.path)

    def forget(self) -> None:
        self.path.unlink(missing_ok=True)

    def write(self, seen: Seen) -> None:
        if self._descriptor < 0:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            self._descriptor = os.open(self.path, flags, 0o600)
            # a power cut must not leave the store without its witness: its name has to be durable too
            sync_directory(self.path.parent)
        text = f"{seen.incarnation} {seen.epoch} {seen.notes}"
        line = f"{text} {zlib.crc32(text.encode()):08x}".ljust(_SLOT_BYTES - 1) + "\n"
        assert len(line) == _SLOT_BYTES, f"witness line of {len(line)} bytes"
        os.pwrite(self._descriptor, line.encode(), (seen.epoch + seen.notes) % _SLOTS * _SLOT_BYTES)
        self._unsynced = True
        now = self._monotonic()
        if now - self._synced >= FSYNC_SECONDS:
            self.sync()
            self._synced = now

    def sync(self) -> None:
        if self._unsynced and self._descriptor >= 0:
            os.fsync(self._descriptor)
            self._unsynced = False

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def read_witness(path: Path) -> Seen | None:
    """Returns the newest epoch a witness file tells, or None if it is missing or says nothing readable."""
    try:
        with path.open("rb") as file:
            return parse_witness(file.read(_SLOTS * _SLOT_BYTES))
    except OSError:
        return None


def parse_witness(content: bytes) -> Seen | None:
    """Reads the lines of a witness; what has not the checksum of a line that we wrote is passed over."""
    found: Seen | None = None
    for start in range(0, len(content), _SLOT_BYTES):
        fields = content[start : start + _SLOT_BYTES].decode("ascii", "replace").split()
        if len(fields) != 4 or not (fields[1].isdigit() and fields[2].isdigit()):
            continue
        text = " ".join(fields[:3])
        if fields[3] == f"{zlib.crc32(text.encode('ascii', 'replace')):08x}":
            seen = Seen(fields[0], int(fields[1]), int(fields[2]))
            if found is None or (seen.epoch, seen.notes) > (found.epoch, found.notes):
                found = seen
    return found


def check_not_gone(path: Path, seen: Seen | None) -> None:
    """Refuses to begin anew where something was committed before.

    Args:
        path: The state file, missing or empty.
        seen: What its witness says.

    Raises:
        EpochWentBack: The witness tells of epochs or notes.
    """
    if seen is not None and (seen.epoch or seen.notes):
        raise EpochWentBack(
            f"{path} is gone or empty, and its witness says that {_reached(seen, seen.epoch == 0)} was committed",
            hint="Bring the file and its -wal back, or run `streamflow reset` to begin anew.",
        )


def _reached(seen: Seen, noted: bool) -> str:
    """In words; the notes are told where the epoch alone does not make the point."""
    return f"epoch {seen.epoch} with note {seen.notes}" if noted else f"epoch {seen.epoch}"


def check_witness(path: Path, seen: Seen | None, held: Seen, *, accept_missing: bool) -> bool:
    """Refuses a store that is behind its witness, or has lost it.

    Args:
        path: The state file.
        seen: What its witness says.
        held: What the store says of itself.
        accept_missing: Whether a missing witness, or another store's, is made anew instead.

    Returns:
        Whether the witness fits; otherwise it is to be made anew.

    Raises:
        EpochWentBack: It may be an older copy.
    """
    if seen is not None and seen.incarnation == held.incarnation:
        if held.epoch < seen.epoch or held.notes < seen.notes:
            here, there = (_reached(one, held.epoch >= seen.epoch) for one in (held, seen))
            raise EpochWentBack(
                f"{path} is at {here}, and its witness says that {there} was committed",
                hint="It is an older copy, or its -wal file is gone: bring the newest back, or run `streamflow reset`.",
            )
        return True
    if seen is None and not (held.epoch or held.notes):
        return True
    if not accept_missing:
        what = "is missing or unreadable" if seen is None else "belongs to another store"
        raise EpochWentBack(
            f"the witness {path}.epoch {what}, so {path} (epoch {held.epoch}) may be an older copy",
            hint="Bring the witness back, or start with --accept-missing if you know that the store is the newest.",
        )
    return False
