"""Streams: the typed verbs with which a user writes a flow."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

from streamflow.clock import Duration
from streamflow.connect.contracts import Level, SinkSpec, encoders
from streamflow.errors import DefinitionError
from streamflow.flow import build
from streamflow.flow.addressing import Addressing, sink_options
from streamflow.flow.executing import ExecutingVerbs
from streamflow.flow.mapping import MappingVerbs
from streamflow.flow.ordering import Order, check_order
from streamflow.flow.state import OF_HINT, batch_functions
from streamflow.flow.tables import BroadcastVerbs
from streamflow.flow.thinning import ThinningVerbs
from streamflow.graph import SINK, OnError, Port, Step
from streamflow.operators.bind import StateSpec
from streamflow.plan.order import joint_orders
from streamflow.policy import Policy

if TYPE_CHECKING:
    from streamflow.flow.flow import Flow
    from streamflow.flow.keyed import KeyedStream

T = TypeVar("T")
U = TypeVar("U")
K = TypeVar("K")
R = TypeVar("R")

_KEYED_VERBS = ("process", "count", "reduce", "aggregate", "agg", "window", "to_table", "join", "join_asof")


class Stream(MappingVerbs[T], ExecutingVerbs[T], ThinningVerbs[T], BroadcastVerbs[T]):
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

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            if name in _KEYED_VERBS:
                raise DefinitionError(
                    f"{name} keeps state per key, and stream {self.name!r} has no keys",
                    hint=f"Give it keys first: stream.key_by(...).{name}(...).",
                )
            raise AttributeError(f"a stream has no verb {name!r}")

    # -- splitting and joining up -----------------------------------------------------------------

    def branch(
        self, *predicates: Callable[[T], object], name: str | None = None, on_error: Policy = OnError.STOP
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
            predicates=tuple(build.retrying(predicate, on_error)[0] for predicate in predicates),
            **build.retrying(predicates[0], on_error)[1],
        )
        return tuple(self._same(Port(step.id, out)) for out in range(len(predicates)))

    def split(
        self,
        function: Callable[[T], R],
        routes: Sequence[R],
        *,
        name: str | None = None,
        on_error: Policy = OnError.STOP,
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
        call, policy = build.retrying(function, on_error)
        builder = self._flow._builder
        step = builder.add(
            "split",
            builder.stateless_name("split", function, name),
            [self._port],
            call,
            keyed=self._step.keyed,
            ports=len(routes),
            routes=tuple(routes),
            **policy,
        )
        return {route: self._same(Port(step.id, out)) for out, route in enumerate(routes)}

    def merge(self, *others: Stream[T], order: Order = None, name: str | None = None) -> Stream[T]:
        """Puts streams together, in the order in which their records entered the flow.

        Args:
            *others: The other streams.
            order: "time" lets the records of all sources upstream enter the flow in one order of event time, as
                ``source(..., order="time")`` does for one. Nothing but steps of plain functions without state may lie
                between.
            name: The step's name.
        """
        streams = (self, *others)
        if any(other._flow is not self._flow for other in others):
            raise DefinitionError("merge got a stream of another flow")
        builder = self._flow._builder
        keyed = all(stream._step.keyed for stream in streams)
        key_types = {getattr(stream, "_key_type", None) for stream in streams} - {None}
        if keyed and len(key_types) > 1:
            raise DefinitionError(
                f"merge got streams with keys of different types: {', '.join(sorted(map(str, key_types)))}",
                hint="Give them keys of one type, or merge them before key_by.",
            )
        step = builder.add(
            "merge",
            builder.stateless_name("merge", None, name),
            [stream._port for stream in streams],
            keyed=keyed,
            ordered=check_order(order),
        )
        if order is not None:
            joint_orders(builder.graph())
        return self._like(keyed, Port(step.id), self._type)  # type: ignore[no-any-return]

    # -- keys and state ---------------------------------------------------------------------------

    def key_by(
        self, function: Callable[[T], K], /, *, name: str | None = None, on_error: Policy = OnError.STOP
    ) -> KeyedStream[K, T]:
        """Gives each record a key: str, int, bytes, UUID, date, datetime, Enum, or a tuple of them, all of one type.

        Annotate what the function returns if keys are Enums: their class is needed to restore them.
        """
        build.check_function("key_by", function)
        call, options = build.retrying(function, on_error)
        from streamflow.flow.keyed import KeyedStream

        key_type = build.returns(function)
        builder = self._flow._builder
        step = builder.add(
            "key_by",
            builder.stateless_name("key_by", function, name),
            [self._port],
            call,
            keyed=True,
            key_type=key_type,
            context=build.wants_context(function),
            **options,
        )
        return KeyedStream(self._flow, Port(step.id), self._type, key_type)

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
        from streamflow.flow.keyed import KeyedStream

        keyed = self if isinstance(self, KeyedStream) else self.key_by(_one_key, name=f"{name}-all")
        collect, flush = batch_functions(size, within)
        kind = of if of is not None else self._type
        spec = StateSpec("list", Any if kind is None else kind, hint=OF_HINT)
        step = keyed._process_step(name, collect, spec, (), OnError.STOP)
        self._flow._builder.amend(step, timers={"within": flush}, verb="batch")
        return keyed._like(isinstance(self, KeyedStream), Port(step.id), list)  # type: ignore[no-any-return]

    # -- ends -------------------------------------------------------------------------------------

    def to(
        self,
        sink: SinkSpec[T],
        *,
        name: str | None = None,
        guarantee: Level | str | None = None,
        on_error: OnError = OnError.STOP,
        **addressing: Unpack[Addressing[T]],
    ) -> None:
        """Ends a path: writes the records to a sink.

        Args:
            sink: Where to.
            name: The sink's name in this flow; its progress is stored under it. Default is the spec's own.
            guarantee: What this path must keep, when it is less than the flow's.
            on_error: What happens to a record that cannot be encoded, or that the broker refuses for good.
            **addressing: ``key=``, ``headers=``, ``subject=`` and ``partition=``, functions of the record: see
                `Addressing`.

        Raises:
            DefinitionError: The path cannot keep the guarantee, the name is taken, or there is no such option.
        """
        if not isinstance(sink, SinkSpec):
            raise DefinitionError(
                f"{sink!r:.60} is not a sink", hint="Pass what a connector made, e.g. nats.stream(...)."
            )
        options = sink_options(name or sink.name, addressing)
        self._flow._builder.add(
            SINK,
            name or sink.name,
            [self._port],
            keyed=self._step.keyed,
            spec=sink,
            sink_options=options,
            **encoders(sink, options, build.check_policy(on_error), keyed=self._step.keyed),
            guarantee=None if guarantee is None else Level(guarantee),
            on_error=build.check_policy(on_error),
        )

    # -- helpers ----------------------------------------------------------------------------------

    def _loose(self, port: Port, kind: Any) -> Any:
        """A stream of this flow without keys."""
        return Stream(self._flow, port, kind)

    def _same(self, port: Port) -> Any:
        return self._like(self._step.keyed, port, self._type)

    def _like(self, keyed: bool, port: Port, kind: Any) -> Any:
        """A stream of this flow; keyed by the keys of this one, if it has some."""
        return Stream(self._flow, port, kind)


def _one_key(record: object) -> str:
    return ""
