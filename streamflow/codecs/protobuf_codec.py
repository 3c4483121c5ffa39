"""Protobuf: messages of a generated class."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from streamflow.codecs.contract import Codec
from streamflow.codecs.registry import RegistryCodec, Schema, SchemaRegistry
from streamflow.codecs.shapes import type_name
from streamflow.errors import DefinitionError, MissingExtraError

if TYPE_CHECKING:
    from google.protobuf.message import Message

M = TypeVar("M", bound="Message")


class ProtobufCodec(Generic[M]):
    """Protobuf's binary form, deterministic: equal messages give equal bytes.

    GUARANTEE: only ValueError escapes for data that is damaged or nested more than 100 levels deep. BOUND: what is read
    is in proportion to its bytes.

    Args:
        kind: The message's generated class.
    """

    def __init__(self, kind: type[M]) -> None:
        try:
            from google.protobuf.message import DecodeError, EncodeError, Message
        except ImportError:
            raise MissingExtraError(
                "Protobuf needs its library, which is not installed", hint="pip install streamflow-asyncio[protobuf]"
            ) from None
        if not isinstance(kind, type) or not issubclass(kind, Message):
            raise DefinitionError(
                f"{type_name(kind)} is no protobuf message class",
                hint="Pass a class that protoc has generated: sf.protobuf(orders_pb2.Order).",
            )
        self.name = "protobuf"
        self.kind = kind
        self._refused: tuple[type[Exception], ...] = (DecodeError, EncodeError)

    def encode(self, value: M, /) -> bytes:
        if type(value) is not self.kind:
            raise ValueError(f"expected {type_name(self.kind)}, got {type(value).__name__}")
        try:
            return value.SerializeToString(deterministic=True)
        except self._refused as error:
            raise ValueError(str(error)) from None

    def decode(self, data: bytes, /) -> M:
        try:
            return self.kind.FromString(data)
        except self._refused as error:
            raise ValueError(f"not a protobuf {self.kind.DESCRIPTOR.full_name}: {error}") from None

    # What a schema registry's wire format asks for.

    @property
    def schema(self) -> Schema:
        """The file that defines the message, as a registry takes it.

        Raises:
            DefinitionError: It imports other files than protobuf's own.
        """
        file = self.kind.DESCRIPTOR.file
        foreign = [part.name for part in file.dependencies if not part.name.startswith("google/protobuf/")]
        if foreign:
            raise DefinitionError(
                f"{file.name} imports {foreign[0]}: schemas with references of their own cannot be registered",
                hint="Define the message and what it holds in one file, or register it by hand and set register=False.",
            )
        return Schema("PROTOBUF", base64.b64encode(file.serialized_pb).decode())

    def reader(self, writer: Schema) -> Callable[[bytes], M]:
        """Returns a reader of what stands behind the schema's id.

        Protobuf reads what was written by another version of the message without that version, but it must be the same
        message of the file.
        """
        if writer.kind != "PROTOBUF":
            raise ValueError(f"it is a schema of {writer.kind}, not of PROTOBUF")
        expected = self.prefix()

        def decode(data: bytes) -> M:
            found, size = _read_path(data)
            if found != _path(self.kind.DESCRIPTOR):
                raise ValueError(f"the record holds message {found} of its file, {expected!r} is that of {self.kind}")
            return self.decode(data[size:])

        return decode

    def prefix(self) -> bytes:
        """Which message of the file it is: the path of indices, of which the most common one, [0], is a single zero."""
        path = _path(self.kind.DESCRIPTOR)
        return b"\0" if path == [0] else b"".join(map(_varint, (len(path), *path)))


def _path(descriptor: Any) -> list[int]:
    """Index of a message in its file, behind that of the message that encloses it."""
    outer = descriptor.containing_type
    if outer is None:
        return [list(descriptor.file.message_types_by_name).index(descriptor.name)]
    return [*_path(outer), [inner.name for inner in outer.nested_types].index(descriptor.name)]


_PATH_MAX = 32
"""Levels of messages within messages."""


def _read_path(data: bytes) -> tuple[list[int], int]:
    """Reads a path and the number of its bytes."""
    count, at = _read_varint(data, 0)
    if not 0 <= count <= _PATH_MAX:
        raise ValueError(f"a message index of {count} levels")
    path = []
    for _ in range(count):
        index, at = _read_varint(data, at)
        path.append(index)
    return path or [0], at


def _varint(number: int) -> bytes:
    """A zigzag number of any length."""
    rest, found = number << 1, bytearray()
    while rest > 0x7F:
        found.append(rest & 0x7F | 0x80)
        rest >>= 7
    found.append(rest)
    return bytes(found)


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift, byte in enumerate(data[at : at + 5]):
        value |= (byte & 0x7F) << 7 * shift
        if byte < 0x80:
            return (value >> 1) ^ -(value & 1), at + shift + 1
    raise ValueError("a message index that is cut off")


def protobuf(
    kind: type[M], *, registry: SchemaRegistry | None = None, subject: str | None = None, register: bool = True
) -> Codec[M]:
    """Protobuf of a generated class: ``kafka.topic("orders", value=sf.protobuf(orders_pb2.Order))``.

    Args:
        kind: The class.
        registry: Write and read the wire format of a schema registry: each record names its schema.
        subject: What the schema is called in the registry; default is ``<topic>-value``.
        register: Whether a schema that the registry does not know is registered; else it must be there.

    Raises:
        DefinitionError: It is no message class.
        MissingExtraError: The protobuf library is not installed.
    """
    codec = ProtobufCodec(kind)
    return codec if registry is None else RegistryCodec(codec, registry, subject, register=register)
