"""Static tables as a source: one that reads nothing, since its rows are handed in by the engine at each start."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from streamflow.codecs import JsonCodec
from streamflow.connect.contracts import Guarantee, Level
from streamflow.connect.ended import EndedSource
from streamflow.keys import Key, canonical, parse

_LOADED: Final = Guarantee(
    Level.EXACTLY_ONCE, "what changed since the last start is stored with the epoch that takes it in"
)


class RowCodec:
    """Encodes rows of a static table: its key and its value, None where the key is to go.

    Args:
        kind: Type of the values.
        key_type: Type of the keys, where annotations tell it.
    """

    name = "row"

    def __init__(self, kind: Any, key_type: Any) -> None:
        self.values: JsonCodec[Any] = JsonCodec(kind)
        self._key_type = key_type
        self._split = msgspec.json.Decoder(tuple[msgspec.Raw, msgspec.Raw]).decode

    def encode(self, value: tuple[Key, Any], /) -> bytes:
        key, row = value
        return b"[%b,%b]" % (canonical(key), b"null" if row is None else self.values.encode(row))

    def decode(self, data: bytes, /) -> tuple[Key, Any]:
        key, row = map(bytes, self._split(data))
        return parse(key, self._key_type), None if row == b"null" else self.values.decode(row)


class StaticRows:
    """The source of a static table; made by `Flow.table`.

    Args:
        name: Name of the table.
        codec: Encodes its rows.
        what: Where its content comes from, for people.
    """

    def __init__(self, name: str, codec: RowCodec, what: str) -> None:
        self.name = name
        self.codec = codec
        self._what = what

    @property
    def guarantee(self) -> Guarantee:
        return _LOADED

    def describe(self) -> str:
        return f"static table from {self._what}"

    def source(self) -> EndedSource:
        return EndedSource(_LOADED)
