"""The types of the mapping verbs on a stream with keys, which keep them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, Generic, TypeVar, Unpack, overload

from streamflow.graph import OnError
from streamflow.operators.context import Context
from streamflow.policy import Policy

if TYPE_CHECKING:
    from streamflow.flow.awaiting import AsyncExpansion, AsyncOptions
    from streamflow.flow.decorators import KeyedFlatMapping, KeyedMapping
    from streamflow.flow.keyed import KeyedStream
    from streamflow.flow.tables import Tables

K = TypeVar("K")
T = TypeVar("T")
U = TypeVar("U")


class KeyedMappingVerbs(Generic[K, T]):
    """The types of `MappingVerbs` on a stream with keys."""

    if TYPE_CHECKING:

        @overload
        def map(
            self,
            function: Callable[[T], Awaitable[U]],
            /,
            *,
            name: str | None = None,
            on_error: Policy = OnError.STOP,
            **limits: Unpack[AsyncOptions],
        ) -> KeyedStream[K, U]: ...
        @overload
        def map(
            self,
            function: Callable[[Context[Any, Any], T], Awaitable[U]],
            /,
            *,
            name: str | None = None,
            on_error: Policy = OnError.STOP,
            **limits: Unpack[AsyncOptions],
        ) -> KeyedStream[K, U]: ...
        @overload
        def map(
            self, function: Callable[[T], U], /, *, name: str | None = None, on_error: Policy = OnError.STOP
        ) -> KeyedStream[K, U]: ...
        @overload
        def map(
            self,
            function: Callable[[Context[Any, Any], T], U],
            /,
            *,
            name: str | None = None,
            on_error: Policy = OnError.STOP,
            tables: Tables = (),
        ) -> KeyedStream[K, U]: ...
        @overload
        def map(
            self,
            /,
            *,
            name: str | None = None,
            on_error: Policy = OnError.STOP,
            tables: Tables = (),
            **limits: Unpack[AsyncOptions],
        ) -> KeyedMapping[K, T]: ...
        def map(
            self, function: Any = None, /, *, name: Any = None, on_error: Any = OnError.STOP, **limits: Any
        ) -> Any: ...

        @overload
        def flat_map(
            self,
            function: AsyncExpansion[T, U],
            /,
            *,
            name: str | None = None,
            on_error: Policy = OnError.STOP,
            **limits: Unpack[AsyncOptions],
        ) -> KeyedStream[K, U]: ...
        @overload
        def flat_map(
            self, function: Callable[[T], Iterable[U]], /, *, name: str | None = None, on_error: Policy = OnError.STOP
        ) -> KeyedStream[K, U]: ...
        @overload
        def flat_map(
            self,
            function: Callable[[Context[Any, Any], T], Iterable[U]],
            /,
            *,
            name: str | None = None,
            on_error: Policy = OnError.STOP,
            tables: Tables = (),
        ) -> KeyedStream[K, U]: ...
        @overload
        def flat_map(
            self,
            /,
            *,
            name: str | None = None,
            on_error: Policy = OnError.STOP,
            tables: Tables = (),
            **limits: Unpack[AsyncOptions],
        ) -> KeyedFlatMapping[K, T]: ...
        def flat_map(
            self, function: Any = None, /, *, name: Any = None, on_error: Any = OnError.STOP, **limits: Any
        ) -> Any: ...

        @overload
        def filter(
            self,
            function: Callable[[T], Awaitable[object]],
            /,
            *,
            name: str | None = None,
            on_error: Policy = OnError.STOP,
            **limits: Unpack[AsyncOptions],
        ) -> KeyedStream[K, T]: ...
        @overload
        def filter(
            self,
            function: Callable[[Context[Any, Any], T], Awaitable[object]],
            /,
            *,
            name: str | None = None,
            on_error: Policy = OnError.STOP,
            **limits: Unpack[AsyncOptions],
        ) -> KeyedStream[K, T]: ...
        @overload
        def filter(
            self, function: Callable[[T], object], /, *, name: str | None = None, on_error: Policy = OnError.STOP
        ) -> KeyedStream[K, T]: ...
        @overload
        def filter(
            self,
            function: Callable[[Context[Any, Any], T], object],
            /,
            *,
            name: str | None = None,
            on_error: Policy = OnError.STOP,
            tables: Tables = (),
        ) -> KeyedStream[K, T]: ...
        def filter(self, function: Any, /, *, name: Any = None, on_error: Any = OnError.STOP, **limits: Any) -> Any: ...

        @overload
        def inspect(
            self, function: Callable[[T], object], /, *, name: str | None = None, on_error: Policy = OnError.STOP
        ) -> KeyedStream[K, T]: ...
        @overload
        def inspect(
            self,
            function: Callable[[Context[Any, Any], T], object],
            /,
            *,
            name: str | None = None,
            on_error: Policy = OnError.STOP,
            tables: Tables = (),
        ) -> KeyedStream[K, T]: ...
        def inspect(
            self, function: Any, /, *, name: Any = None, on_error: Any = OnError.STOP, tables: Any = ()
        ) -> Any: ...
