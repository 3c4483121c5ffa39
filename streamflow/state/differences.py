"""Differences: what of a large value is not the same any more, for people."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, Final

SHOWN_MAX: Final = 80
"""Characters of a value that are shown; a larger one is looked into for the part that differs."""

_DEPTH_MAX: Final = 20


def difference(before: Any, after: Any) -> str:
    """Says how a value has come back as another one; of large ones the first part that differs, and the way to it."""
    way = ""
    for _ in range(_DEPTH_MAX):
        if max(len(repr(before)), len(repr(after))) <= SHOWN_MAX:
            break
        found = next(_parts(before, after), None)
        if found is None:
            break
        step, before, after = found
        way += step
    one, other = _around(repr(before), repr(after))
    return f"{f'its part {way}, {one},' if way else one} comes back from its codec as {other}"


def _parts(before: Any, after: Any) -> Iterator[tuple[str, Any, Any]]:
    """The parts in which two values of one class differ, each with how it is reached."""
    if type(before) is not type(after):
        return
    if isinstance(before, Mapping):
        pairs = [(f"[{key!r:.40}]", before[key], after[key]) for key in before if key in after]
    elif isinstance(before, list | tuple) and len(before) == len(after):
        pairs = [(f"[{at}]", *both) for at, both in enumerate(zip(before, after, strict=True))]
    else:
        pairs = [(f".{name}", getattr(before, name, None), getattr(after, name, None)) for name in _names(before)]
    yield from (part for part in pairs if type(part[1]) is not type(part[2]) or part[1] != part[2])


def _names(value: Any) -> tuple[str, ...]:
    if dataclasses.is_dataclass(value):
        return tuple(field.name for field in dataclasses.fields(value))
    return tuple(getattr(value, "__struct_fields__", ()) or getattr(type(value), "model_fields", ()))


def _around(one: str, other: str) -> tuple[str, str]:
    """Two texts cut to where they differ."""
    same = next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    begin = max(0, same - SHOWN_MAX // 2) if max(len(one), len(other)) > SHOWN_MAX else 0
    return _cut(one, begin), _cut(other, begin)


def _cut(text: str, begin: int) -> str:
    end = begin + SHOWN_MAX
    return "..." * (begin > 0) + text[begin:end] + "..." * (end < len(text))
