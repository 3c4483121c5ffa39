"""Identity: when two values that are counted as different ones are the same."""

from __future__ import annotations

import datetime
import enum
import math
import uuid
from decimal import Decimal
from typing import Any, Final

from streamflow.keys import canonical

_KEYS: Final = (str, int, bytes, uuid.UUID, datetime.date, datetime.datetime)
_WHOLE_DIGITS_MAX: Final = 400
"""A Decimal with more digits before its point is compared by them: no number of a float's range is that long."""


def identity(value: Any) -> str:
    """A text that is the same for equal values and different for different ones.

    Numbers are the same where Python calls them equal, whichever of int, float and Decimal they are; NaN is one value.
    True and False are no numbers, None is a value, and a text is never a number.

    Raises:
        TypeError: It is of a type whose values nothing tells apart for good.
    """
    kind = type(value)
    if kind in _KEYS:
        return canonical(value).decode()
    if kind is float:
        return _of_float(value)
    if kind is bool or value is None:
        return str(value).lower()
    if kind is Decimal:
        return _of_decimal(value)
    if kind is tuple:
        return f"[{','.join(map(identity, value))}]"
    if isinstance(value, enum.Enum):
        return f'{{"enum":{identity(value.value)}}}'
    raise TypeError(
        f"{kind.__name__} values ({value!r:.60}) are not told apart; count text, numbers, bool, None, bytes, UUID, "
        "dates, Enum or tuples of them, such as tuple(tags) or repr(value)"
    )


def _of_float(value: float) -> str:
    if math.isfinite(value):
        return str(int(value)) if value.is_integer() else repr(value)
    return f'{{"float":"{value}"}}'


def _of_decimal(value: Decimal) -> str:
    if value.is_nan():
        return _of_float(math.nan)
    about = float(value)
    if value == about:
        return _of_float(about)
    if value.adjusted() < _WHOLE_DIGITS_MAX and value == value.to_integral_value():
        return str(int(value))
    sign, digits, exponent = value.as_tuple()
    text = "".join(map(str, digits))
    assert isinstance(exponent, int)
    return f'{{"decimal":"{"-" * sign}{text.rstrip("0")}e{exponent + len(text) - len(text.rstrip("0"))}"}}'
