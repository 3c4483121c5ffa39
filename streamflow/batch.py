"""The values that flow and that are stored: micro-batches, fragments, positions, chunks, progress.

Everything here is frozen data without behaviour of its own; `state` and `connect`, which may not import each
other, share it.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from io import BytesIO
from typing import Any, Final, NamedTuple

Partition = str
"""Name of one ordered part of a source; the empty string where a source has only one."""

Headers = Mapping[str, str]
Origin = tuple[int, ...]
"""Path of a row inside its number: ``(index,)``, then one integer per expansion or split passed."""

END: Final = 1 << 62
"""Sorts behind every integer in an origin."""

TIME_MIN: Final = -(1 << 62)
"""Before every event time, in microseconds: of what has none yet."""

TIME_MAX: Final = 1 << 62
"""Behind every event time, in microseconds."""

FRAGMENT_ROWS_MAX: Final = 2048
"""Most rows in one fragment, and most records in one micro-batch."""


@dataclass(frozen=True, slots=True)
class SourceBatch:
    """Records of one partition, in order, as a source read them.

    Args:
        partition: Where they come from.
        payloads: One item per record: bytes, or values where the source has no codec.
        positions: ``positions[i]`` is where to resume once record i is taken. Exactly one of ``positions`` and
            ``ids`` is given.
        ids: Message identities, for sources that forget a record once it is acknowledged.
        identity: What makes this stream or file the same one after a restart (creation time, inode ...).
        headers: One mapping or None per record.
        keys: One key or None per record, as the broker holds it.
        timestamps_ms: The broker's time per record, in milliseconds since the epoch.
        resume: Where to resume once all records are taken, if that is beyond the last record's position: behind what
            the broker holds there besides records. Such a batch may have no records at all.
        last: Whether nothing will ever come behind them in this partition: a bounded source says so of a partition
            that ends before others. Such a batch may have no records either.
    """

    partition: Partition
    payloads: Sequence[Any]
    positions: Sequence[int] | None = None
    ids: Sequence[str] | None = None
    identity: str = ""
    headers: Sequence[Headers | None] | None = None
    keys: Sequence[bytes | None] | None = None
    timestamps_ms: Sequence[int] | None = None
    resume: int | None = None
    last: bool = False

    def __len__(self) -> int:
        return len(self.payloads)

    @property
    def end(self) -> int:
        """Where to resume once all records are taken; only for batches with positions."""
        assert self.positions is not None, "a batch with ids has no positions"
        return self.positions[-1] if self.resume is None else self.resume

    def cut(self, start: int, stop: int) -> SourceBatch:
        """Returns the records ``start:stop`` as a batch of their own."""

        def part(items: Sequence[Any] | None) -> Sequence[Any] | None:
            return None if items is None else items[start:stop]

        return SourceBatch(
            self.partition,
            self.payloads[start:stop],
            part(self.positions),
            part(self.ids),
            self.identity,
            part(self.headers),
            part(self.keys),
            part(self.timestamps_ms),
            self.resume if stop >= len(self) else None,
        )


class EventClock(NamedTuple):
    """How far event time is, in microseconds since 1970: of a source's partition, or of a group of sources.

    Args:
        at_us: A partition's latest event time; a group's watermark.
        idle: Whether a partition counts no more, since it has been silent.
        closed_us: A group's latest event time when all of it was idle or ended: everything up to there is over.
    """

    at_us: int
    idle: bool = False
    closed_us: int = TIME_MIN


class ClockOf(NamedTuple):
    """Whose event time it is: a partition's, or that of a group of sources, whose names are joined by ``+``."""

    source: str
    partition: str


GROUP: Final = "@watermark"
"""Stands for the partition in what a group of sources is called."""


class Ahead(NamedTuple):
    """Records of a partition that were taken before others in front of them, as ``order="time"`` does.

    Args:
        first: Position of the first of them.
        last: Position of the last of them; all between the two are meant.
    """

    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Position:
    """Where a partition resumes.

    Args:
        at: The first position that was not taken yet.
        identity: The source's identity when it was read.
        above: What lies behind that and was taken all the same, in order: a reader that resumes leaves it out.
    """

    at: int
    identity: str = ""
    above: tuple[Ahead, ...] = ()


@dataclass(frozen=True, slots=True)
class Taken:
    """What was taken from one source: a position per partition, or the ids of the messages of this epoch."""

    positions: Mapping[Partition, Position] = field(default_factory=dict)
    ids: Sequence[str] = ()


class SourceInput(NamedTuple):
    """The records that one source partition contributes to a micro-batch, and the row they start at."""

    source: str
    first_row: int
    records: SourceBatch


class Watermark(NamedTuple):
    """What a number says at its end of a group of sources: no more event times up to ``at_us`` are waited for.

    Args:
        at_us: In microseconds since 1970.
        closed_us: All the sources had fallen silent at this event time, so whatever holds such records is complete.
        ended: All the sources have ended for good.
    """

    at_us: int = TIME_MIN
    closed_us: int = TIME_MIN
    ended: bool = False


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """One number of the log: everything that is not per record.

    Every fragment of the number refers to it, so raw bytes live exactly as long as the number is in flight.

    Args:
        number: Consecutive, from 1.
        now_ms: Processing time of this number; never goes back.
        inputs: The records, in row order.
        barrier: The epoch that is complete after this number, or None.
        fires: Whether timers may fire: not before the backlog found at start has been read.
        watermarks: Per group of sources (`streamflow.plan.event_time`), as of the number's end.
        traced: Whether a record has trace context in its headers, which travels on to what is made of it.
        places: Per row the index of its input and its offset in it, where rows of several inputs alternate; None
            where they follow one input after the other.
    """

    number: int
    now_ms: int
    inputs: tuple[SourceInput, ...] = ()
    barrier: int | None = None
    fires: bool = True
    watermarks: tuple[Watermark, ...] = ()
    traced: bool = False
    places: Sequence[tuple[int, int]] | None = None

    def locate(self, row: int) -> tuple[SourceInput, int] | None:
        """Finds the input and the offset in it that row ``row`` came from; None for rows that no record caused."""
        if self.places is not None:
            if not 0 <= row < len(self.places):
                return None
            which, at = self.places[row]
            return self.inputs[which], at
        for part in self.inputs:
            if part.first_row <= row < part.first_row + len(part.records):
                return part, row - part.first_row
        return None

    def headers(self, origin: Origin) -> Headers | None:
        """The headers of the record that led to a row; None if it had none, or no record led to it."""
        found = self.locate(origin[0]) if origin else None
        if found is None or found[0].records.headers is None:
            return None
        return found[0].records.headers[found[1]]


class Fragment(NamedTuple):
    """The rows of one number on one edge, or the next part of them; ``last`` marks the final one.

    ``keys``, ``ports`` and ``origins`` are parallel to ``values`` where the edge carries them; so are ``times``, event
    times in microseconds, and ``marks``, the watermark of a record's own partition just before it. ``upto`` promises
    that nothing at or before that origin will still come on this edge; None on the last fragment. What reaches a
    sink has ``origins`` only in a number that is traced.
    """

    batch: MicroBatch
    values: list[Any]
    last: bool
    keys: list[Any] | None = None
    ports: list[int] | None = None
    origins: list[Origin] | None = None
    upto: Origin | None = None
    times: list[Any] | None = None
    marks: list[Any] | None = None


@dataclass(frozen=True, slots=True)
class Chunk:
    """Frames of one sink with consecutive sequence numbers.

    Args:
        sink: Name of the sink.
        epoch: The epoch it belongs to.
        index: Its place among the sink's chunks of that epoch, from 0.
        first_seq: Sequence number of its first frame; a sink's numbers start at 1 and have no gap.
        count: Number of frames.
        payload: The frames, packed by `pack_frames` or `pack_lines`; empty while it is at rest, in the store alone.
        rest_bytes: Size of the payload that a chunk at rest has in the store.
    """

    sink: str
    epoch: int
    index: int
    first_seq: int
    count: int
    payload: bytes
    rest_bytes: int = 0

    @property
    def size_bytes(self) -> int:
        """Size of the payload, wherever it is."""
        return len(self.payload) or self.rest_bytes

    @property
    def frames_bytes(self) -> int:
        """Size of the frames alone, without the table in front of them; not for sinks whose frames are lines."""
        assert self.payload[3:4] < b"\x80", f"{self.sink}: lines have no table"
        return self.size_bytes - 4 - 4 * self.count

    @property
    def end_seq(self) -> int:
        """The sequence number behind its last frame."""
        return self.first_seq + self.count

    def at_rest(self) -> Chunk:
        """The chunk without its payload."""
        return replace(self, payload=b"", rest_bytes=self.size_bytes)


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that a policy put aside: as it came, where from, and why.

    Args:
        kind: What refused it: ``step``, ``source`` or ``sink``.
        name: Which of them.
        error: What it said, with the place.
        traceback: The users' part of the traceback.
        source: The source of the record; empty for a timer.
        partition: Its partition.
        position: Where the source resumes behind it; None for sources with ids.
        id: Its message id, for those.
        key: The broker's key.
        headers: The broker's headers.
        payload: The record's bytes; its JSON where the source has no codec.
        timestamp_ms: The broker's time, in milliseconds since the epoch.
    """

    kind: str
    name: str
    error: str
    traceback: str = ""
    source: str = ""
    partition: Partition = ""
    position: int | None = None
    id: str = ""
    key: bytes | None = None
    headers: Headers | None = None
    payload: bytes = b""
    timestamp_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a sink's broker is known to be.

    Args:
        epoch: The last epoch known to be published whole.
        next_seq: The first sequence number not known to be published.
        cursor: The broker's own mark (a stream sequence, a file length ...), opaque to the engine.
    """

    epoch: int
    next_seq: int
    cursor: bytes = b""


LINES: Final = 1 << 31
"""Added to the count of frames that are lines: then each ends at its newline, and no table says how long it is."""


def pack_frames(frames: Sequence[bytes]) -> bytes:
    """Joins frames behind a table: their count, then the length of each, in four bytes with the little end first."""
    return pack_parts(len(frames), [size_table(frames)], frames)


def pack_parts(count: int, tables: Iterable[bytes], parts: Iterable[bytes]) -> bytes:
    """`pack_frames` for frames that are joined in part already: their `size_table`, and what gives them all."""
    return b"".join((count.to_bytes(4, "little"), *tables, *parts))


def pack_lines(count: int, parts: Iterable[bytes]) -> bytes:
    """Joins frames that have no newline in them, each followed by one: a count is all that stands in front."""
    return b"".join(((count | LINES).to_bytes(4, "little"), *parts))


def size_table(frames: Iterable[bytes]) -> bytes:
    """The lengths of frames, as they stand in front of what `pack_frames` joins."""
    table = array("I", map(len, frames))
    if sys.byteorder == "big":
        table.byteswap()
    return table.tobytes()


def split_table(payload: bytes) -> tuple[memoryview, memoryview]:
    """Splits what `pack_frames` or `pack_lines` joined into the lengths and the frames; lines have no lengths.

    Either, joined over payloads, is the same however the frames were spread over them.

    Raises:
        ValueError: The table is cut off.
    """
    count = int.from_bytes(payload[:4], "little")
    end = 4 if count & LINES else 4 + 4 * count
    if end > len(payload):
        raise ValueError(f"table of frame lengths ends at byte {end}, behind the payload's {len(payload)} bytes")
    view = memoryview(payload)
    return view[4:end], view[end:]


def unpack_frames(payload: bytes) -> list[bytes]:
    """Splits what `pack_frames` or `pack_lines` joined into frames.

    Raises:
        ValueError: The payload is cut off or has bytes too many.
    """
    table, joined = split_table(payload)
    if payload[3:4] >= b"\x80":
        return _unpack_lines(payload)
    sizes = struct.unpack(f"<{len(table) // 4}I", table)
    if sum(sizes) != len(joined):
        raise ValueError(f"frames of {sum(sizes)} bytes in a payload that has {len(joined)} bytes for them")
    # Reading from a buffer takes half the time of slicing.
    buffer = BytesIO(payload)
    buffer.seek(4 + len(table))
    return list(map(buffer.read, sizes))


def _unpack_lines(payload: bytes) -> list[bytes]:
    count = int.from_bytes(payload[:4], "little") - LINES
    *lines, rest = payload[4:].split(b"\n")
    if len(lines) != count or rest:
        raise ValueError(f"{len(lines)} lines and {len(rest)} bytes in a payload of {count} lines")
    return lines
