"""What a table makes of stored entries: keys and values, in whole columns where that is possible."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, TypeVar

import msgspec

from streamflow.codecs import Codec
from streamflow.errors import StepError
from streamflow.keys import Key, parse_all
from streamflow.state.store import Entries, Entry

V = TypeVar("V")

NO_SUBS: Final[Any] = object()
"""Stands for the type of the sub-keys of a table that has none."""


class Columns(NamedTuple):
    """Entries as a table keeps them: by key, or by (key, sub); expiries of those that have one."""

    keys: list[Any]
    values: list[Any]
    expires_ms: dict[Any, int]


def read_columns(entries: Sequence[Entry], codec: Codec[Any], key_type: Any, sub_type: Any) -> Columns | None:
    """Reads entries column by column: a line of Python for each of a million would be seen at every start.

    Returns:
        None where they have to be taken one by one: some are deletions, or one cannot be read, and then it must be
        told which.
    """
    columns = Entries.of(entries)
    raws: Sequence[Any] = columns.values
    if None in raws:
        return None
    try:
        keys: list[Any] = parse_all(columns.keys, key_type)
        if sub_type is not NO_SUBS:
            keys = list(zip(keys, parse_all(columns.subs, sub_type), strict=True))
        values = list(map(codec.decode, raws))
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError):
        return None
    expires_ms = columns.expires_ms
    if expires_ms.count(None) == len(expires_ms):
        return Columns(keys, values, {})
    return Columns(keys, values, {key: at for key, at in zip(keys, expires_ms, strict=True) if at is not None})


def migrated(step: str, migrate: Callable[[Any], V], key: Key, raw: bytes) -> V:
    """Upgrades one old value.

    Raises:
        StepError: ``migrate`` raised.
    """
    old = msgspec.json.decode(raw)
    try:
        return migrate(old)
    except Exception as error:  # the user's own function
        raise StepError(
            f"migrate= of step {step!r} raised {type(error).__name__} for key {key!r:.60}: {error}",
            step=step,
            hint="Correct it: it gets each old value as plain JSON. Nothing was changed.",
        ) from error
