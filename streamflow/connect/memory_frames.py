"""The frames of a memory topic: one record as bytes, from the sink's `encode` until somebody reads the log.

A mark comes first, and frames that name a partition sort behind all others:

- ``00`` value
- ``01`` size of the key in four bytes, key, value
- ``02`` value, partition, key and headers in MessagePack
- anything above: the value itself, whose first byte this is; so JSON needs no mark
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from streamflow.batch import Chunk, Headers, Partition, split_table
from streamflow.connect.contracts import Frames
from streamflow.keys import Key, canonical

BARE: Final = b"\x00"
KEYED: Final = b"\x01"
DRESSED: Final = b"\x02"
UNMARKED: Final = b"\x03"

HEADS_MAX: Final = 65_536
"""Most keys whose heads are remembered."""

_REMEMBERED: Final = frozenset({str, int, type(None)})
"""Key types whose equal values have equal bytes; two equal datetimes, for one, may be written differently."""

_Dressed = tuple[bytes, Partition, bytes | None, dict[str, str] | None]
_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(_Dressed).decode


class Extras(NamedTuple):
    """What may accompany a record."""

    key: bytes | None = None
    headers: Headers | None = None
    timestamp_ms: int | None = None


class Heads(dict[Key, bytes]):
    """What stands in front of the value in the frames of a sink, by key. BOUND: ``HEADS_MAX`` keys."""

    def of(self, keys: Sequence[Key]) -> Iterable[bytes]:
        """Returns the head of each key's frame."""
        return map(self.__getitem__ if _REMEMBERED.issuperset(map(type, keys)) else _head, keys)

    def __missing__(self, key: Key) -> bytes:
        if len(self) >= HEADS_MAX:
            self.clear()
        head = self[key] = _head(key)
        return head


def dressed(value: bytes, partition: Partition, key: Key, headers: Headers | None) -> bytes:
    """Makes a frame that says everything."""
    return DRESSED + _pack((value, partition, _key_bytes(key), None if headers is None else dict(headers)))


def by_partition(frames: Frames, default: Partition) -> dict[Partition, Frames]:
    """Sorts frames by the partition they name, those that name none under ``default``."""
    if not any(frame[:1] == DRESSED for frame in frames):
        return {default: frames}
    found: dict[Partition, list[bytes]] = {}
    for frame in frames:
        name = _unpack(frame[1:])[1] if frame[:1] == DRESSED else default
        found.setdefault(name, []).append(frame)
    return dict(found)


def names_partitions(chunk: Chunk) -> bool:
    """Whether a chunk's frames say more than value and key; all frames of a chunk are of one kind."""
    _, frames = split_table(chunk.payload)
    return bytes(frames[:1]) == DRESSED


def may_hold_dead(chunk: Chunk) -> bool:
    """Whether one of a chunk's frames may be empty: of a record that was given up."""
    table, _ = split_table(chunk.payload)
    return b"\0\0\0\0" in bytes(table)


def take_apart(frames: Frames, start: int) -> tuple[list[bytes], dict[int, Extras]]:
    """Returns the values in frames, and what accompanies them by offset, of which ``start`` is the first."""
    values: list[bytes] = []
    extras: dict[int, Extras] = {}
    by_key: dict[bytes, Extras] = {}
    for offset, frame in enumerate(frames, start):
        if frame >= UNMARKED:
            values.append(frame)
        elif frame < KEYED:
            values.append(frame[1:])
        elif frame < DRESSED:
            key_end = 5 + int.from_bytes(frame[1:5], "big")
            values.append(frame[key_end:])
            name = frame[5:key_end]
            extras[offset] = by_key.get(name) or by_key.setdefault(name, Extras(name))
        else:
            value, _, key, headers = _unpack(frame[1:])
            values.append(value)
            extras[offset] = Extras(key, headers)
    return values, extras


def _head(key: Key) -> bytes:
    text = _key_bytes(key)
    return BARE if text is None else KEYED + len(text).to_bytes(4, "big") + text


def _key_bytes(key: Any) -> bytes | None:
    """A key as a broker would hold it: text and bytes as they are, all else in its canonical form."""
    if key is None or isinstance(key, bytes):
        return key
    return key.encode() if isinstance(key, str) else canonical(key)
