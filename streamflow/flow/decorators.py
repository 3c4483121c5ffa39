"""The types of verbs used as decorators: what they make of the function below them."""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, overload

from streamflow.operators.context import Context

if TYPE_CHECKING:
    from streamflow.flow.awaiting import AsyncExpansion, AsyncFunction
    from streamflow.flow.keyed import KeyedStream
    from streamflow.flow.process import Process
    from streamflow.flow.stream import Stream

U = TypeVar("U")
K = TypeVar("K")
S = TypeVar("S")
T_co = TypeVar("T_co", covariant=True)


class Mapping_(Protocol[T_co]):
    """A decorator that makes a map step of a function."""

    @overload
    def __call__(self, function: AsyncFunction[T_co, U], /) -> Stream[U]: ...
    @overload
    def __call__(self, function: Callable[[T_co], U], /) -> Stream[U]: ...
    @overload
    def __call__(self, function: Callable[[Context[Any, Any], T_co], U], /) -> Stream[U]: ...


class FlatMapping(Protocol[T_co]):
    """A decorator that makes a flat_map step of a function."""

    @overload
    def __call__(self, function: AsyncExpansion[T_co, U], /) -> Stream[U]: ...
    @overload
    def __call__(self, function: Callable[[T_co], Iterable[U]], /) -> Stream[U]: ...
    @overload
    def __call__(self, function: Callable[[Context[Any, Any], T_co], Iterable[U]], /) -> Stream[U]: ...


class KeyedMapping(Protocol[K, T_co]):
    """A decorator that makes a map step, on a stream with keys."""

    @overload
    def __call__(self, function: AsyncFunction[T_co, U], /) -> KeyedStream[K, U]: ...
    @overload
    def __call__(self, function: Callable[[T_co], U], /) -> KeyedStream[K, U]: ...
    @overload
    def __call__(self, function: Callable[[Context[Any, Any], T_co], U], /) -> KeyedStream[K, U]: ...


class KeyedFlatMapping(Protocol[K, T_co]):
    """A decorator that makes a flat_map step, on a stream with keys."""

    @overload
    def __call__(self, function: AsyncExpansion[T_co, U], /) -> KeyedStream[K, U]: ...
    @overload
    def __call__(self, function: Callable[[T_co], Iterable[U]], /) -> KeyedStream[K, U]: ...
    @overload
    def __call__(self, function: Callable[[Context[Any, Any], T_co], Iterable[U]], /) -> KeyedStream[K, U]: ...


class Processing(Protocol[K, T_co, S]):
    """A decorator that makes a process step of a function."""

    @overload
    def __call__(
        self, function: Callable[[Context[K, S], T_co], Awaitable[Iterable[U] | None]], /
    ) -> Process[K, S, U]: ...
    @overload
    def __call__(self, function: Callable[[Context[K, S], T_co], AsyncIterable[U]], /) -> Process[K, S, U]: ...
    @overload
    def __call__(self, function: Callable[[Context[K, S], T_co], Iterable[U] | None], /) -> Process[K, S, U]: ...
