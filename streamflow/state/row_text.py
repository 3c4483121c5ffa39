"""Many entries of a table as one text: the JSON that is committed, made by one call instead of one for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain, repeat
from typing import Any, Final

import msgspec

_DIRECT: Final = frozenset({str, int})
"""Types of keys that are written to JSON as they are."""

_encode = msgspec.json.Encoder().encode

_Row = tuple[Any, ...]

_HOLDING: Final = 4
"""Columns of an entry that is there; one that is gone has its address alone."""


def text_of(
    keys: Sequence[Any], values: Mapping[Any, Any], written: Mapping[Any, bytes], *, subs: bool
) -> bytes | None:
    """The text of entries, byte for byte as one by one; None where one of them needs a closer look.

    Args:
        keys: The entries' keys, or (key, sub).
        values: What they hold; one that is not there is gone.
        written: The text of those that were written before.
        subs: Whether keys are (key, sub).
    """
    try:
        rows = _sub_rows(keys, values, written) if subs else _plain_rows(keys, values, written)
        payload = None if rows is None else _encode(rows)
    except (KeyError, ValueError, TypeError, OverflowError, RecursionError):
        return None
    if payload is None or rows is None:
        return None
    # a row that holds a value has one, its expiry: a null anywhere else may be what a value was turned into
    return None if payload.count(b"null") > sum(len(row) == _HOLDING for row in rows) else payload


def _plain_rows(keys: Sequence[Any], values: Mapping[Any, Any], written: Mapping[Any, bytes]) -> list[_Row] | None:
    if not _DIRECT.issuperset(map(type, keys)):
        return None
    rows: list[_Row] = list(zip(keys, repeat(""), map(values.__getitem__, keys), repeat(None)))
    for at in [at for at, key in enumerate(keys) if key in written] if written else ():
        rows[at] = (keys[at], "", msgspec.Raw(written[keys[at]]), None)
    return rows


def _sub_rows(keys: Sequence[Any], values: Mapping[Any, Any], written: Mapping[Any, bytes]) -> list[_Row] | None:
    owners, subs = zip(*keys, strict=True)
    parts = chain.from_iterable(subs) if type(subs[0]) is tuple else subs
    if not _DIRECT.issuperset(map(type, chain(owners, parts))):
        return None
    rows: list[_Row] = []
    for key in keys:
        if key not in values:
            rows.append(key)
        else:
            rows.append((*key, msgspec.Raw(written[key]) if key in written else values[key], None))
    return rows
