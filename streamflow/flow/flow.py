"""Flow: the one object a user starts with."""

from __future__ import annotations

import datetime
import importlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Unpack, overload

from streamflow.clock import SystemClock
from streamflow.connect.contracts import Level, SourceSpec
from streamflow.errors import DefinitionError
from streamflow.flow import build
from streamflow.flow.ordering import check_ordering
from streamflow.flow.running import Running
from streamflow.flow.stream import Stream
from streamflow.flow.tables import Table, static_table
from streamflow.flow.timing import TimeOptions, event_time_of
from streamflow.graph import SOURCE, Graph, OnError, Port, Step
from streamflow.instrument import Instrument
from streamflow.operators.context import Message
from streamflow.plan import Plan, make_plan
from streamflow.plan.order import joint_orders
from streamflow.runtime.engine import Job
from streamflow.runtime.letters_source import DeadLetterLog
from streamflow.runtime.resources import BreakerSpec, Resource
from streamflow.runtime.settings import Settings
from streamflow.state.sqlite import SqliteStore
from streamflow.state.store import StoredLetter

if TYPE_CHECKING:
    from streamflow.testing.harness import FlowTest

T = TypeVar("T")
K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class PathGuarantee:
    """What the path from one source to one sink gives, and what it was asked for.

    Args:
        source: Name of the source.
        sink: Name of the sink.
        given: The weaker of what source and sink give.
        asked: What the flow, or the path itself, asks for.
        reasons: Why, for source and sink.
        weaker: Which of the two reasons it is that gives no more: 0 the source's, 1 the sink's.
    """

    source: str
    sink: str
    given: Level
    asked: Level
    reasons: tuple[str, str]
    weaker: int = 1

    @property
    def kept(self) -> bool:
        order = list(Level)
        return order.index(self.given) <= order.index(self.asked)


class Flow:
    """A dataflow: sources, steps and sinks under one name, with one state file.

    GUARANTEE: importing a module that builds a flow does no I/O and binds no event loop. Results are exactly-once
    unless the flow or a path asks for less; a graph that cannot keep what is asked is refused.

    Args:
        name: Name of the flow; brokers know its sinks by it.
        state: The state file; default is ``<name>.db`` in the working directory.
        guarantee: What every path must keep.
        settings: Limits and paces.
        drop: Names of removed stateful steps, sources and sinks whose stored state may be deleted.
        renamed: Names that the store knows, and what they are called now.
    """

    def __init__(
        self,
        name: str,
        *,
        state: str | Path | None = None,
        guarantee: Level | str = Level.EXACTLY_ONCE,
        settings: Settings | None = None,
        drop: Iterable[str] = (),
        renamed: Mapping[str, str] | None = None,
    ) -> None:
        self._builder = build.GraphBuilder(name)
        self.name = name
        self.state_path = Path(state if state is not None else f"{name}.db")
        self.settings = settings or Settings()
        try:
            self.guarantee = Level(guarantee)
        except ValueError:
            levels = ", ".join(repr(str(level)) for level in Level)
            raise DefinitionError(f"{guarantee!r} is no guarantee", hint=f"Use one of {levels}.") from None
        self.resources: list[Resource[Any]] = []
        self._letters: Stream[StoredLetter] | None = None
        self.drop = frozenset(drop)
        self.renamed = dict(renamed or {})

    def __repr__(self) -> str:
        return f"<Flow {self.name}>"

    @overload
    def source(
        self,
        spec: SourceSpec[T],
        *,
        name: str | None = None,
        on_error: OnError = OnError.STOP,
        time: Callable[[T], datetime.datetime | int] | Literal["broker"] | None = None,
        **options: Unpack[TimeOptions],
    ) -> Stream[T]: ...
    @overload
    def source(
        self,
        spec: SourceSpec[T],
        *,
        message: Literal[True],
        name: str | None = None,
        on_error: OnError = OnError.STOP,
        time: Callable[[Message[T]], datetime.datetime | int] | Literal["broker"] | None = None,
        **options: Unpack[TimeOptions],
    ) -> Stream[Message[T]]: ...

    def source(
        self,
        spec: Any,
        *,
        message: bool = False,
        name: str | None = None,
        on_error: OnError = OnError.STOP,
        time: Any = None,
        **options: Unpack[TimeOptions],
    ) -> Any:
        """Begins a path: the records of a source.

        Args:
            spec: What to read, e.g. ``nats.stream("orders", value=Order)``.
            message: Whether to give `Message` objects, with key, headers, position and timestamp.
            name: The source's name in this flow; its position is stored under it. Default is the spec's own.
            on_error: What happens to a record that cannot be decoded, or has no event time that can be used.
            time: Gives a record's event time, as an aware datetime or in whole milliseconds since 1970; "broker" takes
                the broker's timestamp. Windows and event-time timers need it.
            **options: How late records may be, when a partition is not waited for, and in what order records enter
                the flow: see `TimeOptions`.

        Raises:
            DefinitionError: It is no source, or an option makes no sense.
        """
        if not isinstance(spec, SourceSpec):
            raise DefinitionError(
                f"{spec!r:.60} is not a source", hint="Pass what a connector made, e.g. sf.lines(...)."
            )
        called, order = name or spec.name, options.get("order")
        step = self._builder.add(
            SOURCE,
            called,
            [],
            spec=spec,
            message=message,
            on_error=build.check_policy(on_error),
            event_time=event_time_of(called, time, options),
            ordering=check_ordering(order, options.get("hold_max"), options.get("max_drift")),
        )
        if order is not None:
            joint_orders(self._builder.graph())
        kind = getattr(spec.codec, "kind", None) or (str if getattr(spec.codec, "name", "") == "str" else None)
        return Stream(self, Port(step.id), Message if message else kind)

    @overload
    def table(
        self,
        load: Callable[[], Mapping[K, V]] | Callable[[], Awaitable[Mapping[K, V]]],
        *,
        name: str | None = None,
        of: type[V] | None = None,
        max_keys: int | None = None,
    ) -> Table[K, V]: ...
    @overload
    def table(
        self,
        load: Callable[[], Awaitable[Iterable[V]]],
        *,
        key: Callable[[V], K],
        name: str | None = None,
        of: type[V] | None = None,
        max_keys: int | None = None,
    ) -> Table[K, V]: ...
    @overload
    def table(
        self,
        load: Callable[[], Iterable[V]],
        *,
        key: Callable[[V], K],
        name: str | None = None,
        of: type[V] | None = None,
        max_keys: int | None = None,
    ) -> Table[K, V]: ...
    @overload
    def table(
        self,
        load: Path,
        *,
        key: Callable[[V], K],
        of: type[V],
        name: str | None = None,
        max_keys: int | None = None,
    ) -> Table[K, V]: ...

    def table(
        self, load: Any, *, key: Any = None, name: str | None = None, of: Any = None, max_keys: int | None = None
    ) -> Any:
        """A table with content of its own, loaded at each start, before any record is taken.

        What changed since the last start enters like records do, and is stored with the epoch that takes it in; what
        changes while the flow runs is seen at its next start. For content that changes more often, keep a changelog
        in a topic: ``stream.key_by(...).to_table(...)``.

        Args:
            load: A file of JSON lines, or a function, plain (called in a thread) or async, that gives rows or a
                mapping. Resources are open when it is called.
            key: Gives a row's key; not for mappings.
            name: Name under which the entries are stored; default is the function's or the file's.
            of: Type of the values, where annotations do not tell it.
            max_keys: Most keys; more are an error.
        """
        return static_table(self, load, key, name, of, max_keys)

    @overload
    def resource(
        self,
        factory: Callable[[], AbstractAsyncContextManager[T]],
        *,
        name: str | None = None,
        health: Callable[[T], object] | None = None,
        breaker: BreakerSpec | None = None,
    ) -> Resource[T]: ...
    @overload
    def resource(
        self,
        factory: Callable[[], Awaitable[T]],
        *,
        name: str | None = None,
        health: Callable[[T], object] | None = None,
        breaker: BreakerSpec | None = None,
    ) -> Resource[T]: ...
    @overload
    def resource(
        self,
        factory: Callable[[], T],
        *,
        name: str | None = None,
        health: Callable[[T], object] | None = None,
        breaker: BreakerSpec | None = None,
    ) -> Resource[T]: ...

    def resource(
        self, factory: Any, *, name: str | None = None, health: Any = None, breaker: BreakerSpec | None = None
    ) -> Any:
        """A client or pool for steps: opened on the flow's event loop before its sources, closed when it stops.

        Calling the resource inside a step gives what was opened; ``async with resource.use()`` counts failures too.

        Args:
            factory: Makes it: an async context manager, something to await, or an object with ``aclose``.
            name: Its name, for messages.
            health: Gets what was opened, and raises if that does not work; asked by ``run.health()``.
            breaker: When to leave it alone: ``sf.circuit_breaker(...)``.
        """
        build.check_callable("resource", factory)
        called = name or build.function_name(factory) or f"resource-{len(self.resources) + 1}"
        found: Resource[Any] = Resource(called, factory, health, breaker)
        self.resources.append(found)
        return found

    @property
    def dead_letters(self) -> Stream[StoredLetter]:
        """The records that ``on_error=sf.dead_letter`` puts aside, as a stream: each letter once, behind its commit.

        ``flow.dead_letters.to(sink)`` sends them on; in the store they stay until they are dropped or taken in again.
        What comes behind this stream cannot have dead letters itself.
        """
        if self._letters is None:
            spec = DeadLetterLog()
            step = self._builder.add(
                SOURCE, spec.name, [], spec=spec, message=False, on_error=OnError.STOP, event_time=None
            )
            self._letters = Stream(self, Port(step.id), StoredLetter)
        return self._letters

    # -- what it is ----------------------------------------------------------------------------------------------------

    def graph(self) -> Graph:
        """The graph, validated.

        Raises:
            DefinitionError: It cannot run.
        """
        return self._builder.graph()

    def plan(self) -> Plan:
        """The fused plan of the graph."""
        return make_plan(self.graph())

    def guarantees(self) -> list[PathGuarantee]:
        """What each path gives, with the reasons."""
        found = []
        for source, sink in self.graph().paths():
            given = (source.options["spec"].guarantee, sink.options["spec"].sink_guarantee)
            ranks = [list(Level).index(part.level) for part in given]
            weaker = 0 if ranks[0] > ranks[1] else 1
            asked = sink.options["guarantee"] or self.guarantee
            reasons = (given[0].reason, given[1].reason)
            found.append(PathGuarantee(source.name, sink.name, given[weaker].level, asked, reasons, weaker))
        return found

    def check_guarantees(self) -> None:
        """Refuses paths that cannot keep what is asked of them.

        Raises:
            DefinitionError: Naming the path, the reason and the way out.
        """
        for path in self.guarantees():
            if not path.kept:
                why = path.reasons[path.weaker]
                raise DefinitionError(
                    f"the path {path.source} -> {path.sink} gives {path.given}, not {path.asked}: {why}",
                    hint=f'Accept it with .to(..., guarantee="{path.given}"), or use a sink that gives more.',
                )

    def step(self, name: str) -> Step:
        """A step by its name."""
        return self._builder.step(f"step:{name}")

    # -- running -------------------------------------------------------------------------------------------------------

    def job(self, instrument: Instrument | None = None, *, accept_missing: bool = False) -> Job:
        """What the engine runs: the plan and an unopened store."""
        self.check_guarantees()
        return Job(
            self.plan(),
            SqliteStore(self.state_path),
            self.settings,
            SystemClock(),
            instrument or Instrument(),
            self.drop,
            self.renamed,
            accept_missing,
            watch=True,
            resources=self.resources,
        )

    @asynccontextmanager
    async def running(
        self, instrument: Instrument | None = None, *, accept_missing: bool = False
    ) -> AsyncIterator[Running]:
        """Runs the flow beside the body of ``async with``; ends it cleanly at the end of the body.

        The body starts once the flow is processing, and is cancelled if the flow dies; its error is raised then.
        No signal handler and no logging set-up is touched.
        """
        self.check_guarantees()
        run = Running(self.name, lambda: self.job(instrument, accept_missing=accept_missing))
        await run.start()
        run.guard()
        try:
            yield run
        except BaseException as error:
            await run.finish(error)
            raise
        else:
            await run.finish(None)

    async def run(self, instrument: Instrument | None = None, *, accept_missing: bool = False) -> None:
        """Runs the flow until its sources end; for ever if they do not.

        Cancelling it drains, commits and closes; cancelling it again aborts to the last commit.
        """
        async with self.running(instrument, accept_missing=accept_missing) as run:
            await run.wait()

    def test(self) -> AbstractAsyncContextManager[FlowTest]:
        """Runs the flow on memory connectors and a virtual clock, with the real engine and store.

        See `streamflow.testing.harness.FlowTest`.
        """
        harness = importlib.import_module("streamflow.testing.harness")
        return harness.FlowTest(self)  # type: ignore[no-any-return]
