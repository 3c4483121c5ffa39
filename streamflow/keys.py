"""Keys: which values may be keys, their canonical JSON, and the key group each belongs to.

The canonical text decides identity on disk: it is unsalted, the same in every process and on every machine.
"""

from __future__ import annotations

import base64
import datetime
import enum
import typing
import uuid
from collections.abc import Iterable
from hashlib import blake2b
from typing import Any, Final

import msgspec

Key = Any
"""str, int, bytes, UUID, date, datetime, Enum, or a tuple of them."""

KEY_GROUPS: Final = 256
HASH_NAME: Final = "blake2b-16-mod-256"
PLAIN_SUB: Final = b'""'
"""Canonical sub-key of a plain value."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode
_DIRECT = (str, int)
_DIRECT_TYPES = frozenset(_DIRECT)
_TAGGED = (bytes, uuid.UUID, datetime.date, datetime.datetime)


def key_class(key: Key) -> type | None:
    """Checks that a value may be a key.

    Returns:
        The class that every key of the same ``key_by`` must have exactly, or None for a tuple, whose parts have to
        be looked at each time.

    Raises:
        TypeError: The value is not of a key type. bool, float and None are refused: ``1``, ``True`` and ``1.0``
            are one key in memory and three on disk.
    """
    kind = type(key)
    if kind in _DIRECT or kind in _TAGGED:
        if kind is datetime.datetime and not isinstance(key.tzinfo, datetime.timezone | None):
            raise TypeError(
                f"a datetime key must be naive or have a fixed offset, not {key.tzinfo}: equal times must be one key; "
                "use .astimezone(datetime.UTC)"
            )
        return kind
    if isinstance(key, enum.Enum):
        for member in type(key):
            key_class(member.value)
        return kind
    if kind is tuple and key:
        for part in key:
            key_class(part)
        return None
    raise TypeError(
        "a key must be str, int, bytes, UUID, date, datetime, Enum or a tuple of them, "
        f"not {kind.__name__} ({key!r:.60})"
    )


def shape(key: Key) -> Any:
    """What must stay the same for all keys of one ``key_by``: the class, or for a tuple the shapes of its parts."""
    kind = key_class(key)
    return tuple(shape(part) for part in key) if kind is None else kind


def shape_name(kind: Any) -> str:
    """A shape for people."""
    return f"({', '.join(map(shape_name, kind))})" if isinstance(kind, tuple) else str(kind.__name__)


def canonical(key: Key) -> bytes:
    """Returns a key's canonical JSON: equal keys of one type give equal bytes, different ones different bytes.

    Raises:
        ValueError: A text holds a lone surrogate.
    """
    kind = type(key)
    if kind in _DIRECT or (kind is tuple and _DIRECT_TYPES.issuperset(map(type, key))):
        return _encode(key)
    return _encode(_builtins(key))


def _builtins(key: Key) -> Any:
    kind = type(key)
    if kind in _DIRECT:
        return key
    if kind is tuple:
        return [_builtins(part) for part in key]
    if isinstance(key, enum.Enum):
        return {"enum": _builtins(key.value)}
    if kind is bytes:
        return {"bytes": base64.b64encode(key).decode()}
    if kind is uuid.UUID:
        return {"uuid": str(key)}
    if kind is datetime.datetime:
        # equal times in two zones are one key, and so is a naive time with either fold
        return {"datetime": (key if key.tzinfo is None else key.astimezone(datetime.UTC)).isoformat()}
    return {"date": key.isoformat()}


def parse(text: bytes, kind: Any = None) -> Key:
    """Reads a key back from its canonical JSON.

    Args:
        text: What `canonical` gave.
        kind: The key's type where it is known; needed for Enum keys only.

    Raises:
        ValueError: The text is no key, or an Enum key whose class is not given.
    """
    try:
        return _key(_decode(text), kind)
    except (TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"not a key: {bytes(text[:80])!r}: {error}") from None


def parse_all(texts: Iterable[bytes], kind: Any = None) -> list[Key]:
    """Reads many keys back, those of text and whole numbers without Python code for each.

    Args:
        texts: What `canonical` gave.
        kind: The keys' type where it is known.

    Raises:
        ValueError: One is no key, or an Enum key whose class is not given.
    """
    raws = list(map(_decode, texts))
    return raws if _DIRECT_TYPES.issuperset(map(type, raws)) else [_key(raw, kind) for raw in raws]


def _key(raw: Any, kind: Any) -> Key:
    if type(raw) in _DIRECT:
        return raw
    if type(raw) is list and raw:
        kinds = typing.get_args(kind) if typing.get_origin(kind) is tuple else ()
        if len(kinds) == 2 and kinds[1] is Ellipsis:
            kinds = (kinds[0],) * len(raw)
        return tuple(_key(part, kinds[i] if i < len(kinds) else None) for i, part in enumerate(raw))
    if type(raw) is dict and len(raw) == 1:
        ((tag, value),) = raw.items()
        if tag == "enum":
            if not (isinstance(kind, type) and issubclass(kind, enum.Enum)):
                raise ValueError("an Enum key needs its class: annotate what the key function returns")
            return kind(_key(value, None))
        reader = _READERS.get(tag)
        if reader is not None:
            key = reader(value)
            # one key has one text: of two that mean the same, only the one that `canonical` gives is a key
            if _builtins(key) == raw:
                return key
    raise ValueError(f"not a key: {raw!r:.80}")


_READERS: Final[dict[str, typing.Callable[[str], Key]]] = {
    "bytes": base64.b64decode,
    "uuid": uuid.UUID,
    "date": datetime.date.fromisoformat,
    "datetime": datetime.datetime.fromisoformat,
}


def key_group(canonical_key: bytes) -> int:
    """The key group (0 to 255) of a canonical key; spread by blake2b without salt."""
    return int.from_bytes(blake2b(canonical_key, digest_size=2).digest(), "big") % KEY_GROUPS


def stable_hash(*parts: bytes, size: int = 16) -> bytes:
    """Hashes parts, each behind its length, to ``size`` bytes; the same in every process."""
    digest = blake2b(digest_size=size)
    for part in parts:
        digest.update(len(part).to_bytes(4, "big"))
        digest.update(part)
    return digest.digest()
