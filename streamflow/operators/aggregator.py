"""Aggregator: the contract of what makes one value of many records, and how it gets the type that it is stored by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from streamflow.codecs import Codec
from streamflow.operators.given_types import given_type, storable

T = TypeVar("T")
A = TypeVar("A")
R = TypeVar("R")


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
        typed: Gives that type for records of a type, where it depends on theirs.
    """

    init: Callable[[], A]
    add: Callable[[A, T], A]
    merge: Callable[[A, A], A]
    result: Callable[[A], R] | None
    type: Any
    codec: Codec[Any] | None = None
    typed: Callable[[Any], Any] | None = None

    def over(self, record: Any) -> Aggregator[T, A, R]:
        """The same over records of a type; None where it is not known."""
        return self if self.typed is None else replace(self, type=self.typed(record))


def where(predicate: Callable[[T], object], aggregator: Aggregator[T, A, R]) -> Aggregator[T, A, R]:
    """An aggregator over those records only for which a function says so: ``sf.where(has_price, sf.min(price))``.

    SQL's ``FILTER (WHERE ...)``; also the way to leave out records whose value is None.

    Args:
        predicate: Whether a record counts.
        aggregator: What they count in.
    """
    add = aggregator.add

    def add_some(so_far: A, record: T) -> A:
        return add(so_far, record) if predicate(record) else so_far

    return replace(aggregator, add=add_some)


def of_records(
    init: Callable[[], Any],
    add: Callable[[Any, Any], Any],
    merge: Callable[[Any, Any], Any],
    result: Callable[[Any], Any] | None,
    typed: Callable[[Any], Any],
) -> Aggregator[Any, Any, Any]:
    """An aggregator whose accumulator's type depends on the records'."""
    return Aggregator(init, add, merge, result, typed(None), typed=typed)


def kept_type(of: Callable[[Any], Any] | None, kind: Any, record: Any) -> Any:
    """The type of what is kept of a record."""
    if kind is not None:
        return kind
    return storable(record) if of is None else given_type(of, record)


def items_type(of: Callable[[Any], Any] | None, kind: Any) -> Callable[[Any], Any]:
    """The type of a list of what is kept of records."""
    return lambda record: list[kept_type(of, kind, record)]  # type: ignore[misc]


def whole(record: Any) -> Any:
    """The record itself, where nothing says what to keep of it."""
    return record


def only(kept: list[Any]) -> Any:
    """What a list of at most one holds; None for none."""
    return kept[0] if kept else None
