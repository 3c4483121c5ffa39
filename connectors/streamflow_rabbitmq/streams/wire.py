"""The wire format of the stream protocol: frames to send as bytes, frames received as fields.

Every frame is four bytes of size, two bytes of command, two of version, then its fields, big end first; strings carry
two bytes of size, byte strings and lists four. Bit 15 of the command marks a response. The protocol is described in
RabbitMQ's repository, deps/rabbitmq_stream/docs/PROTOCOL.adoc.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Final, NamedTuple

from streamflow.errors import Unavailable

HEADER: Final = struct.Struct(">IHH")
RESPONSE: Final = 0x8000
NO_LEADER: Final = 0xFFFF
_STRING: Final = struct.Struct(">H")
_PUBLISH: Final = struct.Struct(">IHHBI")
_MESSAGE: Final = struct.Struct(">QI")
_CREDIT: Final = struct.Struct(">IHHBH")
MESSAGE_HEADER_BYTES: Final = _MESSAGE.size
PUBLISH_HEADER_BYTES: Final = _PUBLISH.size


class Command(IntEnum):
    """The commands that this client sends or understands."""

    DECLARE_PUBLISHER = 1
    PUBLISH = 2
    PUBLISH_CONFIRM = 3
    PUBLISH_ERROR = 4
    QUERY_PUBLISHER_SEQUENCE = 5
    DELETE_PUBLISHER = 6
    SUBSCRIBE = 7
    DELIVER = 8
    CREDIT = 9
    UNSUBSCRIBE = 12
    CREATE = 13
    DELETE = 14
    METADATA = 15
    METADATA_UPDATE = 16
    PEER_PROPERTIES = 17
    SASL_HANDSHAKE = 18
    SASL_AUTHENTICATE = 19
    TUNE = 20
    OPEN = 21
    CLOSE = 22
    HEARTBEAT = 23
    ROUTE = 24
    PARTITIONS = 25


class Code(IntEnum):
    """The response codes that mean something to this client."""

    OK = 1
    STREAM_DOES_NOT_EXIST = 2
    STREAM_ALREADY_EXISTS = 5
    STREAM_NOT_AVAILABLE = 6
    SASL_MECHANISM_NOT_SUPPORTED = 7
    AUTHENTICATION_FAILURE = 8
    SASL_ERROR = 9
    AUTHENTICATION_FAILURE_LOOPBACK = 11
    VIRTUAL_HOST_ACCESS_FAILURE = 12
    FRAME_TOO_LARGE = 14
    INTERNAL_ERROR = 15
    ACCESS_REFUSED = 16
    PRECONDITION_FAILED = 17
    PUBLISHER_DOES_NOT_EXIST = 18


class Start(IntEnum):
    """Where a subscription starts."""

    FIRST = 1
    LAST = 2
    NEXT = 3
    OFFSET = 4


class Broker(NamedTuple):
    """A node as it wants to be reached."""

    host: str
    port: int


class StreamMetadata(NamedTuple):
    """Where a stream lives."""

    code: int
    leader: Broker | None
    replicas: tuple[Broker, ...]


class Fields:
    """Reads the fields of a frame one after the other.

    Raises:
        Unavailable: From every method, when the frame ends too early or holds no text where text should be.
    """

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes, at: int = 0) -> None:
        self._data, self._at = data, at

    def integer(self, size: int) -> int:
        return int.from_bytes(self._take(size))

    def string(self) -> str:
        size = self.integer(2)
        try:
            return "" if size == 0xFFFF else self._take(size).decode()
        except UnicodeDecodeError:
            raise self._malformed("holds no text where text should be") from None

    def strings(self) -> list[str]:
        return [self.string() for _ in range(self.integer(4))]

    def mapping(self) -> dict[str, str]:
        return {self.string(): self.string() for _ in range(self.integer(4))}

    def _take(self, size: int) -> bytes:
        found = self._data[self._at : self._at + size]
        if len(found) < size:
            raise self._malformed("ends inside a field")
        self._at += size
        return found

    def _malformed(self, what: str) -> Unavailable:
        return Unavailable(
            f"RabbitMQ sent a frame of {len(self._data)} bytes that {what}",
            hint="The connection is made again by itself; see the server's log if this repeats.",
        )


def string(text: str) -> bytes:
    """A string field.

    Raises:
        ValueError: It is too long for the protocol.
    """
    encoded = text.encode()
    if len(encoded) > 0x7FFF:
        raise ValueError(f"a text of {len(encoded)} bytes is too long for the stream protocol")
    return _STRING.pack(len(encoded)) + encoded


def byte_string(data: bytes) -> bytes:
    """A field of bytes."""
    return len(data).to_bytes(4) + data


def strings(texts: Sequence[str]) -> bytes:
    """A list of strings."""
    return len(texts).to_bytes(4) + b"".join(map(string, texts))


def mapping(entries: Mapping[str, str]) -> bytes:
    """A map from string to string."""
    return len(entries).to_bytes(4) + b"".join(string(key) + string(value) for key, value in entries.items())


def frame(command: int, body: bytes) -> bytes:
    """A whole frame, version 1."""
    return HEADER.pack(4 + len(body), command, 1) + body


def credit(subscription: int, chunks: int) -> bytes:
    """Lets the broker send more chunks."""
    return _CREDIT.pack(_CREDIT.size - 4, Command.CREDIT, 1, subscription, chunks)


def offset_specification(start: Start, offset: int = 0) -> bytes:
    """Where a subscription starts, as its fields."""
    return start.to_bytes(2) + (offset.to_bytes(8) if start is Start.OFFSET else b"")


def publish(publisher: int, ids: Sequence[int], messages: Sequence[bytes]) -> bytes:
    """Publishes messages, each under its id; ids rise."""
    sizes = list(map(len, messages))
    parts: list[bytes] = [b""] * (2 * len(sizes) + 1)
    size = PUBLISH_HEADER_BYTES - 4 + MESSAGE_HEADER_BYTES * len(sizes) + sum(sizes)
    parts[0] = _PUBLISH.pack(size, Command.PUBLISH, 1, publisher, len(sizes))
    parts[1::2] = map(_MESSAGE.pack, ids, sizes)
    parts[2::2] = messages
    return b"".join(parts)


def parse_metadata(fields: Fields) -> dict[str, StreamMetadata]:
    """Reads the answer to a metadata request, behind its correlation id.

    Raises:
        Unavailable: It is malformed.
    """
    brokers = {}
    for _ in range(fields.integer(4)):
        reference = fields.integer(2)
        brokers[reference] = Broker(fields.string(), fields.integer(4))
    found = {}
    for _ in range(fields.integer(4)):
        name, code, leader = fields.string(), fields.integer(2), fields.integer(2)
        replicas = [fields.integer(2) for _ in range(fields.integer(4))]
        found[name] = StreamMetadata(
            code,
            None if leader == NO_LEADER else brokers.get(leader),
            tuple(brokers[reference] for reference in replicas if reference in brokers),
        )
    return found
