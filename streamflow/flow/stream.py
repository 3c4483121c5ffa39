"""Streams: the typed verbs with which a user writes a flow."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, overload

from streamflow.batch import Headers
from streamflow.clock import Duration, duration_ms
from streamflow.connect.contracts import Level, SinkOptions, SinkSpec
from streamflow.errors import DefinitionError
from streamflow.flow import build
from streamflow.flow.state import ListSpec, MapSpec, batch_functions, state_spec
from streamflow.graph import SINK, OnError, Port, Step
from streamflow.operators.bind import StateSpec
from streamflow.operators.context import Context, Output
from streamflow.state.collections import ListState, MapState

if TYPE_CHECKING:
    from streamflow.flow.flow import Flow

T = TypeVar("T")
U = TypeVar("U")
V = TypeVar("V")
K = TypeVar("K")
S = TypeVar("S")
A = TypeVar("A")
R = TypeVar("R")
T_co = TypeVar("T_co", covariant=True)


class _Mapping(Protocol[T_co]):
    """A decorator that makes a map step of a function."""

    @overload
    def __call__(self, function: Callable[[T_co], U], /) -> Stream[U]: ...
    @overload
    def __call__(self, function: Callable[[Context[Any, Any], T_co], U], /) -> Stream[U]: ...


class _FlatMapping(Protocol[T_co]):
    """A decorator that makes a flat_map step of a function."""

    @overload
    def __call__(self, function: Callable[[T_co], Iterable[U]], /) -> Stream[U]: ...
    @overload
    def __call__(self, function: Callable[[Context[Any, Any], T_co], Iterable[U]], /) -> Stream[U]: ...


class _KeyedMapping(Protocol[K, T_co]):
    @overload
    def __call__(self, function: Callable[[T_co], U], /) -> KeyedStream[K, U]: ...
    @overload
    def __call__(self, function: Callable[[Context[Any, Any], T_co], U], /) -> KeyedStream[K, U]: ...


class _KeyedFlatMapping(Protocol[K, T_co]):
    @overload
    def __call__(self, function: Callable[[T_co], Iterable[U]], /) -> KeyedStream[K, U]: ...
    @overload
    def __call__(self, function: Callable[[Context[Any, Any], T_co], Iterable[U]], /) -> KeyedStream[K, U]: ...


class Stream(Generic[T]):
    """Records of one type on their way through a flow.

    Each verb adds a step and returns the stream of what it gives. Verbs that take a function can be called with it,
    or without it as a decorator; the decorated name is then the stream. A function whose first parameter is
    annotated ``Context`` also gets the context.
    """

    def __init__(self, flow: Flow, port: Port, kind: Any = None) -> None:
        self._flow = flow
        self._port = port
        self._type = kind

    @property
    def name(self) -> str:
        """Name of the step whose output this is."""
        return self._step.name

    @property
    def _step(self) -> Step:
        return self._flow._builder.step(self._port.step)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} of flow {self._flow.name}>"

    # -- one record in, one or none out --------------------------------------------------------------------------------

    @overload
    def map(
        self, function: Callable[[T], U], /, *, name: str | None = None, on_error: OnError = OnError.STOP
    ) -> Stream[U]: ...
    @overload
    def map(
        self, function: Callable[[Context[Any, Any], T], U], /, *, name: str | None = None, on_error: OnError = OnError.STOP
    ) -> Stream[U]: ...
    @overload
    def map(self, /, *, name: str | None = None, on_error: OnError = OnError.STOP) -> _Mapping[T]: ...

    def map(self, function: Any = None, /, *, name: str | None = None, on_error: OnError = OnError.STOP) -> Any:
        """Gives what the function returns for each record.

        Args:
            function: ``record -> value`` or ``(Context, record) -> value``.
            name: The step's name; default is the function's.
            on_error: What happens when it raises.
        """
        return self._verb("map", function, name, on_error, build.returns)

    def filter(
        self,
        function: Callable[[T], object] | Callable[[Context[Any, Any], T], object],
        /,
        *,
        name: str | None = None,
        on_error: OnError = OnError.STOP,
    ) -> Stream[T]:
        """Lets through the records for which the function is true."""
        return self._verb("filter", function, name, on_error, lambda _: self._type)  # type: ignore[no-any-return]

    def inspect(
        self,
        function: Callable[[T], object] | Callable[[Context[Any, Any], T], object],
        /,
        *,
        name: str | None = None,
        on_error: OnError = OnError.STOP,
    ) -> Stream[T]:
        """Calls the function with each record and passes the record on; the function must not change it."""
        return self._verb("inspect", function, name, on_error, lambda _: self._type)  # type: ignore[no-any-return]

    @overload
    def flat_map(
        self, function: Callable[[T], Iterable[U]], /, *, name: str | None = None, on_error: OnError = OnError.STOP
    ) -> Stream[U]: ...
    @overload
    def flat_map(
        self,
        function: Callable[[Context[Any, Any], T], Iterable[U]],
        /,
        *,
        name: str | None = None,
        on_error: OnError = OnError.STOP,
    ) -> Stream[U]: ...
    @overload
    def flat_map(self, /, *, name: str | None = None, on_error: OnError = OnError.STOP) -> _FlatMapping[T]: ...

    def flat_map(self, function: Any = None, /, *, name: str | None = None, on_error: OnError = OnError.STOP) -> Any:
        """Gives each item of the iterable that the function returns; it is read lazily, however long it is."""
        return self._verb("flat_map", function, name, on_error, lambda f: build.element(build.returns(f)))

    def map_batch(
        self,
        function: Callable[[list[T]], Sequence[U]],
        /,
        *,
        name: str | None = None,
        on_error: OnError = OnError.STOP,
    ) -> Stream[U]:
        """Calls the function with all records of a batch at once (1 to about 512), for NumPy, Arrow or Polars.

        With one output per record, in order, the result does not depend on how records are grouped. The output has
        no key. With ``sf.skip`` an error leaves out the whole batch.
        """
        build.check_function("map_batch", function)
        step = self._flow._builder.add(
            "map_batch",
            self._flow._builder.stateless_name("map_batch", function, name),
            [self._port],
            function,
            on_error=build.check_policy(on_error),
        )
        return Stream(self._flow, Port(step.id), build.element(build.returns(function)))

    # -- splitting and joining up ----------------------------------------------------------------------------------------

    def branch(
        self, *predicates: Callable[[T], object], name: str | None = None, on_error: OnError = OnError.STOP
    ) -> tuple[Stream[T], ...]:
        """Splits the stream: a record goes to the first predicate that is true for it.

        A record that none takes is an error; `sf.otherwise` as the last predicate takes the rest.

        Returns:
            One stream per predicate.
        """
        if not predicates:
            raise DefinitionError("branch needs a predicate", hint="Write a, b = stream.branch(is_a, sf.otherwise).")
        for predicate in predicates:
            build.check_function("branch", predicate)
        builder = self._flow._builder
        step = builder.add(
            "branch",
            builder.stateless_name("branch", None, name),
            [self._port],
            keyed=self._step.keyed,
            ports=len(predicates),
            predicates=predicates,
            on_error=build.check_policy(on_error),
        )
        return tuple(self._same(Port(step.id, out)) for out in range(len(predicates)))

    def split(
        self,
        function: Callable[[T], R],
        routes: Sequence[R],
        *,
        name: str | None = None,
        on_error: OnError = OnError.STOP,
    ) -> Mapping[R, Stream[T]]:
        """Splits the stream by a route that the function names for each record; an unknown route is an error.

        Args:
            function: ``record -> route``.
            routes: All routes there are.
            name: The step's name; default is the function's.
            on_error: What happens to a record with another route.

        Returns:
            One stream per route.
        """
        build.check_function("split", function)
        builder = self._flow._builder
        step = builder.add(
            "split",
            builder.stateless_name("split", function, name),
            [self._port],
            function,
            keyed=self._step.keyed,
            ports=len(routes),
            routes=tuple(routes),
            on_error=build.check_policy(on_error),
        )
        return {route: self._same(Port(step.id, out)) for out, route in enumerate(routes)}

    def merge(self, *others: Stream[T], name: str | None = None) -> Stream[T]:
        """Puts streams together, in the order in which their records entered the flow."""
        streams = (self, *others)
        if any(other._flow is not self._flow for other in others):
            raise DefinitionError("merge got a stream of another flow")
        builder = self._flow._builder
        keyed = all(stream._step.keyed for stream in streams)
        step = builder.add(
            "merge", builder.stateless_name("merge", None, name), [stream._port for stream in streams], keyed=keyed
        )
        return self._like(keyed, Port(step.id), self._type)  # type: ignore[no-any-return]

    # -- keys and state --------------------------------------------------------------------------------------------------

    def key_by(
        self, function: Callable[[T], K], /, *, name: str | None = None, on_error: OnError = OnError.STOP
    ) -> KeyedStream[K, T]:
        """Gives each record a key: str, int, bytes, UUID, date, datetime, Enum, or a tuple of them, all of one type.

        Annotate what the function returns if keys are Enums: their class is needed to restore them.
        """
        build.check_function("key_by", function)
        key_type = build.returns(function)
        builder = self._flow._builder
        step = builder.add(
            "key_by",
            builder.stateless_name("key_by", function, name),
            [self._port],
            function,
            keyed=True,
            key_type=key_type,
            context=build.wants_context(function),
            on_error=build.check_policy(on_error),
        )
        return KeyedStream(self._flow, Port(step.id), self._type, key_type)

    def dedup(
        self,
        by: Callable[[T], Hashable],
        *,
        within: Duration | None = None,
        name: str,
        on_error: OnError = OnError.STOP,
    ) -> Stream[T]:
        """Lets through the first record of each identity and drops the others.

        Args:
            by: ``record -> identity``, of a type that keys may have.
            within: How long an identity is remembered, counted from its first record; without it for ever, and
                state grows with every identity.
            name: Name under which the identities are stored.
            on_error: What happens when ``by`` raises.
        """
        build.check_function("dedup", by)
        ttl = None if within is None else duration_ms(within)
        step = self._flow._builder.add(
            "dedup",
            name,
            [self._port],
            by,
            keyed=self._step.keyed,
            state=StateSpec("value", bool, ttl_ms=ttl),
            key_type=build.returns(by),
            context=False,
            on_error=build.check_policy(on_error),
        )
        return self._same(Port(step.id))  # type: ignore[no-any-return]

    def batch(self, size: int, *, within: Duration, name: str, of: type[T] | None = None) -> Stream[list[T]]:
        """Gathers records into lists, per key on a keyed stream: full ones at once, others after ``within``.

        A list that is not full when a bounded input ends stays in the state for the next run.

        Args:
            size: Records in a full list.
            within: Longest time from a list's first record until it goes.
            name: Name under which waiting records are stored.
            of: Type of the records, where it cannot be told from annotations.
        """
        if size < 1:
            raise DefinitionError(f"batch {name!r} has size {size}", hint="Give a size of 1 or more.")
        keyed = self if isinstance(self, KeyedStream) else self.key_by(_one_key, name=f"{name}-all")
        collect, flush = batch_functions(size, within)
        kind = of if of is not None else self._type
        step = keyed._process_step(name, collect, StateSpec("list", Any if kind is None else kind), (), OnError.STOP)
        self._flow._builder.amend(step, timers={"within": flush}, verb="batch")
        return keyed._like(isinstance(self, KeyedStream), Port(step.id), list)  # type: ignore[no-any-return]

    # -- ends ------------------------------------------------------------------------------------------------------------

    def to(
        self,
        sink: SinkSpec[T],
        *,
        name: str | None = None,
        key: Callable[[T], Any] | None = None,
        headers: Callable[[T], Headers] | None = None,
        subject: Callable[[T], str] | None = None,
        partition: Callable[[T], int] | None = None,
        guarantee: Level | str | None = None,
        on_error: OnError = OnError.STOP,
    ) -> None:
        """Ends a path: writes the records to a sink.

        Args:
            sink: Where to.
            name: The sink's name in this flow; its progress is stored under it. Default is the spec's own.
            key: Gives a record's key; default is the stream's key.
            headers: Gives a record's headers.
            subject: Gives a record's subject or routing key, where the broker has one.
            partition: Gives a record's partition, where the broker has some.
            guarantee: What this path must keep, when it is less than the flow's.
            on_error: What happens to a record that cannot be encoded.

        Raises:
            DefinitionError: The path cannot keep the guarantee, or the name is taken.
        """
        if not isinstance(sink, SinkSpec):
            raise DefinitionError(f"{sink!r:.60} is not a sink", hint="Pass what a connector made, e.g. nats.stream(...).")
        self._flow._builder.add(
            SINK,
            name or sink.name,
            [self._port],
            keyed=self._step.keyed,
            spec=sink,
            sink_options=SinkOptions(key, headers, subject, partition),
            guarantee=None if guarantee is None else Level(guarantee),
            on_error=build.check_policy(on_error),
        )

    # -- helpers ---------------------------------------------------------------------------------------------------------

    def _verb(
        self, kind: str, function: Any, name: str | None, on_error: OnError, type_of: Callable[[Any], Any]
    ) -> Any:
        """Adds a step for a function, or returns the decorator that will."""
        if function is None:
            return lambda function: self._verb(kind, function, name, on_error, type_of)
        build.check_function(kind, function)
        builder = self._flow._builder
        step = builder.add(
            kind,
            builder.stateless_name(kind, function, name),
            [self._port],
            function,
            keyed=self._step.keyed,
            context=build.wants_context(function),
            on_error=build.check_policy(on_error),
        )
        return self._like(step.keyed, Port(step.id), type_of(function))

    def _same(self, port: Port) -> Any:
        return self._like(isinstance(self, KeyedStream), port, self._type)

    def _like(self, keyed: bool, port: Port, kind: Any) -> Any:
        """A stream of this flow; keyed by the keys of this one, if it has some."""
        return Stream(self._flow, port, kind)


def _one_key(record: object) -> str:
    return ""


class KeyedStream(Stream[T], Generic[K, T]):
    """A stream whose records have a key; steps on it keep state per key.

    map, filter, flat_map and inspect keep the key. Aggregations give ``(key, result)``.
    """

    def __init__(self, flow: Flow, port: Port, kind: Any = None, key_type: Any = None) -> None:
        super().__init__(flow, port, kind)
        self._key_type = key_type

    if TYPE_CHECKING:

        @overload
        def map(
            self, function: Callable[[T], U], /, *, name: str | None = None, on_error: OnError = OnError.STOP
        ) -> KeyedStream[K, U]: ...
        @overload
        def map(
            self,
            function: Callable[[Context[Any, Any], T], U],
            /,
            *,
            name: str | None = None,
            on_error: OnError = OnError.STOP,
        ) -> KeyedStream[K, U]: ...
        @overload
        def map(self, /, *, name: str | None = None, on_error: OnError = OnError.STOP) -> _KeyedMapping[K, T]: ...
        def map(self, function: Any = None, /, *, name: Any = None, on_error: OnError = OnError.STOP) -> Any: ...

        @overload
        def flat_map(
            self, function: Callable[[T], Iterable[U]], /, *, name: str | None = None, on_error: OnError = OnError.STOP
        ) -> KeyedStream[K, U]: ...
        @overload
        def flat_map(
            self,
            function: Callable[[Context[Any, Any], T], Iterable[U]],
            /,
            *,
            name: str | None = None,
            on_error: OnError = OnError.STOP,
        ) -> KeyedStream[K, U]: ...
        @overload
        def flat_map(
            self, /, *, name: str | None = None, on_error: OnError = OnError.STOP
        ) -> _KeyedFlatMapping[K, T]: ...
        def flat_map(self, function: Any = None, /, *, name: Any = None, on_error: OnError = OnError.STOP) -> Any: ...

        def filter(
            self,
            function: Callable[[T], object] | Callable[[Context[Any, Any], T], object],
            /,
            *,
            name: str | None = None,
            on_error: OnError = OnError.STOP,
        ) -> KeyedStream[K, T]: ...

        def inspect(
            self,
            function: Callable[[T], object] | Callable[[Context[Any, Any], T], object],
            /,
            *,
            name: str | None = None,
            on_error: OnError = OnError.STOP,
        ) -> KeyedStream[K, T]: ...

    def count(self, *, name: str) -> KeyedStream[K, tuple[K, int]]:
        """Counts the records of each key; gives ``(key, count)`` for every record."""
        spec = StateSpec("value", int, int)
        return self._fold("count", name, None, spec, OnError.STOP)  # type: ignore[no-any-return]

    def reduce(
        self,
        function: Callable[[T, T], T],
        *,
        name: str | None = None,
        of: type[T] | None = None,
        on_error: OnError = OnError.STOP,
    ) -> KeyedStream[K, tuple[K, T]]:
        """Combines each key's records: ``function(so_far, record)``; gives ``(key, combined)`` for every record.

        Args:
            function: Returns the new combined value; the first record of a key is taken as it is.
            name: Name under which the state is stored; default is the function's.
            of: Type of the records, where it cannot be told from annotations.
            on_error: What happens when it raises.
        """
        build.check_function("reduce", function)
        kind = of if of is not None else build.returns(function) or self._type
        spec = StateSpec("value", Any if kind is None else kind)
        step_name = build.stable_name("reduce", function, name)
        return self._fold("reduce", step_name, function, spec, on_error)  # type: ignore[no-any-return]

    @overload
    def aggregate(
        self,
        init: type[A] | Callable[[], A],
        add: Callable[[A, T], A],
        *,
        name: str | None = None,
        on_error: OnError = OnError.STOP,
    ) -> KeyedStream[K, tuple[K, A]]: ...
    @overload
    def aggregate(
        self,
        init: type[A] | Callable[[], A],
        add: Callable[[A, T], A],
        *,
        result: Callable[[A], R],
        name: str | None = None,
        on_error: OnError = OnError.STOP,
    ) -> KeyedStream[K, tuple[K, R]]: ...

    def aggregate(
        self,
        init: Any,
        add: Any,
        *,
        result: Any = None,
        name: str | None = None,
        on_error: OnError = OnError.STOP,
    ) -> Any:
        """Keeps an accumulator per key; gives ``(key, result)`` for every record.

        Args:
            init: Makes a new key's accumulator: a class or a function without arguments.
            add: ``(accumulator, record) -> accumulator``; may change it in place and return it.
            result: ``accumulator -> result``; default is the accumulator itself.
            name: Name under which the state is stored; default is ``add``'s.
            on_error: What happens when ``add`` or ``result`` raises.
        """
        build.check_function("aggregate", add)
        spec = state_spec(init, None, None)
        return self._fold("aggregate", build.stable_name("aggregate", add, name), add, spec, on_error, result=result)

    @overload
    def process(
        self,
        *,
        state: MapSpec[U, V],
        name: str | None = None,
        outputs: Sequence[Output[Any]] = (),
        on_error: OnError = OnError.STOP,
    ) -> _Processing[K, T, MapState[U, V]]: ...
    @overload
    def process(
        self,
        *,
        state: ListSpec[V],
        name: str | None = None,
        outputs: Sequence[Output[Any]] = (),
        on_error: OnError = OnError.STOP,
    ) -> _Processing[K, T, ListState[V]]: ...
    @overload
    def process(
        self,
        *,
        state: type[S] | Callable[[], S],
        name: str | None = None,
        ttl: Duration | None = None,
        migrate: Callable[[Any], S] | None = None,
        outputs: Sequence[Output[Any]] = (),
        on_error: OnError = OnError.STOP,
    ) -> _Processing[K, T, S]: ...

    def process(
        self,
        *,
        state: Any,
        name: str | None = None,
        ttl: Duration | None = None,
        migrate: Any = None,
        outputs: Sequence[Output[Any]] = (),
        on_error: OnError = OnError.STOP,
    ) -> Any:
        """Decorates a function ``(ctx, record) -> iterable or None`` that keeps state and timers per key.

        Args:
            state: A class or a function without arguments that makes a new key's state, or `map_state` or
                `list_state`. Change ``ctx.state`` in place, or assign it.
            name: Name under which the state is stored; default is the function's.
            ttl: State is gone this long after the key's last record.
            migrate: Turns an old state, as plain JSON, into the new type, when that has changed.
            outputs: Side outputs that the function may `Context.emit` to.
            on_error: What happens when it raises; in any case the call is atomic.
        """
        spec = state_spec(state, ttl, migrate)

        def decorate(function: Any) -> Process[K, Any, Any]:
            build.check_function("process", function)
            step_name = build.stable_name("process", function, name)
            step = self._process_step(step_name, function, spec, outputs, on_error)
            kind = build.element(build.returns(function))
            return Process(self._flow, Port(step.id), kind, self._key_type)

        return decorate

    def _process_step(
        self, name: str, function: Any, spec: StateSpec, outputs: Sequence[Output[Any]], on_error: OnError
    ) -> Step:
        return self._flow._builder.add(
            "process",
            name,
            [self._port],
            function,
            keyed=True,
            ports=1 + len(outputs),
            state=spec,
            key_type=self._key_type,
            timers={},
            outputs=tuple(output.name for output in outputs),
            context=True,
            on_error=build.check_policy(on_error),
        )

    def _fold(
        self, kind: str, name: str, function: Any, spec: StateSpec, on_error: OnError, result: Any = None
    ) -> Any:
        step = self._flow._builder.add(
            kind,
            name,
            [self._port],
            function,
            keyed=True,
            state=spec,
            key_type=self._key_type,
            result=result,
            on_error=build.check_policy(on_error),
        )
        return self._like(True, Port(step.id), tuple)

    def _like(self, keyed: bool, port: Port, kind: Any) -> Any:
        return KeyedStream(self._flow, port, kind, self._key_type) if keyed else Stream(self._flow, port, kind)


class Process(KeyedStream[K, T], Generic[K, S, T]):
    """The output of a `process` step; timer handlers and side outputs hang on it."""

    def on_timer(
        self, name: str
    ) -> Callable[[Callable[[Context[K, S]], Iterable[T] | None]], Callable[[Context[K, S]], Iterable[T] | None]]:
        """Decorates the handler of the timer ``name``: ``(ctx) -> iterable or None``."""

        def decorate(function: Any) -> Any:
            build.check_function("on_timer", function)
            timers = self._step.options["timers"]
            if name in timers:
                raise DefinitionError(f"timer {name!r} of step {self.name!r} has two handlers")
            self._flow._builder.amend(self._step, timers={**timers, build.check_name(name, "timer"): function})
            return function

        return decorate

    def output(self, output: Output[U]) -> KeyedStream[K, U]:
        """The stream of a side output.

        Raises:
            DefinitionError: The step does not name it.
        """
        names = self._step.options["outputs"]
        if output.name not in names:
            raise DefinitionError(
                f"step {self.name!r} has no output {output.name!r}", hint="Name it: process(..., outputs=[...])."
            )
        port = Port(self._port.step, names.index(output.name) + 1)
        return KeyedStream(self._flow, port, output.type, self._key_type)


class _Processing(Protocol[K, T_co, S]):
    """A decorator that makes a process step of a function."""

    def __call__(
        self, function: Callable[[Context[K, S], T_co], Iterable[U] | None], /
    ) -> Process[K, S, U]: ...
