"""The verbs that call a function for each record: map, filter, inspect, flat_map, map_batch; plain or async."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar, Unpack, overload

from streamflow.clock import Duration
from streamflow.errors import DefinitionError
from streamflow.flow import build
from streamflow.flow.awaiting import AsyncExpansion, AsyncOptions, call_limits, is_async
from streamflow.flow.detached import add_detached
from streamflow.flow.tables import Tables, named_tables
from streamflow.graph import OnError, Port, Step
from streamflow.operators.context import Context
from streamflow.policy import BATCH_SIZE, CallLimits, Policy

if TYPE_CHECKING:
    from streamflow.flow.decorators import FlatMapping, Mapping_
    from streamflow.flow.flow import Flow
    from streamflow.flow.stream import Stream

T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True, slots=True)
class _Verb:
    """What a verb was given beside its function, and how to tell the type of what its step gives."""

    kind: str
    name: str | None
    on_error: Policy
    type_of: Callable[[Any], Any]
    tables: Tables


class MappingVerbs(Generic[T]):
    """What a `Stream` can do with each of its records by itself."""

    _flow: Flow
    _port: Port
    _type: Any

    if TYPE_CHECKING:

        @property
        def _step(self) -> Step: ...
        def _like(self, keyed: bool, port: Port, kind: Any) -> Any: ...
        def _loose(self, port: Port, kind: Any) -> Stream[Any]: ...

    # -- one record in, one or none out -----------------------------------------------------------

    @overload
    def map(
        self,
        function: Callable[[T], Awaitable[U]],
        /,
        *,
        name: str | None = None,
        on_error: Policy = OnError.STOP,
        **limits: Unpack[AsyncOptions],
    ) -> Stream[U]: ...
    @overload
    def map(
        self,
        function: Callable[[Context[Any, Any], T], Awaitable[U]],
        /,
        *,
        name: str | None = None,
        on_error: Policy = OnError.STOP,
        **limits: Unpack[AsyncOptions],
    ) -> Stream[U]: ...
    @overload
    def map(
        self, function: Callable[[T], U], /, *, name: str | None = None, on_error: Policy = OnError.STOP
    ) -> Stream[U]: ...
    @overload
    def map(
        self,
        function: Callable[[Context[Any, Any], T], U],
        /,
        *,
        name: str | None = None,
        on_error: Policy = OnError.STOP,
        tables: Tables = (),
    ) -> Stream[U]: ...
    @overload
    def map(
        self,
        /,
        *,
        name: str | None = None,
        on_error: Policy = OnError.STOP,
        tables: Tables = (),
        **limits: Unpack[AsyncOptions],
    ) -> Mapping_[T]: ...

    def map(
        self,
        function: Any = None,
        /,
        *,
        name: str | None = None,
        on_error: Policy = OnError.STOP,
        tables: Tables = (),
        **limits: Unpack[AsyncOptions],
    ) -> Any:
        """Gives what the function returns for each record.

        Args:
            function: ``record -> value`` or ``(Context, record) -> value``, plain or async.
            name: The step's name; default is the function's.
            on_error: What happens when it raises.
            tables: Tables that a plain function may `Context.lookup`.
            **limits: The bounds of an async function's calls: see `AsyncOptions`.
        """
        return self._verb(_Verb("map", name, on_error, build.returns, tables), function, limits)

    @overload
    def filter(
        self,
        function: Callable[[T], Awaitable[object]],
        /,
        *,
        name: str | None = None,
        on_error: Policy = OnError.STOP,
        **limits: Unpack[AsyncOptions],
    ) -> Stream[T]: ...
    @overload
    def filter(
        self,
        function: Callable[[Context[Any, Any], T], Awaitable[object]],
        /,
        *,
        name: str | None = None,
        on_error: Policy = OnError.STOP,
        **limits: Unpack[AsyncOptions],
    ) -> Stream[T]: ...
    @overload
    def filter(
        self, function: Callable[[T], object], /, *, name: str | None = None, on_error: Policy = OnError.STOP
    ) -> Stream[T]: ...
    @overload
    def filter(
        self,
        function: Callable[[Context[Any, Any], T], object],
        /,
        *,
        name: str | None = None,
        on_error: Policy = OnError.STOP,
        tables: Tables = (),
    ) -> Stream[T]: ...

    def filter(
        self,
        function: Any,
        /,
        *,
        name: str | None = None,
        on_error: Policy = OnError.STOP,
        tables: Tables = (),
        **limits: Unpack[AsyncOptions],
    ) -> Any:
        """Lets through the records for which the function, plain or async, is true."""
        return self._verb(_Verb("filter", name, on_error, lambda _: self._type, tables), function, limits)

    @overload
    def inspect(
        self, function: Callable[[T], object], /, *, name: str | None = None, on_error: Policy = OnError.STOP
    ) -> Stream[T]: ...
    @overload
    def inspect(
        self,
        function: Callable[[Context[Any, Any], T], object],
        /,
        *,
        name: str | None = None,
        on_error: Policy = OnError.STOP,
        tables: Tables = (),
    ) -> Stream[T]: ...

    def inspect(
        self, function: Any, /, *, name: str | None = None, on_error: Policy = OnError.STOP, tables: Tables = ()
    ) -> Any:
        """Calls the function with each record and passes the record on; the function must not change it."""
        return self._verb(_Verb("inspect", name, on_error, lambda _: self._type, tables), function)

    @overload
    def flat_map(
        self,
        function: AsyncExpansion[T, U],
        /,
        *,
        name: str | None = None,
        on_error: Policy = OnError.STOP,
        **limits: Unpack[AsyncOptions],
    ) -> Stream[U]: ...
    @overload
    def flat_map(
        self, function: Callable[[T], Iterable[U]], /, *, name: str | None = None, on_error: Policy = OnError.STOP
    ) -> Stream[U]: ...
    @overload
    def flat_map(
        self,
        function: Callable[[Context[Any, Any], T], Iterable[U]],
        /,
        *,
        name: str | None = None,
        on_error: Policy = OnError.STOP,
        tables: Tables = (),
    ) -> Stream[U]: ...
    @overload
    def flat_map(
        self,
        /,
        *,
        name: str | None = None,
        on_error: Policy = OnError.STOP,
        tables: Tables = (),
        **limits: Unpack[AsyncOptions],
    ) -> FlatMapping[T]: ...

    def flat_map(
        self,
        function: Any = None,
        /,
        *,
        name: str | None = None,
        on_error: Policy = OnError.STOP,
        tables: Tables = (),
        **limits: Unpack[AsyncOptions],
    ) -> Any:
        """Gives each item of the iterable that the function returns; it is read lazily, however long it is.

        An async function, or an async generator, may give up to 65,536 items for one record.
        """
        verb = _Verb("flat_map", name, on_error, lambda f: build.element(build.returns(f)), tables)
        return self._verb(verb, function, limits)

    @overload
    def map_batch(
        self,
        function: Callable[[list[T]], Awaitable[Sequence[U]]],
        /,
        *,
        size: int = ...,
        within: Duration = ...,
        name: str | None = None,
        on_error: Policy = OnError.STOP,
        **limits: Unpack[AsyncOptions],
    ) -> Stream[U]: ...
    @overload
    def map_batch(
        self,
        function: Callable[[list[T]], Sequence[U]],
        /,
        *,
        name: str | None = None,
        on_error: Policy = OnError.STOP,
    ) -> Stream[U]: ...

    def map_batch(
        self,
        function: Any,
        /,
        *,
        size: int = BATCH_SIZE,
        within: Duration = "0ms",
        name: str | None = None,
        on_error: Policy = OnError.STOP,
        **limits: Unpack[AsyncOptions],
    ) -> Any:
        """Calls the function with many records at once, for NumPy, Arrow, Polars, or a service that takes lists.

        A plain function gets all records of a micro-batch (1 to about 1000). An async one gets up to ``size``; fewer
        go once the first has waited ``within``, or a commit waits for them. With one output per record, in order, the
        result does not depend on how records are grouped. The output has no key. With ``sf.skip`` an error leaves out
        the whole batch.
        """
        if is_async(function) or limits:
            bounds = call_limits(name or "map_batch", limits, size, within)
            port = self._awaiting("map_batch", function, name, on_error, limits, bounds)
            return self._loose(port, build.element(build.returns(function)))
        build.check_function("map_batch", function)
        call, options = build.retrying(function, on_error)
        step = self._flow._builder.add(
            "map_batch",
            self._flow._builder.stateless_name("map_batch", function, name),
            [self._port],
            call,
            **options,
        )
        return self._loose(Port(step.id), build.element(build.returns(function)))

    # -- helpers ----------------------------------------------------------------------------------

    def _verb(self, verb: _Verb, function: Any, limits: AsyncOptions | None = None) -> Any:
        """Adds a step for a function, or returns the decorator that will."""
        if function is None:
            return lambda function: self._verb(verb, function, limits)
        kind, name, on_error = verb.kind, verb.name, verb.on_error
        builder = self._flow._builder
        called = builder.stateless_name(kind, function, name)
        reads = named_tables(self._flow, called, function, verb.tables)
        if limits is not None and (is_async(function) or limits):
            port = self._awaiting(kind, function, name, on_error, limits, call_limits(name or kind, limits))
            return self._like(self._step.keyed, port, verb.type_of(function))
        build.check_function(kind, function)
        context = build.wants_context(function)
        if reads and not context:
            raise DefinitionError(
                f"step {called!r} names tables, and its function asks for no context to look them up with",
                hint=f"Annotate its first parameter: def {called}(ctx: sf.Context, record).",
            )
        call, options = build.retrying(function, on_error)
        step = builder.add(
            kind, called, [self._port], call, keyed=self._step.keyed, reads=reads, context=context, **options
        )
        return self._like(step.keyed, Port(step.id), verb.type_of(function))

    def _awaiting(
        self, kind: str, function: Any, name: str | None, on_error: Policy, options: AsyncOptions, limits: CallLimits
    ) -> Port:
        """Adds an async step."""
        build.check_callable(kind, function)
        builder = self._flow._builder
        if kind == "map_batch" and limits.cache is not None:
            raise DefinitionError(
                "map_batch has no cache", hint="Write a map step, or look results up in the function."
            )
        if options.get("detached"):
            stable = build.stable_name(f"detached {kind}", function, name)
            stream: Any = self
            return add_detached(stream, kind, function, stable, on_error, limits)
        step = builder.add(
            f"async_{kind}",
            builder.stateless_name(kind, function, name),
            [self._port],
            function,
            keyed=self._step.keyed and kind != "map_batch",
            verb=kind,
            context=kind != "map_batch" and build.wants_context(function),
            limits=limits,
            **build.policy_options(on_error),
        )
        return Port(step.id)
