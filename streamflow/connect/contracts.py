"""What a connector must be: specs that a flow holds, and the sources and sinks that they open.

A spec is settings only: building one does no I/O and binds no event loop. `SourceSpec.source` and `SinkSpec.sink`
make a fresh, unopened connector each time the engine (re)opens it. A connector never touches the state store; the
engine never imports a broker client.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, Protocol, TypeVar, runtime_checkable

from streamflow.batch import Chunk, Fragment, Headers, Partition, Position, Progress, SourceBatch, Taken
from streamflow.codecs import Codec
from streamflow.graph import OnError
from streamflow.points import Point, no_point
from streamflow.trace import carried, is_traced

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)

Frames = Sequence[bytes]

MORE: Final = Position(sys.maxsize)
"""The end of a queue that holds more than it has handed out (`Source.ends`): nobody knows its position."""


class Level(StrEnum):
    """How often a record's effect can be seen, best first."""

    EXACTLY_ONCE = "exactly_once"
    EFFECTIVELY_ONCE = "effectively_once"
    AT_LEAST_ONCE = "at_least_once"
    AT_MOST_ONCE = "at_most_once"


@dataclass(frozen=True, slots=True)
class Guarantee:
    """What a connector can give, and why."""

    level: Level
    reason: str


@dataclass(frozen=True, slots=True)
class Probe:
    """What `probe` found, without fencing, declaring or moving anything.

    Args:
        ok: Whether a flow could start with it now.
        facts: What was seen, for people: ``{"server": "2.15.1", "messages": "120"}``.
        problem: What is wrong, in one sentence, when not ``ok``.
        hint: The way out, when not ``ok``.
    """

    ok: bool
    facts: Mapping[str, str] = field(default_factory=dict)
    problem: str = ""
    hint: str = ""


async def _pinned_nowhere(starts: Mapping[Partition, Position]) -> None:
    """What `SourceContext.pin` is where nothing is stored."""


def _at_any_time() -> bool:
    """What `SourceContext.may_acknowledge` is where no sink has to recover."""
    return True


@dataclass(frozen=True, slots=True)
class SourceContext:
    """What a source learns about where it runs.

    Args:
        flow: Name of the flow.
        source: Name of the source in the flow.
        shard: Number of the shard.
        incarnation: Id made together with the store; `reset` makes a new one.
        generation: Counts the openings of the store.
        seen: Committed message ids, for sources with ids: a delivery with one of them is acknowledged and dropped.
        message_bytes_max: Records above this size are refused before they are decoded.
        point: To be called at the crash points of a source, if it has some.
        leaves_out: Whether records that are refused are left out and counted by the engine. Then a source hands one
            that is too large over, whole or as its first ``message_bytes_max + 1`` bytes; else it may raise instead.
        pin: Commits where partitions start that `Source.open` did not know yet. To be awaited before a record of
            them is handed out: then a start that follows a crash gives them to `open`.
        may_acknowledge: Whether committed messages may be acknowledged yet: not before every sink has recovered once,
            for until then this may be an older copy of the state, which must not eat a queue before it is refused. To
            be asked before a message of ``seen`` is acknowledged; `Source.committed` is not called before.
    """

    flow: str
    source: str
    shard: int
    incarnation: str
    generation: int
    seen: Set[str] = frozenset()
    message_bytes_max: int = 8 * 1024 * 1024
    point: Point = no_point
    leaves_out: bool = False
    pin: Callable[[Mapping[Partition, Position]], Awaitable[None]] = _pinned_nowhere
    may_acknowledge: Callable[[], bool] = _at_any_time


async def _at_hand(chunk: Chunk) -> Chunk:
    """What `SinkContext.read` is where no chunk is at rest."""
    assert chunk.payload, f"chunk {chunk.first_seq} of sink {chunk.sink} is at rest"
    return chunk


@dataclass(frozen=True, slots=True)
class SinkContext:
    """What a sink learns about where it runs; `fence` names it for the broker.

    Its ``point`` is to be called at ``publish.part``, between two parts of a publish. ``read`` gives a chunk of
    ``pending`` with its payload, wherever that is.
    """

    flow: str
    sink: str
    shard: int
    incarnation: str
    generation: int
    point: Point = no_point
    read: Callable[[Chunk], Awaitable[Chunk]] = _at_hand

    @property
    def fence(self) -> str:
        """Name of this sink's guard at the broker: ``sf.<flow>.<incarnation>.<shard>.<sink>``."""
        return f"sf.{self.flow}.{self.incarnation}.{self.shard}.{self.sink}"


@dataclass(frozen=True, slots=True)
class SinkOptions:
    """What ``Stream.to`` adds to a sink spec; each function takes the record.

    Args:
        key: Gives the record's key; default is the stream's key.
        headers: Gives the record's headers.
        subject: Gives the subject or routing key, where the broker has one.
        partition: Gives the partition number, where the broker has some.
    """

    key: Callable[[Any], Any] | None = None
    headers: Callable[[Any], Headers] | None = None
    subject: Callable[[Any], str] | None = None
    partition: Callable[[Any], int] | None = None


def row_headers(options: SinkOptions, records: Fragment) -> Sequence[Headers | None] | None:
    """The headers of each row: what ``.to(headers=...)`` gives, and the trace context of the record it came from.

    A sink whose broker has headers writes them all; where the user gives a traceparent, that one counts.

    Returns:
        None if no row has any.

    Raises:
        TypeError: ``headers=`` gave something else than a mapping.
    """
    given = None if options.headers is None else [_mapping(options.headers(value)) for value in records.values]
    if records.origins is None or not records.batch.traced:
        return given
    found = [carried(records.batch.headers(origin)) for origin in records.origins]
    if given is None:
        return found if any(found) else None
    return [
        {**trace, **own} if trace and not is_traced([own]) else own for trace, own in zip(found, given, strict=True)
    ]


def _mapping(headers: Headers) -> Headers:
    if not isinstance(headers, Mapping):
        raise TypeError(f"headers= must return a mapping of names and texts, not {headers!r:.60}")
    return headers


class Connector(Protocol):
    """What sources and sinks share."""

    @property
    def guarantee(self) -> Guarantee: ...

    async def probe(self) -> Probe:
        """Looks whether a flow could start: reaches the broker, fences and declares nothing, moves no data.

        Must not raise for a broker that is down; it says so in the `Probe`.
        """
        ...

    async def close(self) -> None:
        """Lets go of everything; safe to call twice, and after a failed `open`."""
        ...


class Source(Connector, Protocol):
    """One opened source. Everything it reads is in order per partition.

    The engine calls `read` from one task; `committed`, `ends` and `pause` may run beside it.
    """

    async def open(self, ctx: SourceContext, resume: Mapping[Partition, Position]) -> Mapping[Partition, Position]:
        """Connects and resumes behind what was taken; a partition absent from ``resume`` starts as the spec says.

        Returns:
            Where each partition starts: as in ``resume``, or what "earliest" or "latest" means now. The engine
            commits new ones before it takes a record, so a later start resumes there. Empty for sources with ids.

        Raises:
            Unavailable: The broker cannot be reached.
            NotFound: The stream or file does not exist.
            RetentionGap, PositionAhead, SourceReplaced: The stored position no longer fits.
        """
        ...

    async def read(self) -> SourceBatch | None:
        """Waits for records; returns a batch, or None at the end of a bounded source.

        A batch has records, or moves a position on without any (``resume``), or says that its partition is at its end
        (``last``): a bounded source of several partitions says so of each that ends before the others.

        Cancellation-safe: a cancelled call loses nothing.

        Raises:
            Unavailable: The connection is lost; the engine closes and reopens the source at the last position taken.
        """
        ...

    async def ends(self) -> Mapping[Partition, Position | None]:
        """Asks the broker for its end now, per partition.

        That is the position at which a reader that is caught up would resume. A queue has no positions: its end is
        None if the broker, asked now, has nothing to hand out, and all that it did hand out was read; else `MORE`,
        also where it waits for acknowledgements first. A partition of which no record comes for long counts as idle
        only at its end, so a source that answers from memory lets windows close while the broker is away.

        Raises:
            Unavailable: The broker does not answer.
        """
        ...

    def pause(self, partitions: Set[Partition]) -> None:
        """Names the partitions whose read-ahead must not grow further; replaces the set named before."""
        ...

    async def committed(self, epoch: int, taken: Taken) -> None:
        """Tells the broker what is committed: acknowledges ids, reports positions. Best effort: may be lost."""
        ...


@runtime_checkable
class EpochBound(Protocol):
    """What a source may have besides: a bound on what it may leave unacknowledged, and so on an epoch."""

    @property
    def epoch_full(self) -> bool:
        """Whether so much was taken that the epoch should end as soon as the last commit is done."""
        ...


@runtime_checkable
class ProbesPositions(Connector, Protocol):
    """What a source may have besides: it looks whether what was committed still fits what the broker holds."""

    async def probe_behind(self, resume: Mapping[Partition, Position]) -> Probe:
        """Does what `Connector.probe` does, and what `Source.open` would find wrong with these positions.

        Args:
            resume: The committed positions.
        """
        ...


class Sink(Connector, Protocol):
    """One opened sink. `encode` runs on arrival; all else after the commit."""

    async def open(self, ctx: SinkContext) -> None:
        """Connects AND fences: from its return on, an older instance of the same sink cannot publish.

        Raises:
            Unavailable: The broker cannot be reached.
            NotFound: The stream or queue does not exist.
        """
        ...

    async def recover(self, stored: Progress | None, pending: Sequence[Chunk]) -> Progress:
        """Asks the broker what arrived.

        Args:
            stored: The progress in the last checkpoint; None for a sink that never published: take a baseline
                (the broker's head now), with ``next_seq`` 1.
            pending: Committed chunks not known to be published, in order. They may be more than fit in memory: many
                have no payload. Read the few whose frames are needed, one by one, with ``SinkContext.read``.

        Returns:
            The broker's truth; ``next_seq`` may lie inside ``pending`` or inside one of its chunks.

        Raises:
            SinkAhead: The broker holds records of this sink behind all of ``pending``.
            ForeignWriter: Somebody else's records stand where ours were expected.
            ProgressUnknown: The broker cannot tell.
        """
        ...

    def encode(self, records: Fragment) -> Frames:
        """Turns rows into frames: pure, one frame per row, at once, complete for `publish` (subject, headers ...).

        Headers, where the broker has some, are those of `row_headers`. A row without any has the same frame whatever
        other rows have.

        Raises:
            EncodeError: A value cannot be encoded or is larger than the broker takes.
        """
        ...

    async def publish(self, chunks: Sequence[Chunk], at: Progress) -> Progress:
        """Publishes a run of committed epochs: ordered, idempotent, durable on return.

        Frames below ``at.next_seq`` in the first chunk are already there and are left out.

        Raises:
            Unavailable: Unknown outcome or lost connection; the engine reopens the sink (fence, recover).
            Fenced: A newer instance has taken over.
            RecordRejected: The broker refuses one record for good.
        """
        ...


@runtime_checkable
class SourceSpec(Protocol[T]):
    """Settings of a source, held by a flow."""

    @property
    def name(self) -> str:
        """What the source is called in a flow that does not name it."""
        ...

    @property
    def codec(self) -> Codec[T] | None:
        """Decodes payloads; None where the source yields values."""
        ...

    @property
    def guarantee(self) -> Guarantee: ...

    def describe(self) -> str:
        """Says in a few words what is read, without secrets: ``nats stream PAY (payments.>)``."""
        ...

    def source(self) -> Source: ...


@runtime_checkable
class LossNoticing(Protocol):
    """What a sink may have besides: it notices a lost connection also while there is nothing to publish."""

    async def lost(self) -> None:
        """Waits until the opened sink must be opened again, whether or not anything is to be published.

        The engine cancels it when it closes the sink.

        Raises:
            Unavailable: It must be opened again.
        """
        ...


@runtime_checkable
class TakesNulls(Protocol):
    """What a source spec may offer besides: whether a payload that is missing (None) is the value None."""

    @property
    def nulls(self) -> bool: ...


def takes_nulls(spec: object) -> bool:
    """Whether records without a payload are values None; else they are refused as undecodable."""
    return isinstance(spec, TakesNulls) and spec.nulls


@runtime_checkable
class RowEncoding(Protocol):
    """What a sink spec may offer besides: frames made from the value alone, so that the step's loop encodes at once."""

    def row_encoder(self, options: SinkOptions) -> Callable[[Any], bytes] | None:
        """Returns a pure function from value to frame that equals `Sink.encode`; None if that needs more.

        The function raises ValueError or TypeError for what it refuses.
        """
        ...


EncodeLines = Callable[[Sequence[Any]], bytes]
"""Makes lines of values: the frame of each, and a newline."""


@runtime_checkable
class LineEncoding(Protocol):
    """What a sink spec that is `RowEncoding` may offer besides: frames of many rows by one call, where they are lines.

    A frame may have a newline in it all the same; that is noticed.
    """

    def line_encoder(self, options: SinkOptions) -> EncodeLines | None:
        """Returns a pure function from values to their frames, each followed by a newline; None if that needs more."""
        ...


def encoders(spec: object, options: SinkOptions, on_error: OnError, *, keyed: bool = False) -> dict[str, Any]:
    """What a sink's step holds to encode early, under the names of its options; as `row_encoder`."""
    row = row_encoder(spec, options, on_error, keyed=keyed)
    lines = spec.line_encoder(options) if row is not None and isinstance(spec, LineEncoding) else None
    return {"row_encoder": row, "line_encoder": lines}


def row_encoder(
    spec: object, options: SinkOptions, on_error: OnError, *, keyed: bool = False
) -> Callable[[Any], bytes] | None:
    """A sink's row encoder, where it has one and an error in it may stop the flow.

    Args:
        spec: The sink.
        options: What ``to`` added.
        on_error: The sink's error policy.
        keyed: Whether its rows carry keys: a spec that says ``writes_keys`` needs them for its frames.
    """
    if keyed and getattr(spec, "writes_keys", False):
        return None
    return spec.row_encoder(options) if isinstance(spec, RowEncoding) and on_error is OnError.STOP else None


@runtime_checkable
class SinkSpec(Protocol[T_contra]):
    """Settings of a sink, held by a flow."""

    @property
    def name(self) -> str:
        """What the sink is called in a flow that does not name it."""
        ...

    @property
    def target(self) -> str:
        """Where it writes, to find two sinks on one target that must have a single writer; empty if that is fine."""
        ...

    @property
    def sink_guarantee(self) -> Guarantee: ...

    def accepts(self, value: T_contra, /) -> None:
        """Never called: carries the type of what may be written, for type checkers."""
        ...

    def describe(self) -> str: ...

    def sink(self, options: SinkOptions) -> Sink: ...
