"""Aggregators: how records become one value, as data. One contract for windows and for plain keys.

An accumulator is what is kept; it must be such that it can be stored. ``add`` takes one record in, ``merge`` joins two
accumulators (of panes, of sessions that meet), ``result`` makes of it what is given.
"""

from __future__ import annotations

import bisect
import keyword
import typing
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

import msgspec

from streamflow.codecs import Codec
from streamflow.errors import DefinitionError
from streamflow.operators.identity import identity

T = TypeVar("T")
A = TypeVar("A")
R = TypeVar("R")
N = TypeVar("N")


@dataclass(frozen=True, slots=True)
class Aggregator(Generic[T, A, R]):
    """How records of type ``T`` become a value of type ``R``.

    GUARANTEE: ``add`` and ``merge`` may change their first argument and return it; they never change the second.

    Args:
        init: Makes an empty accumulator.
        add: ``(accumulator, record) -> accumulator``.
        merge: ``(accumulator, later accumulator) -> accumulator``.
        result: ``accumulator -> result``; None gives the accumulator itself.
        type: Type of the accumulator, by which it is stored.
        codec: Stores it where typed JSON cannot.
    """

    init: Callable[[], A]
    add: Callable[[A, T], A]
    merge: Callable[[A, A], A]
    result: Callable[[A], R] | None
    type: Any
    codec: Codec[Any] | None = None


class Mean(msgspec.Struct):
    """Accumulator of `mean`."""

    n: int = 0
    total: float = 0.0


class Moments(msgspec.Struct):
    """Accumulator of `variance`: Welford's count, mean and sum of squared distances."""

    n: int = 0
    mean: float = 0.0
    squares: float = 0.0


def _given(function: Callable[..., Any]) -> Any:
    """The type that a function says it returns; Any if it does not say."""
    try:
        return typing.get_type_hints(function).get("return", Any)
    except (NameError, TypeError):
        return Any


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

    return Aggregator(start, add, merge, None, _given(of) if kind is None else kind)


def _extreme(of: Callable[[T], N], better: Callable[[Any, Any], bool]) -> Aggregator[T, list[N], N | None]:
    def add(kept: list[Any], record: T) -> list[Any]:
        value = of(record)
        if not kept:
            kept.append(value)
        elif better(value, kept[0]):
            kept[0] = value
        return kept

    def merge(kept: list[Any], other: list[Any]) -> list[Any]:
        if not kept or (other and better(other[0], kept[0])):
            kept[:] = other
        return kept

    return Aggregator(list, add, merge, _only, list[_given(of)])  # type: ignore[misc]


def _only(kept: list[Any]) -> Any:
    return kept[0] if kept else None


def min(of: Callable[[T], N]) -> Aggregator[T, list[N], N | None]:
    """The smallest of what ``of`` gives."""
    return _extreme(of, lambda value, kept: value < kept)


def max(of: Callable[[T], N]) -> Aggregator[T, list[N], N | None]:
    """The largest of what ``of`` gives."""
    return _extreme(of, lambda value, kept: value > kept)


def first(of: Callable[[T], N]) -> Aggregator[T, list[N], N | None]:
    """What ``of`` gives for the first record, in order of arrival; across panes, that of the earliest pane."""

    def add(kept: list[Any], record: T) -> list[Any]:
        return kept or [of(record)]

    return Aggregator(list, add, lambda a, b: a or list(b), _only, list[_given(of)])  # type: ignore[misc]


def last(of: Callable[[T], N]) -> Aggregator[T, list[N], N | None]:
    """What ``of`` gives for the last record, in order of arrival; across panes, that of the latest pane."""

    def add(kept: list[Any], record: T) -> list[Any]:
        return [of(record)]

    return Aggregator(list, add, lambda a, b: list(b) or a, _only, list[_given(of)])  # type: ignore[misc]


def mean(of: Callable[[T], float]) -> Aggregator[T, Mean, float | None]:
    """The mean of what ``of`` gives; None for no record."""

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


def collect(of: Callable[[T], N] | None = None, *, kind: type[N] | None = None) -> Aggregator[T, list[N], list[N]]:
    """All records, or what ``of`` gives for each, as a list in order of arrival; it grows with every record.

    Args:
        of: What to keep of a record.
        kind: Type of the items, where it cannot be told from ``of``'s annotation and is more than JSON tells.
    """

    def add(kept: list[Any], record: T) -> list[Any]:
        kept.append(record if of is None else of(record))
        return kept

    def merge(a: list[Any], b: list[Any]) -> list[Any]:
        a.extend(b)
        return a

    item = kind if kind is not None else Any if of is None else _given(of)
    return Aggregator(list, add, merge, None, list[item])  # type: ignore[valid-type]


def distinct(of: Callable[[T], Hashable]) -> Aggregator[T, dict[str, int], int]:
    """The exact number of different values that ``of`` gives; it keeps each of them.

    Equal numbers are one value, whether int, float or Decimal; True and False are no numbers, and None is a value.

    Args:
        of: Gives text, a number, bool, None, bytes, UUID, a date, an Enum, or a tuple of them.
    """

    def add(seen: dict[str, int], record: T) -> dict[str, int]:
        seen[identity(of(record))] = 1
        return seen

    def merge(a: dict[str, int], b: dict[str, int]) -> dict[str, int]:
        a.update(b)
        return a

    return Aggregator(dict, add, merge, len, dict[str, int])


def top_k(k: int, by: Callable[[T], Any], *, kind: type[T] | None = None) -> Aggregator[T, list[Any], list[T]]:
    """The ``k`` records with the largest ``by``, largest first; of equal ones those that came first.

    Args:
        k: How many.
        by: Gives what records are compared by.
        kind: Type of the records, where it is more than JSON tells.
    """
    if type(k) is not int or k < 1:
        raise DefinitionError(f"top_k({k!r}) keeps nothing", hint="Give a whole number above 0.")

    def put(kept: list[Any], rank: Any, record: Any) -> None:
        if len(kept) < k or rank > kept[-1][0]:
            # behind those of equal rank, which came before
            at = bisect.bisect_left(range(len(kept)), True, key=lambda i: kept[i][0] < rank)
            kept.insert(at, (rank, record))
            del kept[k:]

    def add(kept: list[Any], record: T) -> list[Any]:
        put(kept, by(record), record)
        return kept

    def merge(a: list[Any], b: list[Any]) -> list[Any]:
        for rank, record in b:
            put(a, rank, record)
        return a

    item: Any = tuple[_given(by), Any if kind is None else kind]  # type: ignore[misc]
    return Aggregator(list, add, merge, lambda kept: [record for _, record in kept], list[item])


def reduce(function: Callable[[T, T], T], *, kind: type[T] | None = None) -> Aggregator[T, list[T], T]:
    """Combines records: ``function(so_far, record)``, also used to combine two combined values.

    Args:
        function: Must be associative where windows are made of panes or sessions meet.
        kind: Type of the records, where ``function`` has no annotation and it is more than JSON tells.
    """

    def add(kept: list[T], record: T) -> list[T]:
        return [function(kept[0], record) if kept else record]

    def merge(a: list[T], b: list[T]) -> list[T]:
        return [function(a[0], b[0])] if a and b else a or list(b)

    item = _given(function) if kind is None else kind
    return Aggregator(list, add, merge, _only, list[item])  # type: ignore[valid-type]


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
    kind = init if isinstance(init, type) else _given(init)

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
