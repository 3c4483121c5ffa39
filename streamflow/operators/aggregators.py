"""Aggregators: how records become one value, as data. One contract for windows and for plain keys.

An accumulator is what is kept; it must be such that it can be stored. ``add`` takes one record in, ``merge`` joins two
accumulators (of panes, of sessions that meet), ``result`` makes of it what is given.
"""

from __future__ import annotations

import keyword
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import msgspec

from streamflow.errors import DefinitionError
from streamflow.operators.aggregator import Aggregator, kept_type, of_records, only
from streamflow.operators.given_types import given_type, storable

T = TypeVar("T")
A = TypeVar("A")
R = TypeVar("R")
N = TypeVar("N")


class Mean(msgspec.Struct):
    """Accumulator of `mean`."""

    n: int = 0
    total: float = 0.0


class Moments(msgspec.Struct):
    """Accumulator of `variance`: Welford's count, mean and sum of squared distances."""

    n: int = 0
    mean: float = 0.0
    squares: float = 0.0


def count() -> Aggregator[Any, int, int]:
    """The number of records."""
    return Aggregator(int, add_one, lambda a, b: a + b, None, int)


def add_one(so_far: int, record: object) -> int:
    """``add`` of `count`; loops write it out."""
    return so_far + 1


def sum(of: Callable[[T], N], *, kind: type[N] | None = None) -> Aggregator[T, Any, N]:
    """The sum of what ``of`` gives; 0 for no record.

    Args:
        of: Gives a record's number.
        kind: Its type, where ``of`` has no annotation and JSON does not tell it, such as `Decimal`.
    """
    start: Any = int

    def add(total: Any, record: T) -> Any:
        return total + of(record)

    def merge(total: Any, other: Any) -> Any:
        return total + other

    def typed(record: Any) -> Any:
        found = kept_type(of, kind, record)
        return int if found is bool else found

    return of_records(start, add, merge, None, typed)


def mean(of: Callable[[T], float]) -> Aggregator[T, Mean, float | None]:
    """The mean of what ``of`` gives, as a float; None for no record.

    Decimals are not taken, since their mean would be rounded: aggregate their `sum` and their `count`.

    Args:
        of: Gives a record's number.
    """

    def add(so_far: Mean, record: T) -> Mean:
        so_far.n += 1
        so_far.total += of(record)
        return so_far

    def merge(a: Mean, b: Mean) -> Mean:
        a.n += b.n
        a.total += b.total
        return a

    return Aggregator(Mean, add, merge, lambda a: a.total / a.n if a.n else None, Mean)


def variance(of: Callable[[T], float], *, sample: bool = True) -> Aggregator[T, Moments, float | None]:
    """The variance of what ``of`` gives, by Welford's method; None for too few records.

    Args:
        of: Gives a record's number.
        sample: Divide by n - 1, not by n.
    """

    def add(so_far: Moments, record: T) -> Moments:
        value = of(record)
        so_far.n += 1
        distance = value - so_far.mean
        so_far.mean += distance / so_far.n
        so_far.squares += distance * (value - so_far.mean)
        return so_far

    def merge(a: Moments, b: Moments) -> Moments:
        # Chan, Golub and LeVeque 1979
        if b.n:
            n = a.n + b.n
            distance = b.mean - a.mean
            a.squares += b.squares + distance * distance * a.n * b.n / n
            a.mean += distance * b.n / n
            a.n = n
        return a

    less = int(sample)
    return Aggregator(Moments, add, merge, lambda a: a.squares / (a.n - less) if a.n > less else None, Moments)


def reduce(function: Callable[[T, T], T], *, kind: type[T] | None = None) -> Aggregator[T, list[T], T]:
    """Combines records: ``function(so_far, record)``, also used to combine two combined values.

    Args:
        function: Must be associative where windows are made of panes or sessions meet.
        kind: Type of the records, where neither ``function`` nor the stream tells it and it is more than JSON tells.
    """

    def add(kept: list[T], record: T) -> list[T]:
        return [function(kept[0], record) if kept else record]

    def merge(a: list[T], b: list[T]) -> list[T]:
        return [function(a[0], b[0])] if a and b else a or list(b)

    def typed(record: Any) -> Any:
        found = given_type(function, None) if kind is None else kind
        return list[storable(record) if found is Any else found]  # type: ignore[misc]

    return of_records(list, add, merge, only, typed)


def aggregator(
    init: type[A] | Callable[[], A],
    add: Callable[[A, T], A],
    merge: Callable[[A, A], A],
    result: Callable[[A], R] | None = None,
) -> Aggregator[T, A, R]:
    """An aggregator of your own.

    Args:
        init: Makes an empty accumulator: a class or a function without arguments.
        add: ``(accumulator, record) -> accumulator``; may change it in place and return it.
        merge: ``(accumulator, later accumulator) -> accumulator``; may change the first in place and return it.
        result: ``accumulator -> result``; default is the accumulator itself.
    """
    kind = init if isinstance(init, type) else given_type(init, None)

    def checked(so_far: A, record: T) -> A:
        found = add(so_far, record)
        if found is None:
            raise TypeError("add of an aggregator returned None, not the accumulator")
        return found

    return Aggregator(init, checked, merge, result, kind)


def several(named: Mapping[str, Aggregator[T, Any, Any]]) -> Aggregator[T, Any, dict[str, Any]]:
    """Several aggregators at once; the accumulator is an object with one field for each, the result a dict.

    Raises:
        DefinitionError: A name cannot be a field's.
    """
    for name in named:
        if not name.isidentifier() or keyword.iskeyword(name) or name.startswith("_"):
            raise DefinitionError(f"{name!r} cannot name an aggregator", hint="Use a name such as n or total.")
    parts = dict(named)
    held = msgspec.defstruct("Accumulators", [(name, part.type) for name, part in parts.items()])
    # written out: a loop over the parts would take three times as long
    space: dict[str, Any] = {f"{what}_{name}": getattr(part, what) for name, part in parts.items() for what in _PARTS}
    space["held"] = held
    lines = ["def init():", f"    return held({', '.join(f'init_{name}()' for name in parts)})", "def add(a, record):"]
    lines += [f"    a.{name} = add_{name}(a.{name}, record)" for name in parts]
    lines += ["    return a", "def merge(a, b):"]
    lines += [f"    a.{name} = merge_{name}(a.{name}, b.{name})" for name in parts]
    lines += ["    return a"]
    exec("\n".join(lines), space)
    results = [(name, part.result) for name, part in parts.items()]

    def result(a: Any) -> dict[str, Any]:
        return {name: getattr(a, name) if of is None else of(getattr(a, name)) for name, of in results}

    codec = next((part.codec for part in parts.values() if part.codec is not None), None)
    return Aggregator(space["init"], space["add"], space["merge"], result, held, codec)


_PARTS: Final = ("init", "add", "merge")
