"""Windowed streams: what users write behind `KeyedStream.window`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, TypeVar, overload

from streamflow.clock import Duration, duration_ms
from streamflow.codecs import codec_for
from streamflow.errors import DefinitionError
from streamflow.flow import build
from streamflow.flow.keyed import KeyedStream
from streamflow.flow.state import AGG_HINT, OF_HINT, check_bound
from streamflow.graph import OnError, Port
from streamflow.operators.aggregator import Aggregator
from streamflow.operators.aggregators import add_one, aggregator, count, reduce, several
from streamflow.operators.bind import StateSpec
from streamflow.operators.sketches import SketchCodec
from streamflow.operators.window_forms import entry_type
from streamflow.operators.window_kinds import GlobalWindow, Session, Sliding, Tumbling, WindowKind
from streamflow.operators.windows import Windowed
from streamflow.state.panes import PaneTable

if TYPE_CHECKING:
    from streamflow.flow.flow import Flow

T = TypeVar("T")
K = TypeVar("K")
A = TypeVar("A")
R = TypeVar("R")

Emit = Literal["final", "updates"]

_HINTS: Final = {"agg": AGG_HINT, "reduce": OF_HINT}


@dataclass(frozen=True, slots=True)
class WindowOptions:
    """When windows give what: see `KeyedStream.window`."""

    emit: Emit = "final"
    allowed_lateness: Duration = "0s"
    early: int | Duration | None = None

    @property
    def early_records(self) -> int | None:
        """After how many records a window tells of itself, each time."""
        return check_bound("early", self.early) if isinstance(self.early, int) else None

    @property
    def early_us(self) -> int | None:
        """After how much event time it does so."""
        if self.early is None or isinstance(self.early, int):
            return None
        early_us = duration_ms(self.early) * 1000
        if early_us <= 0:
            raise DefinitionError(f"early={self.early!r}", hint="Give a number of records or a duration above 0.")
        return early_us

    def check(self, kind: WindowKind) -> None:
        """Refuses what makes no sense together.

        Raises:
            DefinitionError: Naming the way out.
        """
        if self.emit not in ("final", "updates"):
            raise DefinitionError(f"emit={self.emit!r} of a window", hint='Write emit="final" or emit="updates".')
        if duration_ms(self.allowed_lateness) and not kind.timed:
            raise DefinitionError(
                "allowed_lateness= is for windows that go by event time",
                hint="Wait longer at the source instead: flow.source(..., lateness=...).",
            )
        if self.early is not None and self.emit == "updates":
            raise DefinitionError(
                f'early={self.early!r} beside emit="updates", which tells of every record',
                hint='Leave out one of them; with emit="final" there is a result at the close.',
            )
        if self.early_records is None and self.early_us is not None and not kind.timed:
            raise DefinitionError(
                f"early={self.early!r} goes by event time, and {kind} does not",
                hint="Give a number of records: early=100.",
            )
        if isinstance(kind, GlobalWindow) and self.early is None and self.emit == "final":
            raise DefinitionError(
                "a global window never ends, so it would give nothing", hint='Add early=100 or emit="updates".'
            )


class WindowResult(KeyedStream[K, Windowed[K, R]], Generic[K, T, R]):
    """What windows give: a `Windowed` per window, as the stream's record, under the window's key."""

    def __init__(self, flow: Flow, port: Port, kind: Any, key_type: Any, record_type: Any) -> None:
        super().__init__(flow, port, kind, key_type)
        self._record_type = record_type

    @property
    def late(self) -> KeyedStream[K, T]:
        """The records that came too late for every window that could hold them."""
        return KeyedStream(self._flow, Port(self._port.step, 1), self._record_type, self._key_type)


class WindowedStream(Generic[K, T]):
    """A keyed stream cut into windows; say what to compute in each."""

    def __init__(self, stream: KeyedStream[K, T], kind: WindowKind, options: WindowOptions) -> None:
        options.check(kind)
        self._stream = stream
        self._kind = kind
        self._options = options

    def __repr__(self) -> str:
        return f"<windows {self._kind} of {self._stream!r}>"

    def count(
        self, *, name: str, max_keys: int | None = None, on_error: OnError = OnError.STOP
    ) -> WindowResult[K, T, int]:
        """Counts the records of each key and window."""
        return self._step("count", count(), name, max_keys, on_error)  # type: ignore[no-any-return]

    def reduce(
        self,
        function: Callable[[T, T], T],
        *,
        name: str | None = None,
        of: type[T] | None = None,
        max_keys: int | None = None,
        on_error: OnError = OnError.STOP,
    ) -> WindowResult[K, T, T]:
        """Combines each key's and window's records: ``function(so_far, record)``; see `streamflow.reduce`."""
        build.check_function("reduce", function)
        kind = of if of is not None else build.returns(function) or self._stream._type
        typed: Any = Any if kind is None else kind
        found = reduce(function, kind=typed)
        return self._step("reduce", found, build.stable_name("reduce", function, name), max_keys, on_error)  # type: ignore[no-any-return]

    def aggregate(  # noqa: PLR0913 - one call a user writes; each keyword stands alone
        self,
        init: type[A] | Callable[[], A],
        add: Callable[[A, T], A],
        merge: Callable[[A, A], A],
        result: Callable[[A], R] | None = None,
        *,
        name: str | None = None,
        max_keys: int | None = None,
        on_error: OnError = OnError.STOP,
    ) -> WindowResult[K, T, R]:
        """Keeps an accumulator of your own per key and window; see `streamflow.aggregator`."""
        build.check_function("aggregate", add)
        found = aggregator(init, add, merge, result)
        return self._step("aggregate", found, build.stable_name("aggregate", add, name), max_keys, on_error)  # type: ignore[no-any-return]

    @overload
    def agg(
        self,
        aggregator: Aggregator[T, Any, R],
        /,
        *,
        name: str,
        max_keys: int | None = None,
        on_error: OnError = OnError.STOP,
    ) -> WindowResult[K, T, R]: ...
    @overload
    def agg(
        self,
        /,
        *,
        name: str,
        max_keys: int | None = None,
        on_error: OnError = OnError.STOP,
        **named: Aggregator[T, Any, Any],
    ) -> WindowResult[K, T, dict[str, Any]]: ...

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
        """Computes one aggregator, or several at once: ``agg(name="stats", n=sf.count(), total=sf.sum(amount))``.

        Args:
            one: An aggregator; its result is the window's value.
            name: Name under which the accumulators are stored.
            max_keys: Most keys with an open window; a record of one more is an error of the step.
            on_error: What happens when a function of an aggregator raises.
            **named: Aggregators by name; the window's value is a dict of their results.
        """
        return self._step("agg", one_of(one, named, self._stream._type), name, max_keys, on_error)

    def _step(
        self, verb: str, found: Aggregator[Any, Any, Any], name: str, max_keys: int | None, on_error: OnError
    ) -> Any:
        stream, kind, options = self._stream, self._kind, self._options
        held, init = entry_type(kind, found, early=options.early is not None)
        codec = SketchCodec(held) if found.codec is not None else None
        if codec is None:
            codec_for(held)
        keys_max = check_bound("max_keys", max_keys)
        spec = StateSpec(
            "map", held, init, codec=codec, sub_type=Any, keys_max=keys_max, form=PaneTable, hint=_HINTS.get(verb, "")
        )
        step = stream._flow._builder.add(
            "window",
            name,
            [stream._port],
            keyed=True,
            ports=2,
            window=kind,
            aggregator=found,
            emit=options.emit,
            allowed_us=duration_ms(options.allowed_lateness) * 1000,
            early=options.early_records,
            early_us=options.early_us,
            pane=_pane(kind) if options.emit == "final" and options.early is None else None,
            gap_us=kind.gap_us
            if isinstance(kind, Session) and options.emit == "final" and options.early is None
            else None,
            counts=found.add is add_one,
            state=spec,
            key_type=stream._key_type,
            verb=verb,
            on_error=build.check_policy(on_error),
        )
        return WindowResult(stream._flow, Port(step.id), Windowed, stream._key_type, stream._type)


def one_of(one: Any, named: dict[str, Any], record: Any) -> Aggregator[Any, Any, Any]:
    """The aggregator that a call of ``agg`` means, over records of a type.

    Raises:
        DefinitionError: It names none, or both one and several.
    """
    if (one is None) == (not named):
        raise DefinitionError("agg takes one aggregator, or several by name", hint="Write agg(sf.count(), name=...).")
    for found in (one, *named.values()):
        if found is not None and not isinstance(found, Aggregator):
            raise DefinitionError(f"{found!r:.60} is no aggregator", hint="Use sf.count(), sf.sum(...), ...")
    return several({name: each.over(record) for name, each in named.items()}) if one is None else one.over(record)


def _pane(kind: WindowKind) -> tuple[int, int] | None:
    """Offset and size of the panes that records are put into by the loop itself."""
    if isinstance(kind, Tumbling):
        return kind.offset_us, kind.size_us
    if isinstance(kind, Sliding):
        return kind.offset_us % kind.pane_us, kind.pane_us
    return None
