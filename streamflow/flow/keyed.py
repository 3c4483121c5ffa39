"""Keyed streams: state, timers and aggregations per key."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, Unpack, overload

from streamflow.clock import Duration
from streamflow.flow import build
from streamflow.flow.awaiting import ProcessOptions, process_limits
from streamflow.flow.executing import KeyedExecutingVerbs
from streamflow.flow.joins import JoinVerbs
from streamflow.flow.keyed_mapping import KeyedMappingVerbs
from streamflow.flow.ordering import Order
from streamflow.flow.state import AGG_HINT, OF_HINT, ListSpec, MapSpec, check_bound, state_spec
from streamflow.flow.stream import Stream
from streamflow.flow.tables import TableVerbs, named_tables
from streamflow.graph import OnError, Port, Step
from streamflow.operators.aggregator import Aggregator
from streamflow.operators.bind import StateSpec
from streamflow.operators.context import Output
from streamflow.operators.sketches import SketchCodec
from streamflow.operators.window_kinds import WindowKind
from streamflow.policy import CallLimits, Policy
from streamflow.state.collections import ListState, MapState

if TYPE_CHECKING:
    from streamflow.flow.decorators import Processing
    from streamflow.flow.flow import Flow
    from streamflow.flow.process import Process
    from streamflow.flow.windows import WindowedStream

T = TypeVar("T")
U = TypeVar("U")
V = TypeVar("V")
K = TypeVar("K")
S = TypeVar("S")
A = TypeVar("A")
R = TypeVar("R")


class KeyedStream(
    JoinVerbs[K, T],
    TableVerbs[K, T],
    KeyedMappingVerbs[K, T],
    KeyedExecutingVerbs[K, T],
    Stream[T],
    Generic[K, T],
):
    """A stream whose records have a key; steps on it keep state per key.

    map, filter, flat_map and inspect keep the key. Aggregations give ``(key, result)``.
    """

    def __init__(self, flow: Flow, port: Port, kind: Any = None, key_type: Any = None) -> None:
        super().__init__(flow, port, kind)
        self._key_type = key_type

    if TYPE_CHECKING:

        def branch(
            self, *predicates: Callable[[T], object], name: str | None = None, on_error: Policy = OnError.STOP
        ) -> tuple[KeyedStream[K, T], ...]: ...

        def split(
            self,
            function: Callable[[T], R],
            routes: Sequence[R],
            *,
            name: str | None = None,
            on_error: Policy = OnError.STOP,
        ) -> Mapping[R, KeyedStream[K, T]]: ...

        @overload
        def merge(
            self, *others: KeyedStream[K, T], order: Order = ..., name: str | None = ...
        ) -> KeyedStream[K, T]: ...
        @overload
        def merge(self, *others: Stream[T], order: Order = None, name: str | None = None) -> Stream[T]: ...
        def merge(self, *others: Any, order: Order = None, name: str | None = None) -> Any: ...

        def dedup(
            self,
            by: Callable[[T], Hashable],
            *,
            within: Duration | None = None,
            time: Literal["processing", "event"] = "processing",
            name: str,
            max_keys: int | None = None,
            on_error: OnError = OnError.STOP,
        ) -> KeyedStream[K, T]: ...

        @overload
        def sample(self, *, fraction: float, name: str | None = None) -> KeyedStream[K, T]: ...
        @overload
        def sample(self, *, every: int, name: str, max_keys: int | None = None) -> KeyedStream[K, T]: ...
        def sample(self, **how: Any) -> Any: ...

        def batch(
            self, size: int, *, within: Duration, name: str, of: type[T] | None = None
        ) -> KeyedStream[K, list[T]]: ...

    def count(
        self, *, name: str, max_keys: int | None = None, on_error: Policy = OnError.STOP
    ) -> KeyedStream[K, tuple[K, int]]:
        """Counts the records of each key; gives ``(key, count)`` for every record.

        Args:
            name: Name under which the counts are stored.
            max_keys: Most keys; a record of one more is an error of the step.
            on_error: What happens to such a record.
        """
        spec = StateSpec("value", int, int, keys_max=check_bound("max_keys", max_keys))
        return self._fold("count", name, None, spec, on_error)  # type: ignore[no-any-return]

    def reduce(
        self,
        function: Callable[[T, T], T],
        *,
        name: str | None = None,
        of: type[T] | None = None,
        max_keys: int | None = None,
        on_error: Policy = OnError.STOP,
    ) -> KeyedStream[K, tuple[K, T]]:
        """Combines each key's records: ``function(so_far, record)``; gives ``(key, combined)`` for every record.

        Args:
            function: Returns the new combined value; the first record of a key is taken as it is.
            name: Name under which the state is stored; default is the function's.
            of: Type of the records, where it cannot be told from annotations.
            max_keys: Most keys; a record of one more is an error of the step.
            on_error: What happens when it raises.
        """
        build.check_function("reduce", function)
        kind = of if of is not None else build.returns(function) or self._type
        keys_max = check_bound("max_keys", max_keys)
        spec = StateSpec("value", Any if kind is None else kind, keys_max=keys_max, hint=OF_HINT)
        step_name = build.stable_name("reduce", function, name)
        return self._fold("reduce", step_name, function, spec, on_error)  # type: ignore[no-any-return]

    @overload
    def aggregate(
        self,
        init: type[A] | Callable[[], A],
        add: Callable[[A, T], A],
        *,
        name: str | None = None,
        max_keys: int | None = None,
        on_error: Policy = OnError.STOP,
    ) -> KeyedStream[K, tuple[K, A]]: ...
    @overload
    def aggregate(
        self,
        init: type[A] | Callable[[], A],
        add: Callable[[A, T], A],
        *,
        result: Callable[[A], R],
        name: str | None = None,
        max_keys: int | None = None,
        on_error: Policy = OnError.STOP,
    ) -> KeyedStream[K, tuple[K, R]]: ...

    def aggregate(
        self,
        init: Any,
        add: Any,
        *,
        result: Any = None,
        name: str | None = None,
        max_keys: int | None = None,
        on_error: Policy = OnError.STOP,
    ) -> Any:
        """Keeps an accumulator per key; gives ``(key, result)`` for every record.

        Args:
            init: Makes a new key's accumulator: a class or a function without arguments.
            add: ``(accumulator, record) -> accumulator``; may change it in place and return it.
            result: ``accumulator -> result``; default is the accumulator itself.
            name: Name under which the state is stored; default is ``add``'s.
            max_keys: Most keys; a record of one more is an error of the step.
            on_error: What happens when ``add`` or ``result`` raises.
        """
        build.check_function("aggregate", add)
        spec = replace(state_spec(init, None, None), keys_max=check_bound("max_keys", max_keys))
        return self._fold("aggregate", build.stable_name("aggregate", add, name), add, spec, on_error, result=result)

    @overload
    def agg(
        self,
        aggregator: Aggregator[T, Any, R],
        /,
        *,
        name: str,
        max_keys: int | None = None,
        on_error: OnError = OnError.STOP,
    ) -> KeyedStream[K, tuple[K, R]]: ...
    @overload
    def agg(
        self,
        /,
        *,
        name: str,
        max_keys: int | None = None,
        on_error: OnError = OnError.STOP,
        **named: Aggregator[T, Any, Any],
    ) -> KeyedStream[K, tuple[K, dict[str, Any]]]: ...

    def agg(
        self,
        one: Any = None,
        /,
        *,
        name: str,
        max_keys: int | None = None,
        on_error: OnError = OnError.STOP,
        **named: Any,
    ) -> Any:
        """Computes one aggregator, or several at once, over all records of each key; gives ``(key, result)`` for each.

        Args:
            one: An aggregator, such as ``sf.mean(amount)``.
            name: Name under which the accumulators are stored.
            max_keys: Most keys; a record of one more is an error of the step.
            on_error: What happens when a function of an aggregator raises.
            **named: Aggregators by name; the result is a dict: ``agg(name="stats", n=sf.count(), ...)``.
        """
        from streamflow.flow.windows import one_of

        found = one_of(one, named, self._type)
        codec = SketchCodec(found.type) if found.codec is not None else None
        keys_max = check_bound("max_keys", max_keys)
        spec = StateSpec("value", found.type, found.init, codec=codec, keys_max=keys_max, hint=AGG_HINT)
        return self._fold("aggregate", name, found.add, spec, on_error, result=found.result)

    def window(
        self,
        kind: WindowKind,
        *,
        emit: Literal["final", "updates"] = "final",
        allowed_lateness: Duration = "0s",
        early: int | Duration | None = None,
    ) -> WindowedStream[K, T]:
        """Cuts the stream into windows of event time: ``.window(sf.tumbling("1m")).count(name="per_minute")``.

        A window gives its result once, when the watermark has passed it; those that close together by (end, key).

        Args:
            kind: `tumbling`, `sliding`, `session`, `count_window` or `global_window`.
            emit: "final" gives a result at the close, "updates" the result so far with every record only.
            allowed_lateness: A window that has told takes late records for so long, and tells again with each.
            early: Gives the result so far besides: at every so many records of a window, or after so much event time
                from its start if records came; of sliding windows each tells by itself.
        """
        from streamflow.flow.windows import WindowedStream, WindowOptions

        return WindowedStream(self, kind, WindowOptions(emit, allowed_lateness, early))

    @overload
    def process(
        self,
        *,
        state: MapSpec[U, V],
        name: str | None = None,
        max_keys: int | None = None,
        on_error: Policy = OnError.STOP,
        **options: Unpack[ProcessOptions],
    ) -> Processing[K, T, MapState[U, V]]: ...
    @overload
    def process(
        self,
        *,
        state: ListSpec[V],
        name: str | None = None,
        max_keys: int | None = None,
        on_error: Policy = OnError.STOP,
        **options: Unpack[ProcessOptions],
    ) -> Processing[K, T, ListState[V]]: ...
    @overload
    def process(
        self,
        *,
        state: type[S] | Callable[[], S],
        name: str | None = None,
        ttl: Duration | None = None,
        migrate: Callable[[Any], S] | None = None,
        max_keys: int | None = None,
        on_error: Policy = OnError.STOP,
        **options: Unpack[ProcessOptions],
    ) -> Processing[K, T, S]: ...

    def process(
        self,
        *,
        state: Any,
        name: str | None = None,
        ttl: Duration | None = None,
        migrate: Any = None,
        max_keys: int | None = None,
        on_error: Policy = OnError.STOP,
        **options: Unpack[ProcessOptions],
    ) -> Any:
        """Decorates a function ``(ctx, record) -> iterable or None`` that keeps state and timers per key.

        An async function, or an async generator, holds its key until it returns; calls of other keys go on.

        Args:
            state: A class or a function without arguments that makes a new key's state, or `map_state` or
                `list_state`. Change ``ctx.state`` in place, or assign it.
            name: Name under which the state is stored; default is the function's.
            ttl: State is gone this long after the key's last record.
            migrate: Turns an old state, as plain JSON, into the new type, when that has changed.
            max_keys: Most keys with state; a record of one more is an error of the step. Keys whose ttl is over do
                not count.
            on_error: What happens when it raises; in any case the call is atomic.
            **options: ``outputs=``, ``tables=``, and the bounds of an async function's calls: see `ProcessOptions`.
        """
        outputs, tables = options.pop("outputs", ()), options.pop("tables", ())
        spec = replace(state_spec(state, ttl, migrate), keys_max=check_bound("max_keys", max_keys))

        from streamflow.flow.process import Process

        def decorate(function: Any) -> Process[K, Any, Any]:
            build.check_callable("process", function)
            step_name = build.stable_name("process", function, name)
            bounds = process_limits(step_name, function, options)
            reads = named_tables(self._flow, step_name, function, tables)
            step = self._process_step(step_name, function, spec, outputs, on_error, bounds, reads=reads)
            kind = build.element(build.returns(function))
            return Process(self._flow, Port(step.id), kind, self._key_type)

        return decorate

    def _process_step(
        self,
        name: str,
        function: Any,
        spec: StateSpec,
        outputs: Sequence[Output[Any]],
        on_error: Policy,
        limits: CallLimits | None = None,
        **more: Any,
    ) -> Step:
        if limits is not None:
            more |= {"limits": limits, "verb": "process"}
        return self._flow._builder.add(
            "process" if limits is None else "async_process",
            name,
            [self._port],
            function,
            keyed=True,
            ports=1 + len(outputs),
            state=spec,
            key_type=self._key_type,
            timers={},
            event_timers={},
            outputs=tuple(output.name for output in outputs),
            context=True,
            **build.policy_options(on_error, waits=limits is not None),
            **more,
        )

    def _fold(self, kind: str, name: str, function: Any, spec: StateSpec, on_error: Policy, result: Any = None) -> Any:
        step = self._flow._builder.add(
            kind,
            name,
            [self._port],
            function,
            keyed=True,
            state=spec,
            key_type=self._key_type,
            result=result,
            **build.policy_options(on_error, waits=False),
        )
        return self._like(True, Port(step.id), tuple)

    def _like(self, keyed: bool, port: Port, kind: Any) -> Any:
        return KeyedStream(self._flow, port, kind, self._key_type) if keyed else Stream(self._flow, port, kind)
