"""Values that leave a stateful step: copied unless nobody can change them.

A record is a value, but users change their state in place. Whatever a stateful step gives may be, or may hold, that
state; kept past the call it would change under its reader.
"""

from __future__ import annotations

import copy
from typing import Any, Final

from streamflow.codecs import immutable

FROZEN: Final[set[type]] = {str, int, float, bool, bytes, complex, type(None)}
"""Classes whose every instance is deeply immutable: found out once per class, looked up per record."""

_KNOWN_MUTABLE: set[type] = {list, dict, set, tuple, frozenset, bytearray}


def own(value: Any) -> Any:
    """Returns the value itself if it is deeply immutable, else a deep copy."""
    kind = type(value)
    if kind in FROZEN:
        return value
    if kind is tuple:
        for part in value:
            if part.__class__ not in FROZEN:
                return _own_tuple(value)
        return value
    if kind not in _KNOWN_MUTABLE:
        if immutable(kind):
            FROZEN.add(kind)
            return value
        _KNOWN_MUTABLE.add(kind)
    if kind is dict:
        return {key: part if type(part) in FROZEN else own(part) for key, part in value.items()}
    if kind is list:
        return [part if type(part) in FROZEN else own(part) for part in value]
    return copy.deepcopy(value)


def _own_tuple(value: tuple[Any, ...]) -> tuple[Any, ...]:
    parts = [own(part) for part in value]
    return value if all(new is old for new, old in zip(parts, value, strict=True)) else tuple(parts)
