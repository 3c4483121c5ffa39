"""Memory topics: a broker inside the process, for tests, simulation and first steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, Literal, TypeVar, cast, overload

import msgspec

from streamflow.batch import Headers, Partition
from streamflow.codecs import Codec, codec_for, unprepared
from streamflow.codecs.models import encode_json, encode_json_lines
from streamflow.connect.contracts import EncodeLines, Guarantee, Level, Sink, SinkOptions, Source
from streamflow.connect.memory_frames import BARE, Extras, take_apart
from streamflow.connect.memory_log import TopicLog
from streamflow.connect.memory_sink import MemorySink, MemorySinkSettings
from streamflow.connect.memory_source import MemorySource
from streamflow.errors import DefinitionError

T = TypeVar("T")

Start = Literal["earliest", "latest"]

_BY_POSITION: Final = Guarantee(Level.EXACTLY_ONCE, "the topic is read again from the positions in the checkpoint")
_BY_ID: Final = Guarantee(
    Level.EXACTLY_ONCE, "ids of taken records are in the checkpoint; a record is acknowledged only after it"
)
_BY_TRUTH: Final = Guarantee(
    Level.EXACTLY_ONCE, "the topic keeps the next sequence number together with the records, behind a fence"
)
_BLIND: Final = Guarantee(Level.AT_LEAST_ONCE, "a blind topic cannot tell what arrived, so a crash publishes again")

_decode_untyped = msgspec.json.Decoder().decode


@dataclass(frozen=True, slots=True)
class MemoryRecord(Generic[T]):
    """A record as a consumer of the topic sees it.

    Args:
        value: The value, decoded.
        partition: Name of its partition.
        offset: Its place in the partition, from 0.
        key: The key as bytes, or None.
        headers: The headers, or None.
        timestamp_ms: The time given to `MemoryTopic.send`, or None.
    """

    value: T
    partition: Partition
    offset: int
    key: bytes | None = None
    headers: Headers | None = None
    timestamp_ms: int | None = None


class MemoryTopic(Generic[T]):
    """A topic in memory, source and sink at once; its records outlive the flows that run over it.

    GUARANTEE: exactly-once both ways unless ``blind``. BOUND: keeps every record until it is truncated (with
    ``ids``: acknowledged). Use it from one thread. Its sinks keep a key where ``.to(key=...)`` gives
    one, and in `Flow.test` the stream's own key otherwise.

    Args:
        name: Name for messages and for people.
        value: Type or codec of the values. Without it, values are kept as they are; what a sink publishes
            then goes through untyped JSON and comes back as dict, list, str, int, float, bool or None.
        partitions: Names of its partitions; sinks write to the first unless told otherwise.
        ids: Whether it behaves as a queue: records carry ids instead of positions, are forgotten once
            acknowledged, and until then are delivered again to each source that is opened.
        blind: Whether its sink works without knowing what arrived, like a broker that cannot be asked.
        start: Where a source begins that has never read from it.
    """

    @overload
    def __init__(
        self: MemoryTopic[Any],
        name: str,
        *,
        value: None = None,
        partitions: Sequence[Partition] = ("",),
        ids: bool = False,
        blind: bool = False,
        start: Start = "earliest",
    ) -> None: ...

    @overload
    def __init__(
        self,
        name: str,
        *,
        value: type[T] | Codec[T],
        partitions: Sequence[Partition] = ("",),
        ids: bool = False,
        blind: bool = False,
        start: Start = "earliest",
    ) -> None: ...

    def __init__(
        self,
        name: str,
        *,
        value: type[T] | Codec[T] | None = None,
        partitions: Sequence[Partition] = ("",),
        ids: bool = False,
        blind: bool = False,
        start: Start = "earliest",
    ) -> None:
        if start not in ("earliest", "latest"):
            raise DefinitionError(f"memory topic {name}: start={start!r}", hint='Write start="earliest" or "latest".')
        if isinstance(partitions, str) or not partitions or len(set(partitions)) != len(partitions):
            raise DefinitionError(
                f"memory topic {name} has no, or twice the same, partition: {partitions!r}",
                hint='Pass a sequence of different names, such as ("a", "b").',
            )
        self.name = name
        self.writes_keys = False
        """Whether its sinks keep the stream's own key: that costs as much as encoding a small value."""
        self._codec: Codec[T] | None = None if value is None else codec_for(value)
        self._ids = ids
        self._blind = blind
        self._latest = start == "latest"
        self._log = TopicLog(name, partitions, _decode_untyped if value is None else _as_it_is)

    def __repr__(self) -> str:
        return f"MemoryTopic({self.name!r})"

    # What a flow asks of it.

    @property
    def codec(self) -> Codec[T] | None:
        """Decodes what the source reads; None where values are kept as they are."""
        return self._codec

    @property
    def guarantee(self) -> Guarantee:
        """What its source gives."""
        return _BY_ID if self._ids else _BY_POSITION

    @property
    def sink_guarantee(self) -> Guarantee:
        """What its sinks give."""
        return _BLIND if self._blind else _BY_TRUTH

    @property
    def target(self) -> str:
        """Empty: any number of sinks may write to one topic, each behind its own fence."""
        return ""

    def accepts(self, value: T, /) -> None:
        """Carries the type of what may be written, for type checkers."""

    def describe(self) -> str:
        """Says what it is, for people."""
        return f"memory topic {self.name}"

    def source(self) -> Source:
        """Makes a source, not yet opened."""
        return MemorySource(self._log, self.guarantee, ids=self._ids, latest=self._latest and not self._ids)

    def sink(self, options: SinkOptions) -> Sink:
        """Makes a sink, not yet opened."""
        codec = self._codec
        encode = encode_json if codec is None else codec.encode
        mark = BARE if self.row_encoder(SinkOptions()) is None else b""
        settings = MemorySinkSettings(
            self._log, encode, self.sink_guarantee, self._blind, options, mark, self.writes_keys
        )
        return MemorySink(settings)

    def row_encoder(self, options: SinkOptions) -> Callable[[T], bytes] | None:
        """JSON of the value is a frame by itself, where nothing is to be kept beside it."""
        if options != SinkOptions():
            return None
        if self._codec is None:
            return encode_json
        return self._codec.encode if self._codec.name == "json" else None

    def line_encoder(self, options: SinkOptions) -> EncodeLines | None:
        """JSON has no newline in it."""
        return encode_json_lines if self.row_encoder(options) is encode_json else None

    # What its other producers and consumers do.

    def send(
        self,
        value: T,
        partition: Partition = "",
        *,
        key: bytes | None = None,
        headers: Headers | None = None,
        timestamp_ms: int | None = None,
    ) -> None:
        """Appends a record, as a producer outside of the flow would.

        Raises:
            ValueError: The codec refuses the value, or the input is closed.
            NotFound: There is no such partition.
        """
        payload = value if self._codec is None else self._codec.encode(value)
        self._append(partition, [payload], Extras(key, headers, timestamp_ms))

    def send_all(self, values: Iterable[T], partition: Partition = "") -> None:
        """Appends many records without key, headers or timestamp."""
        codec = self._codec
        self._append(partition, values if codec is None else map(codec.encode, values), None)

    def send_bytes(self, payload: bytes, partition: Partition = "") -> None:
        """Appends bytes as they are, also such that the codec cannot decode."""
        self._append(partition, [payload], None)

    def send_all_bytes(self, payloads: Iterable[bytes], partition: Partition = "") -> None:
        """`send_bytes` for many payloads."""
        self._append(partition, payloads, None)

    def close_input(self) -> None:
        """Says that nothing will be sent any more: sources end behind the last record."""
        self._log.closed = True
        self._log.wake()

    @property
    def records(self) -> list[MemoryRecord[T]]:
        """What the topic holds, sent and published, partition by partition in their order."""
        found: list[MemoryRecord[T]] = []
        for name, part in self._log.partitions.items():
            for offset, payload in enumerate(part.payloads, part.first):
                extras = part.extras.get(offset, Extras())
                found.append(MemoryRecord(self._decoded(payload), name, offset, *extras))
        return found

    @property
    def values(self) -> list[T]:
        """The values of `records`."""
        return [self._decoded(payload) for part in self._log.partitions.values() for payload in part.payloads]

    def empty_copy(self) -> MemoryTopic[T]:
        """Makes another topic with the same settings and no records; its codec looks nothing up."""
        copy: MemoryTopic[Any] = MemoryTopic(
            self.name,
            value=None if self._codec is None else unprepared(self._codec),
            partitions=tuple(self._log.partitions),
            ids=self._ids,
            blind=self._blind,
            start="latest" if self._latest else "earliest",
        )
        copy.writes_keys = self.writes_keys
        copy._log.refuses = self._log.refuses
        return copy

    def __len__(self) -> int:
        """How many records there are; decodes nothing."""
        return sum(part.end - part.first for part in self._log.partitions.values())

    # What may go wrong with a broker.

    @property
    def unreachable(self) -> bool:
        """Whether it plays a broker that is down: opening, reading and publishing raise Unavailable."""
        return not self._log.reachable

    @unreachable.setter
    def unreachable(self, down: bool) -> None:
        self._log.reachable = not down
        self._log.wake()

    @property
    def lose_acks(self) -> bool:
        """Whether acknowledgements get lost on their way (queue mode)."""
        return not self._log.acks_arrive

    @lose_acks.setter
    def lose_acks(self, lost: bool) -> None:
        self._log.acks_arrive = not lost

    def fail_next_publish(self, error: BaseException, *, after: int | None = 0) -> None:
        """Makes one publish fail; called again, the one after it too.

        Args:
            error: What it raises.
            after: How many records it stores before; None for all of them, which is a lost acknowledgement.
        """
        self._log.faults.append((error, after))

    def refuse(self, refused: Callable[[T], bool] | None) -> None:
        """Refuses records for good, as a broker that finds them too large; None refuses none any more."""
        if refused is None:
            self._log.refuses = None
            return

        def refuses(frame: bytes) -> bool:
            (payload,), _ = take_apart([frame], 0)
            return refused(self._decoded(payload))

        self._log.refuses = refuses

    def mend(self) -> None:
        """Forgets what `fail_next_publish` has planned."""
        self._log.faults.clear()

    def truncate_before(self, offset: int, partition: Partition = "") -> None:
        """Drops the records in front of an offset, as retention does."""
        self._log.partition(partition).drop_before(offset)
        self._log.wake()

    def truncate_from(self, offset: int, partition: Partition = "") -> None:
        """Drops the records from an offset on, as a broker that came back with less data."""
        self._log.partition(partition).drop_from(offset)
        self._log.wake()

    def replace(self) -> None:
        """Drops all records and everything known about sinks, as if the topic was deleted and made again."""
        self._log.replace()

    def _append(self, partition: Partition, payloads: Iterable[Any], extras: Extras | None) -> None:
        if self._log.closed:
            raise ValueError(f"the input of memory topic {self.name} is closed")
        extras = None if extras == Extras() else extras
        self._log.append(partition, payloads, extras)

    def _decoded(self, payload: Any) -> T:
        return cast("T", payload) if self._codec is None else self._codec.decode(payload)


def _as_it_is(payload: bytes) -> bytes:
    return payload
