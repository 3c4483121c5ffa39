"""Chunks: what the broker delivers of a stream, checked and taken apart into messages.

A chunk is a header and entries; an entry is one message behind its size, or a batch of messages, perhaps compressed
("sub-entry batch"). Every message has an offset of its own, counted from the chunk's first. Format: osiris, the log
behind streams, https://github.com/rabbitmq/osiris/blob/main/src/osiris_log.erl.
"""

from __future__ import annotations

import struct
import zlib
from typing import Final, NamedTuple

from streamflow.errors import ConnectorError
from streamflow_rabbitmq.streams.message import DATA_LARGE, DATA_SMALL, read_message

_DELIVER: Final = struct.Struct(">HHBBBHIqQQIIII")
"""Command, version and subscription, then the chunk's header, of which the last four bytes mean nothing."""
USER_CHUNK: Final = 0
_MAGIC_VERSION: Final = 0x50
_BATCH: Final = struct.Struct(">BHII")
_GZIP: Final = 31
UNPACKED_BYTES_MAX: Final = 64 * 1024 * 1024
"""Most bytes that one compressed batch may become."""
COMPRESSIONS: Final = ("none", "gzip", "snappy", "lz4", "zstd")


class Chunk(NamedTuple):
    """A chunk as delivered, not yet taken apart."""

    offset: int
    records: int
    entries: int
    timestamp_ms: int
    crc: int
    data: bytes

    @property
    def end(self) -> int:
        """The offset behind its last record."""
        return self.offset + self.records

    @property
    def mark(self) -> str:
        """What tells this chunk from one that stands at the same offset of another stream."""
        return f"{self.offset}.{self.timestamp_ms}.{self.crc:x}"


class Records(NamedTuple):
    """Messages of one chunk, in order, from the first one asked for on."""

    offset: int
    payloads: list[bytes]
    headers: list[dict[str, str] | None] | None
    keys: list[bytes | None] | None


def read_chunk(frame: bytes) -> Chunk:
    """Takes a chunk out of the frame that delivers it, and checks it.

    Raises:
        ConnectorError: It was damaged on the way, or is of a format that is not known.
    """
    if len(frame) < _DELIVER.size:
        raise ConnectorError(f"a chunk of {len(frame)} bytes is cut off", hint=_SEE_LOG)
    _, _, _, magic, kind, entries, records, timestamp, _, offset, crc, size, _, _ = _DELIVER.unpack_from(frame)
    if magic != _MAGIC_VERSION or kind != USER_CHUNK:
        raise ConnectorError(
            f"chunk {offset} has format {magic:#x} and type {kind}, which are not known",
            hint="Is the server newer than this connector? Look for a newer streamflow.",
        )
    data = frame[_DELIVER.size : _DELIVER.size + size]
    if len(data) != size or zlib.crc32(data) != crc:
        raise ConnectorError(f"chunk {offset} was damaged on the way or on disk: its checksum differs", hint=_SEE_LOG)
    return Chunk(offset, records, entries, timestamp, crc, data)


def take_apart(chunk: Chunk, start: int) -> Records:
    """Returns the messages of a chunk from offset ``start`` on.

    Raises:
        ConnectorError: Its content contradicts its header, or a batch cannot be unpacked.
    """
    raw = _plain(chunk)
    if raw is None:
        raw = _messages(chunk)
    if len(raw) != chunk.records:
        raise _broken(chunk)
    skipped = max(0, start - chunk.offset)
    if skipped:
        raw = raw[skipped:]
    return _decoded(chunk.offset + skipped, raw)


def _plain(chunk: Chunk) -> list[bytes] | None:
    """The messages of a chunk without batches; None if it has one. The loop that all speed depends on."""
    data, at = chunk.data, 0
    raw: list[bytes] = []
    append, number = raw.append, int.from_bytes
    for _ in range(chunk.entries):
        size = number(data[at : at + 4])
        if size & 0x8000_0000:
            return None
        at += 4
        append(data[at : at + size])
        at += size
    if at != len(data):
        raise _broken(chunk)
    return raw


def _messages(chunk: Chunk) -> list[bytes]:
    data, at = chunk.data, 0
    raw: list[bytes] = []
    for _ in range(chunk.entries):
        if at >= len(data):
            raise _broken(chunk)
        if data[at] & 0x80:
            kind, count, unpacked, size = _BATCH.unpack_from(data.ljust(at + _BATCH.size, b"\0"), at)
            at += _BATCH.size
            packed = data[at : at + size]
            raw += _split(chunk, _unpacked(chunk, kind >> 4 & 7, packed, unpacked), count)
        else:
            size = int.from_bytes(data[at : at + 4])
            at += 4
            raw.append(data[at : at + size])
        at += size
    if at != len(data):
        raise _broken(chunk)
    return raw


def _split(chunk: Chunk, data: bytes, count: int) -> list[bytes]:
    """The messages of a batch."""
    at, raw = 0, []
    for _ in range(count):
        size = int.from_bytes(data[at : at + 4])
        at += 4
        raw.append(data[at : at + size])
        at += size
    if at != len(data):
        raise _broken(chunk)
    return raw


def _unpacked(chunk: Chunk, compression: int, packed: bytes, size: int) -> bytes:
    """The content of a batch, never more than it says and never more than is allowed."""
    name = COMPRESSIONS[compression] if compression < len(COMPRESSIONS) else str(compression)
    if size > UNPACKED_BYTES_MAX:
        raise ConnectorError(
            f"a batch in chunk {chunk.offset} says that it unpacks to {size} bytes; {UNPACKED_BYTES_MAX} are taken",
            hint="Publish smaller batches to this stream.",
        )
    try:
        found = _unpack(name, packed, size)
    except (zlib.error, ValueError, OSError) as error:
        raise ConnectorError(
            f"a {name} batch in chunk {chunk.offset} cannot be unpacked: {error}", hint=_SEE_PRODUCER
        ) from None
    if len(found) != size:
        raise ConnectorError(
            f"a {name} batch in chunk {chunk.offset} says that it unpacks to {size} bytes, and does not",
            hint=_SEE_PRODUCER,
        )
    return found


def _unpack(name: str, packed: bytes, size: int) -> bytes:
    if name == "none":
        return packed
    if name == "gzip":
        unpacking = zlib.decompressobj(_GZIP)
        return unpacking.decompress(packed, size + 1)
    if name not in COMPRESSIONS:
        raise ValueError("an unknown compression")
    try:
        import cramjam
    except ImportError:
        raise ConnectorError(
            f"a batch is compressed by {name}, and cramjam, which unpacks it, is not installed",
            hint="pip install cramjam",
        ) from None
    codec = {"snappy": cramjam.snappy, "lz4": cramjam.lz4, "zstd": cramjam.zstd}[name]
    try:
        room = bytearray(size)
        filled = codec.decompress_into(packed, room)
    except cramjam.DecompressionError as error:
        raise ValueError(str(error)) from None
    return bytes(room[:filled])


def _decoded(offset: int, raw: list[bytes]) -> Records:
    """Reads messages; those that are nothing but a payload by a short cut."""
    payloads: list[bytes] = []
    rest: dict[int, tuple[dict[str, str] | None, bytes | None]] = {}
    append, number = payloads.append, int.from_bytes
    for each in raw:
        head = each[:4]
        if head == DATA_SMALL and len(each) == 5 + each[4]:
            append(each[5:])
        elif head == DATA_LARGE and len(each) == 8 + number(each[4:8]):
            append(each[8:])
        else:
            payload, headers, key = read_message(each)
            if headers is not None or key is not None:
                rest[len(payloads)] = (headers, key)
            append(payload)
    if not rest:
        return Records(offset, payloads, None, None)
    nothing = (None, None)
    pairs = [rest.get(index, nothing) for index in range(len(payloads))]
    return Records(offset, payloads, [pair[0] for pair in pairs], [pair[1] for pair in pairs])


def _broken(chunk: Chunk) -> ConnectorError:
    return ConnectorError(f"the entries of chunk {chunk.offset} contradict its header", hint=_SEE_LOG)


_SEE_LOG: Final = "See the server's log; if it happens again, look at its disk."
_SEE_PRODUCER: Final = "Look at the program that published it."
