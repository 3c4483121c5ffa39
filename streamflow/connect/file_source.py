"""The source of a file: its lines, resumable by byte offset."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Mapping, Set
from dataclasses import dataclass
from hashlib import blake2b
from itertools import accumulate
from typing import Final

from streamflow.batch import Partition, Position, SourceBatch, Taken
from streamflow.connect.contracts import Guarantee, Probe, SourceContext
from streamflow.connect.local_file import LocalFile
from streamflow.errors import DecodeError, PositionAhead, SourceReplaced, Unavailable

PARTITION: Final = ""
READ_RECORDS_MAX: Final = 512
SLICE_BYTES: Final = 256 * 1024
IDENTITY_BYTES: Final = 4096
FOLLOW_POLL_SECONDS: Final = 0.05


@dataclass(frozen=True, slots=True)
class FileSourceSettings:
    """Which file is read, and how; see `FileLines`."""

    path: str
    follow: bool
    latest: bool
    guarantee: Guarantee


@dataclass(frozen=True, slots=True)
class _Slice:
    """Bytes read behind those known already, and the file's identity and length just after."""

    data: bytes
    identity: str
    size: int


class FileSource:
    """Reads the lines of one file, without their newline.

    GUARANTEE: exactly-once by byte offset; a file that was cut, rewritten or replaced is refused. BOUND: reads ahead
    256 KiB, or one line of ``message_bytes_max``; of a longer one only so much is kept.
    """

    def __init__(self, settings: FileSourceSettings) -> None:
        self.guarantee = settings.guarantee
        self._settings = settings
        self._file: LocalFile | None = None
        self._step = ""
        self._line_bytes_max = 0
        self._cuts = False
        self._identity = ""
        self._lines: list[bytes] = []
        self._positions: list[int] = []
        self._rest = b""
        self._rest_bytes = 0
        self._at = 0
        self._resumed_inside_line = False
        self._too_long: DecodeError | None = None
        self._ended = False
        self._running = asyncio.Event()

    async def probe(self) -> Probe:
        return await asyncio.to_thread(probe_file, self._settings.path)

    async def open(self, ctx: SourceContext, resume: Mapping[Partition, Position]) -> Mapping[Partition, Position]:
        self._step, self._line_bytes_max, self._cuts = ctx.source, ctx.message_bytes_max, ctx.leaves_out
        self._file = await asyncio.to_thread(LocalFile.reading, self._settings.path)
        start = await asyncio.to_thread(self._start, self._file, resume.get(PARTITION))
        self._at = start.at
        self._identity = start.identity if start.at else ""
        self._running.set()
        return {PARTITION: start}

    async def read(self) -> SourceBatch | None:
        while True:
            await self._running.wait()
            file = self._opened()
            if self._lines:
                return self._batch()
            if self._too_long is not None:
                raise self._too_long
            if self._ended:
                return None
            # A cancelled call leaves the thread to itself: what it reads is read again.
            part = await asyncio.to_thread(self._slice, file, self._at + self._rest_bytes)
            if self._take(part) or not self._settings.follow:
                continue
            if await asyncio.to_thread(file.replaced):
                raise self._replaced("another file stands at its path")
            # Paces looking only; no record's time depends on it.
            await asyncio.sleep(FOLLOW_POLL_SECONDS)

    async def ends(self) -> Mapping[Partition, Position | None]:
        return {PARTITION: await asyncio.to_thread(self._end, self._opened())}

    def pause(self, partitions: Set[Partition]) -> None:
        if PARTITION in partitions:
            self._running.clear()
        else:
            self._running.set()

    async def committed(self, epoch: int, taken: Taken) -> None:
        """Nothing to tell: a file keeps no positions."""

    async def close(self) -> None:
        file, self._file = self._file, None
        self._running.set()
        if file is not None:
            await asyncio.to_thread(file.close)

    def _opened(self) -> LocalFile:
        if self._file is None:
            raise Unavailable(f"the source on file {self._settings.path} is closed")
        return self._file

    # In a thread.

    def _start(self, file: LocalFile, resume: Position | None) -> Position:
        if resume is None:
            return self._end(file) if self._settings.latest else Position(0, _identity(file))
        if resume.at == 0:
            return resume
        size, identity = file.size(), _identity(file)
        if identity.partition("-")[0] != resume.identity.partition("-")[0]:
            raise self._replaced("it is another file")
        if size < resume.at:
            raise self._cut_off(resume.at, size)
        if identity != resume.identity:
            raise self._replaced("its first line is another one")
        self._resumed_inside_line = file.read(resume.at - 1, 1) != b"\n"
        return resume

    def _end(self, file: LocalFile) -> Position:
        """Behind the last whole line, or behind the last byte where the rest will be taken too."""
        size = end = file.size()
        while end > 0 and self._settings.follow:
            start = max(0, end - SLICE_BYTES)
            newline = file.read(start, end - start).rfind(b"\n")
            if newline >= 0:
                return Position(start + newline + 1, _identity(file))
            end = start
        return Position(end if self._settings.follow else size, _identity(file))

    def _slice(self, file: LocalFile, offset: int) -> _Slice:
        # In this order: a line that is whole in the data is whole in the identity.
        data = file.read(offset, SLICE_BYTES)
        return _Slice(data, _identity(file), file.size())

    # On the loop.

    def _take(self, part: _Slice) -> bool:
        """Turns a slice into lines; returns whether it held anything, or was the end."""
        known = self._at + self._rest_bytes
        if part.size < known:
            raise self._cut_off(known, part.size)
        if self._identity and part.identity != self._identity:
            raise self._replaced("its first line was rewritten")
        if not part.data and self._settings.follow:
            return False
        data = self._rest + self._past_resumed_line(part.data)
        let_go = self._rest_bytes - len(self._rest)
        *lines, rest = data.split(b"\n")
        positions = list(accumulate((len(line) + 1 for line in lines), initial=self._at + let_go))[1:]
        rest_bytes = len(rest) if lines else len(rest) + let_go
        if not part.data:
            self._ended = True
            if rest:
                lines, positions, rest, rest_bytes = [rest], [self._at + rest_bytes], b"", 0
        rest = self._within_bounds(lines, positions, rest)
        if lines:
            self._identity = part.identity
        self._lines, self._positions, self._rest, self._rest_bytes = lines, positions, rest, rest_bytes
        self._at = positions[-1] if positions else self._at
        return True

    def _past_resumed_line(self, data: bytes) -> bytes:
        """Skips the newline that a last line, once taken without it, has got since."""
        if not (data and self._resumed_inside_line):
            return data
        self._resumed_inside_line = False
        if not data.startswith(b"\n"):
            raise self._replaced(f"the line before byte {self._at} was taken as its last one and has grown")
        self._at += 1
        return data[1:]

    def _within_bounds(self, lines: list[bytes], positions: list[int], rest: bytes) -> bytes:
        """Cuts lines that are too long, or leaves out what starts with one: `read` raises once it gets there."""
        most = self._line_bytes_max
        if len(max(lines, key=len, default=b"")) <= most and len(rest) <= most:
            return rest
        if self._cuts:
            lines[:] = [line[: most + 1] for line in lines]
            return rest[: most + 1]
        first = next((index for index, line in enumerate(lines) if len(line) > most), len(lines))
        start = positions[first - 1] if first else self._at
        del lines[first:], positions[first:]
        self._too_long = DecodeError(
            f"file {self._settings.path}: the line that starts at byte {start} is longer than {most} bytes",
            step=self._step,
            hint="Raise message_bytes_max, cut the line, or leave it out with on_error=sf.skip.",
        )
        return rest

    def _batch(self) -> SourceBatch:
        lines, positions = self._lines, self._positions
        self._lines, self._positions = lines[READ_RECORDS_MAX:], positions[READ_RECORDS_MAX:]
        return SourceBatch(PARTITION, lines[:READ_RECORDS_MAX], positions[:READ_RECORDS_MAX], identity=self._identity)

    def _replaced(self, reason: str) -> SourceReplaced:
        return SourceReplaced(
            f"file {self._settings.path} is not the one that was read before: {reason}",
            hint="Put the old file back, or reset the flow to read the new one from its start.",
        )

    def _cut_off(self, at: int, size: int) -> PositionAhead:
        return PositionAhead(
            f"file {self._settings.path} has {size} bytes, but was read up to byte {at}",
            hint="Restore the file, or reset the flow to read it from its start.",
        )


def _identity(file: LocalFile) -> str:
    """Names a file by its inode and its first line, which stays as it is while the file grows."""
    first_line = file.read(0, IDENTITY_BYTES).partition(b"\n")[0]
    return f"{file.inode}-{blake2b(first_line, digest_size=8).hexdigest()}"


def probe_file(path: str) -> Probe:
    """Looks at a file that should be there."""
    try:
        status = os.stat(path)
    except OSError as error:
        return Probe(False, {}, f"file {path}: {error.strerror}", "Check the path.")
    if not stat.S_ISREG(status.st_mode):
        return Probe(False, {}, f"{path} is not a regular file", "Name a regular file.")
    if not os.access(path, os.R_OK):
        return Probe(False, {}, f"file {path} may not be read by this user", "Change its rights.")
    return Probe(True, {"bytes": str(status.st_size)})
