"""The sink of a file: lines appended exactly once, by cutting the file back to what is known."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

from streamflow.batch import Chunk, Fragment, Progress
from streamflow.connect.contracts import Frames, Guarantee, Probe, SinkContext
from streamflow.connect.file_source import probe_file
from streamflow.connect.local_file import LocalFile
from streamflow.connect.recovery import progress_at, unpublished
from streamflow.errors import EncodeError, ForeignWriter, ProgressUnknown, SinkAhead, Unavailable

ZEROED_BYTES: Final = 512
"""Smallest unit that a power loss may leave as zeros in a file that was made longer and not yet filled."""

LENGTH_DIGITS_MAX: Final = 19
"""Digits of the longest length that a file can have."""


@dataclass(frozen=True, slots=True)
class FileSinkSettings:
    """Which file is written, and how; see `FileLines`."""

    path: str
    encode: Callable[[Any], bytes]
    guarantee: Guarantee


class FileSink:
    """Appends lines to one file.

    GUARANTEE: exactly-once. The cursor is the file's length; what stands behind it after a crash must be the start
    of what was to be written next, and is kept up to its last whole line. BOUND: holds one run of chunks, and one
    chunk while it recovers.
    """

    def __init__(self, settings: FileSinkSettings) -> None:
        self.guarantee = settings.guarantee
        self._settings = settings
        self._file: LocalFile | None = None
        self._ctx: SinkContext | None = None

    async def probe(self) -> Probe:
        return await asyncio.to_thread(_probe, self._settings.path)

    async def open(self, ctx: SinkContext) -> None:
        self._ctx = ctx
        self._file = await asyncio.to_thread(LocalFile.writing, self._settings.path)

    async def recover(self, stored: Progress | None, pending: Sequence[Chunk]) -> Progress:
        file = self._opened()
        if stored is None:
            return await asyncio.to_thread(self._baseline, file)
        found = await asyncio.to_thread(self._begin, file, stored)
        for chunk in pending:
            assert self._ctx is not None
            await asyncio.to_thread(found.compare, await self._ctx.read(chunk) if found.reaches else chunk)
        return await asyncio.to_thread(self._cut, found, stored, pending)

    def encode(self, records: Fragment) -> Frames:
        encode = self._settings.encode
        try:
            frames = [encode(value) + b"\n" for value in records.values]
        except (ValueError, TypeError, OverflowError) as error:
            raise self._unencodable(f"cannot be encoded: {error}") from error
        if any(frame.find(b"\n", 0, -1) >= 0 for frame in frames):
            raise self._unencodable("has a newline in it, which would make two lines of it")
        return frames

    async def publish(self, chunks: Sequence[Chunk], at: Progress) -> Progress:
        return await asyncio.to_thread(self._publish, self._opened(), chunks, at)

    async def close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            await asyncio.to_thread(file.close)

    def _opened(self) -> LocalFile:
        if self._file is None:
            raise Unavailable(f"the sink on file {self._settings.path} is closed")
        return self._file

    def _unencodable(self, reason: str) -> EncodeError:
        path = self._settings.path
        return EncodeError(
            f"a value for file {path} {reason}", step=path, hint="Emit values that fit one line, such as JSON."
        )

    # In a thread.

    def _baseline(self, file: LocalFile) -> Progress:
        size = file.size()
        if size and file.read(size - 1, 1) != b"\n":
            raise ForeignWriter(
                f"file {file.path} ends in the middle of a line", hint="Finish the line, or write to another file."
            )
        return Progress(0, 1, _cursor(file, size))

    def _begin(self, file: LocalFile, stored: Progress) -> _Surplus:
        length = self._length(file, stored)
        size = file.size()
        if size < length:
            raise ProgressUnknown(
                f"file {file.path} has {size} bytes, but {length} were published",
                hint="Restore the file, or reset the sink with --accept-head.",
            )
        return _Surplus(file, size, stored.next_seq, length, length)

    def _cut(self, found: _Surplus, stored: Progress, pending: Sequence[Chunk]) -> Progress:
        file = found.file
        if found.size > found.end:
            raise SinkAhead(
                f"file {file.path} has {found.size} bytes, but this store wrote only {found.end}",
                hint="This store is an older copy, or another program appends too. Use the newest store, "
                "or reset the sink with --accept-head.",
            )
        if found.size > found.whole:
            file.cut(found.whole)
        return progress_at(found.next_seq, stored, pending, _cursor(file, found.whole))

    def _publish(self, file: LocalFile, chunks: Sequence[Chunk], at: Progress) -> Progress:
        size = file.size()
        length = self._length(file, at)
        if size != length:
            raise ForeignWriter(
                f"file {file.path} has {size} bytes instead of {length}: something else changed it",
                hint="Only one flow may write to it.",
            )
        frames = unpublished(chunks, at.next_seq)
        data = b"".join(frames)
        file.write(length, data)
        return progress_at(at.next_seq + len(frames), at, chunks, _cursor(file, length + len(data)))

    def _length(self, file: LocalFile, at: Progress) -> int:
        """Takes the cursor apart, and checks that it belongs to this file."""
        length, _, inode = at.cursor.partition(b":")
        known = length.isdigit() and len(length) <= LENGTH_DIGITS_MAX
        if file.replaced() or inode != str(file.inode).encode() or not known:
            raise ProgressUnknown(
                f"file {file.path} is not the one that was written before",
                hint="Put the old file back, or reset the sink with --accept-head.",
            )
        return int(length)


@dataclass(slots=True)
class _Surplus:
    """What a file holds behind its known length, compared chunk by chunk with what was to be written there.

    Args:
        file: The file.
        size: Its size.
        next_seq: The first record that it does not hold whole.
        whole: Where the last whole record ends.
        end: Where the chunks compared so far end, had they all been written.
    """

    file: LocalFile
    size: int
    next_seq: int
    whole: int
    end: int

    @property
    def reaches(self) -> bool:
        """Whether the file has bytes at the place of the next chunk."""
        return self.size > self.end

    def compare(self, chunk: Chunk) -> None:
        """Looks at the place of the next chunk; whole records count up to the first that is torn.

        Raises:
            ForeignWriter: Something else stands there.
        """
        if chunk.end_seq <= self.next_seq and self.whole == self.end:
            return
        if not self.reaches:
            self.end += chunk.frames_bytes
            return
        frames = unpublished([chunk], max(self.next_seq, chunk.first_seq) if self.whole == self.end else 0)
        expected = b"".join(frames)
        surplus = self.file.read(self.end, len(expected))
        if not _torn_from(surplus, expected, self.end):
            raise ForeignWriter(
                f"file {self.file.path}: what follows byte {self.end} is not what this sink was to write next",
                hint="Only one flow may write to it. Remove the foreign lines, or reset the sink with --accept-head.",
            )
        if self.whole == self.end:
            arrived, whole = _whole_frames(surplus, frames)
            self.next_seq += arrived
            self.whole += whole
        self.end += len(expected)


def _cursor(file: LocalFile, length: int) -> bytes:
    return f"{length}:{file.inode}".encode()


def _torn_from(surplus: bytes, expected: bytes, offset: int) -> bool:
    """Whether ``surplus`` is the start of ``expected``, as far as a crash let it be written."""
    if expected.startswith(surplus):
        return True
    cuts = [0, *range(ZEROED_BYTES - offset % ZEROED_BYTES, len(surplus), ZEROED_BYTES), len(surplus)]
    blocks = [(surplus[start:stop], expected[start:stop]) for start, stop in pairwise(cuts)]
    return all(found == wanted or not found.strip(b"\0") for found, wanted in blocks)


def _whole_frames(surplus: bytes, frames: Sequence[bytes]) -> tuple[int, int]:
    """How many frames ``surplus`` holds whole, from the first on, and in how many bytes."""
    end = 0
    for count, frame in enumerate(frames):
        if surplus[end : end + len(frame)] != frame:
            return count, end
        end += len(frame)
    return len(frames), end


def _probe(path: str) -> Probe:
    if os.path.lexists(path):
        probe = probe_file(path)
        if not probe.ok or (os.access(path, os.W_OK) and not os.path.islink(path)):
            return probe
        return Probe(False, {}, f"file {path} is a symbolic link or may not be written", "Name a file of your own.")
    folder = os.path.dirname(path) or "."
    if os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK):
        return Probe(True, {"bytes": "0, to be made"})
    return Probe(
        False, {}, f"folder {folder} does not exist or may not be written", "Make the folder, or check the path."
    )
