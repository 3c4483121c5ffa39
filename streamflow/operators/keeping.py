"""Aggregators that keep records, or parts of them: the smallest, the last, all, all different ones, the best."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Hashable
from typing import Any, TypeVar, overload

from streamflow.errors import DefinitionError
from streamflow.operators.aggregator import Aggregator, items_type, kept_type, of_records, only, whole
from streamflow.operators.given_types import given_type
from streamflow.operators.identity import identity

T = TypeVar("T")
N = TypeVar("N")


@overload
def min(*, kind: type[T] | None = None) -> Aggregator[T, list[T], T | None]: ...
@overload
def min(of: Callable[[T], N], *, kind: type[N] | None = None) -> Aggregator[T, list[N], N | None]: ...


def min(of: Any = None, *, kind: Any = None) -> Any:
    """The smallest of what ``of`` gives.

    Args:
        of: Gives what to keep of a record; default is the record.
        kind: Its type, where it is more than JSON tells and is neither annotated nor plainly read from the record.
    """
    return _extreme(of, kind, lambda value, kept: value < kept)


@overload
def max(*, kind: type[T] | None = None) -> Aggregator[T, list[T], T | None]: ...
@overload
def max(of: Callable[[T], N], *, kind: type[N] | None = None) -> Aggregator[T, list[N], N | None]: ...


def max(of: Any = None, *, kind: Any = None) -> Any:
    """The largest of what ``of`` gives.

    Args:
        of: Gives what to keep of a record; default is the record.
        kind: Its type, where it is more than JSON tells and is neither annotated nor plainly read from the record.
    """
    return _extreme(of, kind, lambda value, kept: value > kept)


@overload
def first(*, kind: type[T] | None = None) -> Aggregator[T, list[T], T | None]: ...
@overload
def first(of: Callable[[T], N], *, kind: type[N] | None = None) -> Aggregator[T, list[N], N | None]: ...


def first(of: Any = None, *, kind: Any = None) -> Any:
    """What ``of`` gives for the first record, in order of arrival; across panes, that of the earliest pane.

    Args:
        of: Gives what to keep of a record; default is the record.
        kind: Its type, where it is more than JSON tells and is neither annotated nor plainly read from the record.
    """
    key = whole if of is None else of

    def add(kept: list[Any], record: Any) -> list[Any]:
        return kept or [key(record)]

    return of_records(list, add, lambda a, b: a or list(b), only, items_type(of, kind))


@overload
def last(*, kind: type[T] | None = None) -> Aggregator[T, list[T], T | None]: ...
@overload
def last(of: Callable[[T], N], *, kind: type[N] | None = None) -> Aggregator[T, list[N], N | None]: ...


def last(of: Any = None, *, kind: Any = None) -> Any:
    """What ``of`` gives for the last record, in order of arrival; across panes, that of the latest pane.

    Args:
        of: Gives what to keep of a record; default is the record.
        kind: Its type, where it is more than JSON tells and is neither annotated nor plainly read from the record.
    """
    key = whole if of is None else of

    def add(kept: list[Any], record: Any) -> list[Any]:
        return [key(record)]

    return of_records(list, add, lambda a, b: list(b) or a, only, items_type(of, kind))


def collect(of: Callable[[T], N] | None = None, *, kind: type[N] | None = None) -> Aggregator[T, list[N], list[N]]:
    """All records, or what ``of`` gives for each, as a list in order of arrival; it grows with every record.

    Args:
        of: What to keep of a record.
        kind: Type of the items, where it is more than JSON tells and is neither annotated nor plainly read.
    """

    def add(kept: list[Any], record: T) -> list[Any]:
        kept.append(record if of is None else of(record))
        return kept

    def merge(a: list[Any], b: list[Any]) -> list[Any]:
        a.extend(b)
        return a

    return of_records(list, add, merge, None, items_type(of, kind))


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
        by: Gives what records are compared by; annotated where that is more than JSON tells and not plainly read.
        kind: Type of the records, where the stream does not tell it and it is more than JSON tells.
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

    def typed(record: Any) -> Any:
        return list[tuple[given_type(by, record if kind is None else kind), kept_type(None, kind, record)]]  # type: ignore[misc]

    return of_records(list, add, merge, lambda kept: [record for _, record in kept], typed)


def _extreme(
    of: Callable[[Any], Any] | None, kind: Any, better: Callable[[Any, Any], bool]
) -> Aggregator[Any, list[Any], Any]:
    key = whole if of is None else of

    def add(kept: list[Any], record: Any) -> list[Any]:
        value = key(record)
        if not kept:
            kept.append(value)
        elif better(value, kept[0]):
            kept[0] = value
        return kept

    def merge(kept: list[Any], other: list[Any]) -> list[Any]:
        if not kept or (other and better(other[0], kept[0])):
            kept[:] = other
        return kept

    return of_records(list, add, merge, only, items_type(of, kind))
