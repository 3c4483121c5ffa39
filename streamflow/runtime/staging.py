"""Staging: encodes rows as they arrive, and cuts what becomes of them into numbered chunks, up to the barrier."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Final

from streamflow.batch import Chunk, Fragment, pack_lines, pack_parts, size_table, split_table
from streamflow.connect.contracts import EncodeLines, Sink
from streamflow.errors import EncodeError, FoundLate
from streamflow.graph import OnError, Step
from streamflow.operators.bind import refused_by_sink
from streamflow.operators.letters import letter_of, place_of, spot_of
from streamflow.plan import Exit
from streamflow.runtime.world import World

TABLES_BYTES_MAX: Final = 1024 * 1024
"""Sizes of frames that wait for their digest."""


class OutputDigest:
    """Digest of what one sink got in one epoch, however it was cut into chunks."""

    def __init__(self) -> None:
        self._sizes: Any = blake2b(digest_size=16)
        self._frames: Any = blake2b(digest_size=16)
        self._tables = bytearray()

    def add(self, chunk: Chunk) -> None:
        """Takes the next chunk."""
        table, joined = split_table(chunk.payload)
        self._tables += table
        # each update gives the interpreter away, and waits for it beside a busy loop: so there are few
        if len(self._tables) > TABLES_BYTES_MAX:
            self._take_tables()
        self._frames.update(joined)

    def parts(self) -> tuple[bytes, bytes]:
        """What stands for everything that was added."""
        self._take_tables()
        return self._sizes.digest(), self._frames.digest()

    def _take_tables(self) -> None:
        self._sizes.update(self._tables)
        self._tables = bytearray()


@dataclass(slots=True)
class Staged:
    """A closed epoch of one sink.

    Args:
        sink: The sink.
        ahead: The chunks that were written ahead, at rest.
        chunks: Those behind them, to be committed.
        digest: Digest of those written ahead.
    """

    sink: str
    ahead: list[Chunk] = field(default_factory=list)
    chunks: list[Chunk] = field(default_factory=list)
    digest: OutputDigest = field(default_factory=OutputDigest)

    @property
    def size_bytes(self) -> int:
        return sum(chunk.size_bytes for chunk in (*self.ahead, *self.chunks))


class Staging:
    """The end of a path: encodes rows at once and cuts numbered chunks, up to the barrier.

    GUARANTEE: a sink's sequence numbers have no gap; the bytes behind a number never change.
    BOUND: ``epoch_bytes_max`` and a chunk in memory; what passes it is spilled to the store.

    Args:
        step: The sink's step.
        encoder: The sink that encodes; replaced when the sink is opened again.
        next_seq: Number of the next frame.
        epoch: The epoch in the making.
        exit: How rows come: as frames already, made in the step's loop, or as what many lines are made of at once.
    """

    def __init__(
        self,
        step: Step,
        encoder: Sink,
        next_seq: int,
        epoch: int,
        *,
        world: World,
        exit: Exit,
    ) -> None:
        self.step = step
        self.encoder = encoder
        self._world = world
        self._encoded = exit.encodes
        self._encode_lines: EncodeLines | None = step.options["line_encoder"] if exit.lines else None
        self._seq = next_seq
        self._epoch = epoch
        self._count = 0
        self._tables: list[bytes] = []
        self._joined: list[bytes] = []
        self._joined_bytes = 0
        self._staged = Staged(step.name)
        self._chunks_bytes = self._ahead_bytes = 0
        self._sealed: dict[int, Staged] = {}

    @property
    def size_bytes(self) -> int:
        """Bytes staged for the epoch in the making, spilled ones included."""
        return self._joined_bytes + self._chunks_bytes + self._ahead_bytes

    async def put(self, part: Fragment) -> None:
        """Takes a fragment; closes the epoch's chunks at a barrier."""
        if part.values:
            self._add(part)
            if self._joined_bytes >= self._world.settings.chunk_bytes:
                self._cut()
            if self._chunks_bytes > self._world.settings.epoch_bytes_max:
                await self._spill()
        if part.last and part.batch.barrier is not None:
            self._close(part.batch.barrier)

    def take(self, epoch: int) -> Staged:
        """The closed epoch."""
        return self._sealed.pop(epoch)

    async def _spill(self) -> None:
        """Writes the epoch's chunks ahead and keeps only what they are."""
        staged = self._staged
        chunks, staged.chunks = staged.chunks, []
        await self._world.spill(chunks)
        for chunk in chunks:
            staged.digest.add(chunk)
            staged.ahead.append(chunk.at_rest())
            # hashing a chunk takes long enough to ask whether others want to run
            await asyncio.sleep(0)
        self._ahead_bytes += self._chunks_bytes
        self._chunks_bytes = 0

    def _add(self, part: Fragment) -> None:
        # a number that is traced comes with values, for its frames hold headers
        if part.origins is not None:
            self._add_frames(self._encode(part))
        elif self._encoded:
            self._add_frames(part.values)
        elif self._encode_lines is not None:
            self._add_as_lines(part, self._encode_lines)
        else:
            self._add_frames(self._encode(part))

    def _add_as_lines(self, part: Fragment, encode: EncodeLines) -> None:
        count = len(part.values)
        try:
            lines = encode(part.values)
        except Exception as error:
            raise self._found_late(part, error) from error
        if lines.count(b"\n") == count:
            self._add_lines(count, lines)
            return
        # frames with a newline of their own are packed otherwise, each by itself, however rows came in fragments
        for frame in self._encode(part):
            if b"\n" in frame:
                self._add_frames([frame])
            else:
                self._add_lines(1, frame + b"\n")

    def _add_lines(self, count: int, lines: bytes) -> None:
        if self._tables:
            self._cut()
        self._count += count
        self._joined.append(lines)
        self._joined_bytes += len(lines)

    def _add_frames(self, frames: Sequence[bytes]) -> None:
        if self._joined and not self._tables:
            self._cut()
        # joined while they are at hand: thousands of small objects kept until the chunk is cut cost more
        joined = b"".join(frames)
        self._count += len(frames)
        self._tables.append(size_table(frames))
        self._joined.append(joined)
        self._joined_bytes += len(joined)

    def _cut(self) -> None:
        if self._count:
            index = len(self._staged.ahead) + len(self._staged.chunks)
            tables, parts = self._tables, self._joined
            payload = pack_parts(self._count, tables, parts) if tables else pack_lines(self._count, parts)
            chunk = Chunk(self.step.name, self._epoch, index, self._seq, self._count, payload)
            self._staged.chunks.append(chunk)
            self._chunks_bytes += len(payload)
            self._seq += chunk.count
            self._count, self._tables, self._joined, self._joined_bytes = 0, [], [], 0

    def _close(self, epoch: int) -> None:
        assert epoch == self._epoch, f"{self.step.name}: barrier {epoch} in epoch {self._epoch}"
        self._cut()
        self._sealed[epoch], self._staged = self._staged, Staged(self.step.name)
        self._world.dead.seal(self.step.id, epoch)
        self._chunks_bytes = self._ahead_bytes = 0
        self._epoch += 1

    def _found_late(self, part: Fragment, error: Exception) -> FoundLate:
        """The error that has a careful life find the record that led to a row which cannot be encoded."""
        told: EncodeError = refused_by_sink(self.step.name, part.values, f"number {part.batch.number}", error)
        try:
            self._encode_singly(part)
        except EncodeError as refused:
            told = refused
        return FoundLate(told.message, step=self.step.name, hint=told.hint)

    def _encode(self, part: Fragment) -> Sequence[bytes]:
        try:
            frames = self.encoder.encode(part)
        except Exception:
            return self._encode_singly(part)
        assert len(frames) == len(part.values), f"{self.step.name}: {len(part.values)} rows, {len(frames)} frames"
        return frames

    def _encode_singly(self, part: Fragment) -> list[bytes]:
        """Finds the row that cannot be encoded."""
        found: list[bytes] = []
        for row, value in enumerate(part.values):
            keys = None if part.keys is None else part.keys[row : row + 1]
            origins = None if part.origins is None else part.origins[row : row + 1]
            one = Fragment(part.batch, [value], False, keys, origins=origins)
            try:
                found += self.encoder.encode(one)
            except Exception as error:
                policy, place = self.step.options["on_error"], place_of(part, row)
                refused = refused_by_sink(self.step.name, value, place, error)
                if policy is OnError.STOP:
                    raise refused from error
                if policy is OnError.DEAD_LETTER:
                    self._world.dead.add(
                        self.step.id, letter_of("sink", self.step.name, place, refused, spot_of(part, row))
                    )
                self._world.skipped(self.step.name, place, refused)
        return found
