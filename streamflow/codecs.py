"""Codecs: how a value becomes bytes and comes back, typed, with a round trip that is checked.

JSON rides on msgspec, which knows dataclasses, Structs, TypedDicts and plain containers; str and bytes go as they
are. Nothing here ever unpickles.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, Generic, Protocol, TypeVar, cast, runtime_checkable

import msgspec

from streamflow.errors import DefinitionError

T = TypeVar("T")


@runtime_checkable
class Codec(Protocol[T]):
    """Turns values into bytes and back. Both directions raise ValueError (or a subclass) for what they refuse."""

    @property
    def name(self) -> str: ...

    def encode(self, value: T, /) -> bytes: ...

    def decode(self, data: bytes, /) -> T: ...


class StrCodec:
    """UTF-8 text."""

    name = "str"

    def encode(self, value: str, /) -> bytes:
        if not isinstance(value, str):
            raise ValueError(f"expected str, got {type(value).__name__}")
        return value.encode()

    def decode(self, data: bytes, /) -> str:
        return data.decode()


class BytesCodec:
    """Bytes as they are."""

    name = "bytes"

    def encode(self, value: bytes, /) -> bytes:
        if not isinstance(value, bytes | bytearray | memoryview):
            raise ValueError(f"expected bytes, got {type(value).__name__}")
        return bytes(value)

    def decode(self, data: bytes, /) -> bytes:
        return bytes(data)


class JsonCodec(Generic[T]):
    """Typed JSON: `decode` validates against the type given, `encode` writes any value of it.

    ``encode`` and ``decode`` are msgspec's own methods, bound as attributes: no Python frame per record.
    """

    def __init__(self, kind: Any) -> None:
        self.name = "json"
        self.kind = kind
        try:
            decoder = msgspec.json.Decoder(kind)
        except TypeError as error:
            raise DefinitionError(
                f"{type_name(kind)} cannot be read from JSON: {error}",
                hint="Use a dataclass, msgspec Struct, TypedDict, dict, list, tuple, str, int or bytes, "
                "or pass a codec of your own.",
            ) from None
        self.decode = cast("typing.Callable[[bytes], T]", decoder.decode)
        self.encode = cast("typing.Callable[[T], bytes]", msgspec.json.Encoder().encode)


def codec_for(kind: type[T] | Codec[T]) -> Codec[T]:
    """Returns the codec for a type: str and bytes as they are, all else as typed JSON; a codec passes through."""
    if kind is str:
        return cast("Codec[T]", StrCodec())
    if kind is bytes:
        return cast("Codec[T]", BytesCodec())
    if not isinstance(kind, type) and isinstance(kind, Codec):
        return kind
    return cast("Codec[T]", JsonCodec[T](kind))


def type_name(kind: Any) -> str:
    """A type's name for people."""
    return kind.__qualname__ if isinstance(kind, type) else str(kind).replace("typing.", "")


def fingerprint(kind: Any) -> str:
    """Describes a type by its structure, so that a changed field or field type is noticed.

    Dataclasses, Structs and TypedDicts are spelled out with their fields, nested ones once; all else by name.
    """
    return _describe(kind, ())


def _describe(kind: Any, outer: tuple[Any, ...]) -> str:
    origin = typing.get_origin(kind)
    if origin is not None:
        inner = ", ".join(_describe(part, outer) for part in typing.get_args(kind))
        # X | Y and Union[X, Y] are one type, and one class only since Python 3.14
        name = "Union" if origin in (typing.Union, types.UnionType) else type_name(origin)
        return f"{name}[{inner}]"
    fields = _fields(kind)
    if fields is None or kind in outer:
        return type_name(kind)
    inner = ", ".join(f"{name}: {_describe(part, (*outer, kind))}" for name, part in fields.items())
    return f"{kind.__name__}({inner})"


def _fields(kind: Any) -> Mapping[str, Any] | None:
    if not isinstance(kind, type):
        return None
    if issubclass(kind, msgspec.Struct) or dataclasses.is_dataclass(kind) or typing.is_typeddict(kind):
        try:
            return typing.get_type_hints(kind)
        except NameError:
            return dict(getattr(kind, "__annotations__", {}))
    return None


def immutable(kind: Any) -> bool:
    """Whether every value of exactly this type is deeply immutable, decided from the type alone.

    A frozen dataclass or Struct counts when each of its fields' types does; a bare tuple does not, since what it
    holds is not known.
    """
    return _immutable(kind, ())


_SCALARS = (str, int, float, bool, bytes, complex, type(None))


def _immutable(kind: Any, outer: tuple[Any, ...]) -> bool:
    import datetime
    import decimal
    import enum
    import uuid

    if kind in outer:
        return True
    if kind in _SCALARS or kind in (uuid.UUID, decimal.Decimal, datetime.date, datetime.datetime, datetime.time):
        return True
    if kind is datetime.timedelta or (isinstance(kind, type) and issubclass(kind, enum.Enum)):
        return True
    origin = typing.get_origin(kind)
    if origin in (tuple, frozenset, typing.Union, types.UnionType):
        return all(part is Ellipsis or _immutable(part, outer) for part in typing.get_args(kind))
    frozen = isinstance(kind, type) and (
        (dataclasses.is_dataclass(kind) and kind.__dataclass_params__.frozen)  # type: ignore[attr-defined]
        or (issubclass(kind, msgspec.Struct) and kind.__struct_config__.frozen)
    )
    fields = _fields(kind) if frozen else None
    return fields is not None and all(_immutable(part, (*outer, kind)) for part in fields.values())
