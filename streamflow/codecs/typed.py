"""Typed JSON and MessagePack: values are checked against their type when they are read.

Both ride on msgspec, which knows dataclasses, Structs, TypedDicts and plain containers. Pydantic models inside them are
written and read by pydantic. Nothing here ever unpickles.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar, cast

import msgspec

from streamflow.codecs.models import encode_json, read_plain, write_plain
from streamflow.codecs.shapes import type_name
from streamflow.errors import DefinitionError

T = TypeVar("T")


class JsonCodec(Generic[T]):
    """Typed JSON: `decode` validates against the type given, `encode` writes any value of it.

    ``encode`` and ``decode`` are msgspec's own methods, bound as attributes: no Python frame per record.
    """

    def __init__(self, kind: Any) -> None:
        self.name = "json"
        self.kind = kind
        try:
            decoder = msgspec.json.Decoder(kind, dec_hook=read_plain)
        except TypeError as error:
            raise _unfit(kind, "JSON", error) from None
        self.decode = cast("Callable[[bytes], T]", decoder.decode)
        self.encode = cast("Callable[[T], bytes]", encode_json)


class MsgpackCodec(Generic[T]):
    """Typed MessagePack: as `JsonCodec`, smaller and faster, and not for human eyes."""

    def __init__(self, kind: Any) -> None:
        self.name = "msgpack"
        self.kind = kind
        try:
            decoder = msgspec.msgpack.Decoder(kind, dec_hook=read_plain)
        except TypeError as error:
            raise _unfit(kind, "MessagePack", error) from None
        self.decode = cast("Callable[[bytes], T]", decoder.decode)
        self.encode = cast("Callable[[T], bytes]", msgspec.msgpack.Encoder(enc_hook=write_plain).encode)


def msgpack(kind: type[T]) -> MsgpackCodec[T]:
    """MessagePack of a type: ``nats.stream("orders", value=sf.msgpack(Order))``."""
    return MsgpackCodec(kind)


def _unfit(kind: Any, form: str, error: TypeError) -> DefinitionError:
    return DefinitionError(
        f"{type_name(kind)} cannot be read from {form}: {error}",
        hint="Use a dataclass, msgspec Struct, pydantic model, TypedDict, dict, list, tuple, str, int or bytes, "
        "or pass a codec of your own.",
    )
