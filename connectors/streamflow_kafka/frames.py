"""Frames: one record as key, value, headers and partition in one piece of bytes.

Layout: one byte of flags, then what they announce: the partition (four bytes), the key (its length in four bytes, then
itself), the headers (their length in four bytes, then themselves), and the value, which takes the rest. Inside the
headers each name and value has its length in two and four bytes before it. Numbers have the big end first. An empty
frame stands for a record that was given up (dead letter): its number is used, and nothing is published.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple
from uuid import UUID

import msgspec

from streamflow.batch import Headers
from streamflow.codecs import Codec
from streamflow.connect.contracts import SinkOptions
from streamflow.connect.row_frames import RowFrames

HAS_KEY: Final = 1
HAS_PARTITION: Final = 2
HAS_HEADERS: Final = 4
NO_VALUE: Final = 8
PLAIN: Final = b"\0"
TOMBSTONE: Final = b"\x08"
PARTITION_MAX: Final = 2**31 - 1

_KEY_HEAD: Final = struct.Struct(">BI")
_UINT: Final = struct.Struct(">I")
_NAME_SIZE: Final = struct.Struct(">H")
_HEADER_NAME: Final = re.compile(r"[\x21-\x7e]{1,256}")
_dumps = msgspec.json.Encoder().encode

KafkaHeaders = list[tuple[str, bytes | None]]


class Frame(NamedTuple):
    """What is published for one record, before its number is known to the broker."""

    key: bytes | None
    value: bytes | None
    partition: int | None = None
    headers: KafkaHeaders = []  # noqa: RUF012 - never changed; aiokafka wants a list


def unpack(frame: bytes) -> Frame:
    """Splits a frame of a record that was not given up.

    Raises:
        ValueError: It is cut off, or empty.
    """
    if not frame:
        raise ValueError("a frame of 0 bytes has no flags")
    flags, at = frame[0], 1
    key = partition = None
    headers: KafkaHeaders = []
    try:
        if flags & HAS_PARTITION:
            (partition,), at = _UINT.unpack_from(frame, at), at + 4
        if flags & HAS_KEY:
            key, at = _sized(frame, at)
        if flags & HAS_HEADERS:
            packed, at = _sized(frame, at)
            headers = _unpack_headers(packed)
    except struct.error as error:
        raise ValueError(f"a frame of {len(frame)} bytes is cut off") from error
    return Frame(key, None if flags & NO_VALUE else frame[at:], partition, headers)


def pack(frame: Frame) -> bytes:
    """Joins what `unpack` splits."""
    flags, parts = 0, [b""]
    if frame.partition is not None:
        flags |= HAS_PARTITION
        parts.append(_UINT.pack(frame.partition))
    if frame.key is not None:
        flags |= HAS_KEY
        parts += [_UINT.pack(len(frame.key)), frame.key]
    if frame.headers:
        flags |= HAS_HEADERS
        packed = b"".join(
            b"%b%b%b%b" % (_NAME_SIZE.pack(len(encoded)), encoded, _UINT.pack(len(value)), value)
            for encoded, value in ((name.encode(), value or b"") for name, value in frame.headers)
        )
        parts += [_UINT.pack(len(packed)), packed]
    if frame.value is None:
        flags |= NO_VALUE
    else:
        parts.append(frame.value)
    parts[0] = bytes((flags,))
    return b"".join(parts)


def key_bytes(key: Any) -> bytes:
    """A key as other producers write it: text in UTF-8, bytes as they are, integers and UUIDs as text, all else JSON.

    Java's ``LongSerializer`` writes eight bytes instead: pass bytes where such a consumer reads.
    """
    if type(key) is str:
        return key.encode()
    if isinstance(key, bytes):
        return key
    if isinstance(key, str):
        return str(getattr(key, "value", key)).encode()
    if isinstance(key, UUID):
        return str(key).encode()
    return _dumps(key)


class FrameEncoder(RowFrames):
    """Frames with a key, a partition and headers.

    Args:
        codec: Encodes values.
        options: Key, headers and partition, as `to` was given them.
        nulls: Whether None is a record without a value.
        sink: Name for errors.
    """

    record = "record"
    room = "Raise max.message.bytes of the topic and Options.message_bytes_max, or emit smaller values."

    def __init__(self, codec: Codec[Any], options: SinkOptions, sink: str, *, nulls: bool = False) -> None:
        super().__init__(codec, options, sink)
        self.partitions = 0
        """How many there are, known once the sink is open; 0 before."""
        self.write = value_packer(codec, nulls=nulls)

    def plain(self) -> Callable[[Any], bytes] | None:
        return self.write if self.options.partition is None else None

    def frame(self, value: Any, key: Any, headers: Headers | None) -> bytes:
        options = self.options
        packed = self.write(value)
        encoded = None if key is None else key_bytes(key)
        if options.partition is None and not headers and packed[0] == 0:
            if encoded is None:
                return packed
            return b"%b%b%b" % (_KEY_HEAD.pack(HAS_KEY, len(encoded)), encoded, packed[1:])
        partition = None if options.partition is None else self._partition(options.partition(value))
        found = self._headers(headers) if headers else []
        return pack(Frame(encoded, packed[1:] if packed[0] == 0 else None, partition, found))

    def _partition(self, partition: Any) -> int:
        if type(partition) is not int or not 0 <= partition <= PARTITION_MAX:
            raise self.refused(f"{partition!r} is no partition", "Let partition= return a number from 0 up.")
        if self.partitions and partition >= self.partitions:
            raise self.refused(
                f"there is no partition {partition}: the topic has {self.partitions}",
                "Add partitions to the topic, or let partition= return a smaller number.",
            )
        return partition

    def _headers(self, headers: Mapping[str, str]) -> KafkaHeaders:
        found: KafkaHeaders = []
        for name, value in headers.items():
            if not isinstance(name, str) or not _HEADER_NAME.fullmatch(name):
                raise self.refused(f"{name!r} is no header name", "Use up to 256 printable characters, no blanks.")
            if name.lower().startswith("sf-"):
                raise self.refused(f"header {name} belongs to the connector", "Use another name.")
            if not isinstance(value, str):
                raise self.refused(f"header {name} is no text", "Encode the value, as JSON for example.")
            found.append((name, value.encode()))
        return found


def value_packer(codec: Codec[Any], *, nulls: bool) -> Callable[[Any], bytes]:
    """Returns the function that makes the frame of a value that has nothing beside it."""
    encode = codec.encode
    if not nulls:
        return lambda value: PLAIN + encode(value)
    return lambda value: TOMBSTONE if value is None else PLAIN + encode(value)


def _sized(frame: bytes, at: int) -> tuple[bytes, int]:
    """Bytes with their length before them, and where they end."""
    start = at + 4
    end = start + int(_UINT.unpack_from(frame, at)[0])
    if end > len(frame):
        raise ValueError(f"a frame of {len(frame)} bytes says that a part of it ends at byte {end}")
    return frame[start:end], end


def _unpack_headers(packed: bytes) -> KafkaHeaders:
    headers: KafkaHeaders = []
    at = 0
    while at < len(packed):
        end = at + 2 + int(_NAME_SIZE.unpack_from(packed, at)[0])
        name = packed[at + 2 : end].decode()
        value, at = _sized(packed, end)
        headers.append((name, value))
    return headers
