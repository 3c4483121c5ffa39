"""The log of a memory topic: the "broker" that outlives the sources and sinks opened on it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from streamflow.batch import Chunk, Partition, Position, SourceBatch, unpack_frames
from streamflow.connect.contracts import Frames
from streamflow.connect.memory_frames import Extras, by_partition, take_apart
from streamflow.errors import Fenced, NotFound, PositionAhead, RetentionGap, SourceReplaced, Unavailable

READ_RECORDS_MAX: Final = 2048

_NO_EXTRAS: Final = Extras()


@dataclass(slots=True)
class Fence:
    """What the topic knows about one sink: who may publish, and which sequence number comes next."""

    generation: int = 0
    holder: int = 0
    next_seq: int = 1


class PartitionLog:
    """The records of one partition, at offsets without a gap from ``first``.

    Published frames stay as they are until somebody looks: a sink that nobody reads costs next to nothing.

    Args:
        stored: Turns the bytes of a published value into what is kept.
    """

    def __init__(self, stored: Callable[[bytes], Any]) -> None:
        self.first = 0
        self.acknowledged: set[int] = set()
        self._stored = stored
        self._payloads: list[Any] = []
        self._extras: dict[int, Extras] = {}
        self._frames: list[bytes] = []
        self._packed: list[bytes] = []
        self._packed_count = 0

    @property
    def end(self) -> int:
        """The offset behind the last record."""
        return self.first + len(self._payloads) + len(self._frames) + self._packed_count

    @property
    def payloads(self) -> list[Any]:
        """What is kept of each record."""
        self._take_frames_apart()
        return self._payloads

    @property
    def extras(self) -> dict[int, Extras]:
        """What accompanies records, by offset."""
        self._take_frames_apart()
        return self._extras

    def publish(self, frames: Frames) -> None:
        """Adds a sink's records."""
        self._unpack()
        self._frames.extend(frames)

    def publish_packed(self, payload: bytes, count: int) -> None:
        """Adds a sink's records as they were packed; they are unpacked when somebody looks."""
        self._packed.append(payload)
        self._packed_count += count

    def _unpack(self) -> None:
        for payload in self._packed:
            self._frames.extend(unpack_frames(payload))
        self._packed, self._packed_count = [], 0

    def _take_frames_apart(self) -> None:
        self._unpack()
        if self._frames:
            values, extras = take_apart(self._frames, self.first + len(self._payloads))
            self._payloads += list(map(self._stored, values))
            self._extras.update(extras)
            self._frames = []

    def batch(self, partition: Partition, identity: str, offsets: range) -> SourceBatch:
        """Returns records with positions."""
        payloads = self.payloads[offsets.start - self.first : offsets.stop - self.first]
        positions = range(offsets.start + 1, offsets.stop + 1)
        return SourceBatch(partition, payloads, positions, None, identity, **self._columns(offsets))

    def batch_of_ids(self, partition: Partition, identity: str, offsets: Sequence[int]) -> SourceBatch:
        """Returns records with ids."""
        kept = self.payloads
        payloads = [kept[offset - self.first] for offset in offsets]
        ids = [record_id(identity, partition, offset) for offset in offsets]
        return SourceBatch(partition, payloads, None, ids, identity, **self._columns(offsets))

    def _columns(self, offsets: Sequence[int]) -> dict[str, Any]:
        extras = self.extras
        if not extras:
            return {}
        rows = [extras.get(offset, _NO_EXTRAS) for offset in offsets]
        columns: dict[str, Any] = {}
        if any(row.key is not None for row in rows):
            columns["keys"] = [row.key for row in rows]
        if any(row.headers is not None for row in rows):
            columns["headers"] = [row.headers for row in rows]
        if any(row.timestamp_ms is not None for row in rows):
            columns["timestamps_ms"] = [row.timestamp_ms or 0 for row in rows]
        return columns

    def drop_before(self, offset: int) -> None:
        """Drops the records in front of ``offset``."""
        kept_from = max(self.first, min(offset, self.end))
        del self.payloads[: kept_from - self.first]
        for gone in range(self.first, kept_from) if self.extras else ():
            self.extras.pop(gone, None)
        self.first = kept_from

    def drop_from(self, offset: int) -> None:
        """Drops the records from ``offset`` on."""
        for gone in range(offset, self.end) if self.extras else ():
            self.extras.pop(gone, None)
        del self.payloads[max(0, offset - self.first) :]

    def acknowledge(self, offsets: Iterable[int]) -> None:
        """Marks records as done and forgets those that no unacknowledged one precedes."""
        self.acknowledged.update(offset for offset in offsets if offset >= self.first)
        front = self.first
        while front in self.acknowledged:
            self.acknowledged.discard(front)
            front += 1
        self.drop_before(front)


class TopicLog:
    """Partitions, fences and faults of one memory topic; wakes whoever waits for a change.

    GUARANTEE: used from one thread at a time, it changes in whole records only. BOUND: the machine's memory.
    """

    def __init__(self, name: str, partitions: Sequence[Partition], stored: Callable[[bytes], Any]) -> None:
        self.name = name
        self.partitions: dict[Partition, PartitionLog] = {key: PartitionLog(stored) for key in partitions}
        self.fences: dict[str, Fence] = {}
        self.closed = False
        self.reachable = True
        self.acks_arrive = True
        self.faults: deque[tuple[BaseException, int | None]] = deque()
        self.refuses: Callable[[bytes], bool] | None = None
        self._stored = stored
        self._incarnation = 1
        self._waiting: list[asyncio.Future[None]] = []

    @property
    def identity(self) -> str:
        """Changes when the topic is replaced."""
        return str(self._incarnation)

    def partition(self, name: Partition) -> PartitionLog:
        """Finds a partition.

        Raises:
            NotFound: The topic has none of that name.
        """
        if name in self.partitions:
            return self.partitions[name]
        names = ", ".join(map(repr, self.partitions))
        raise NotFound(f"memory topic {self.name} has no partition {name!r}", hint=f"It has {names}.")

    def append(self, partition: Partition, payloads: Iterable[Any], extras: Extras | None = None) -> None:
        """Adds records to one partition and wakes the readers."""
        log = self.partition(partition)
        if extras is None:
            log.payloads.extend(payloads)
        else:
            for payload in payloads:
                log.extras[log.end] = extras
                log.payloads.append(payload)
        self.wake()

    @property
    def takes_packed(self) -> bool:
        """Whether records may come packed: there is one partition for them, and no fault is to let some through."""
        return len(self.partitions) == 1 and not self.faults and self.refuses is None

    def publish_packed(self, fence: Fence | None, chunks: Sequence[Chunk]) -> int:
        """Adds whole chunks of a sink and returns how many records they hold."""
        (log,) = self.partitions.values()
        for chunk in chunks:
            log.publish_packed(chunk.payload, chunk.count)
        count = sum(chunk.count for chunk in chunks)
        if fence is not None:
            fence.next_seq += count
        self.wake()
        return count

    def publish(self, fence: Fence | None, frames: Frames) -> None:
        """Adds a sink's records, each together with its sequence number.

        Args:
            fence: Where the sequence numbers are kept; None for a sink without.
            frames: The records, of which a fault may let only the first ones through.

        Raises:
            NotFound: A frame names a partition that the topic does not have; nothing is added then.
            Exception: The fault that `MemoryTopic.fail_next_publish` set, at its place.
        """
        error, after = self.faults.popleft() if self.faults else (None, None)
        stored = frames[:after]
        # an empty frame is a record that was given up: its number is used, and nothing is published
        parts = by_partition([frame for frame in stored if frame], next(iter(self.partitions)))
        for log, part in [(self.partition(name), part) for name, part in parts.items()]:
            log.publish(part)
        self.wake()
        if fence is not None:
            fence.next_seq += len(stored)
        if error is not None:
            raise error

    def check_reachable(self) -> None:
        """Raises Unavailable while the topic plays a broker that is down."""
        if not self.reachable:
            raise Unavailable(f"memory topic {self.name} is unreachable", hint="Set topic.unreachable = False.")

    def check_position(self, partition: Partition, at: Position) -> None:
        """Checks that a position still fits.

        Raises:
            RetentionGap, PositionAhead, SourceReplaced: It does not.
        """
        where = f"memory topic {self.name}" + (f", partition {partition!r}" if partition else "")
        if at.identity != self.identity or partition not in self.partitions:
            raise SourceReplaced(
                f"{where} is not the one that was read before (it was {at.identity!r}, is {self.identity!r})",
                hint="Reset the flow to read the new one from its start.",
            )
        log = self.partitions[partition]
        if at.at < log.first:
            raise RetentionGap(
                f"{where} starts at {log.first}, but {at.at} was to be read next",
                hint="Records are gone. Reset the flow to go on with what is left.",
            )
        if at.at > log.end:
            raise PositionAhead(
                f"{where} ends at {log.end}, but {at.at} was to be read next",
                hint="The topic lost records. Restore them, or reset the flow.",
            )

    def take_fence(self, name: str, generation: int) -> int:
        """Makes the caller the only one who may publish under a name, unless a newer generation is there.

        Returns:
            A token to show when publishing; 0, which never fits, for an older generation.
        """
        fence = self.fences.setdefault(name, Fence())
        if generation < fence.generation:
            return 0
        fence.generation = generation
        fence.holder += 1
        return fence.holder

    def held_fence(self, name: str, holder: int) -> Fence:
        """Returns the fence if the caller still holds it.

        Raises:
            Fenced: A newer instance has taken over.
        """
        fence = self.fences.get(name)
        if fence is None or fence.holder != holder:
            raise Fenced(
                f"a newer instance publishes to memory topic {self.name} as {name}",
                hint="Stop this instance, or the other one.",
            )
        return fence

    def acknowledge(self, ids: Iterable[str]) -> None:
        """Forgets the records with these ids; ids of a replaced topic are ignored."""
        offsets: dict[Partition, list[int]] = {}
        for text in ids:
            identity, partition, offset = parse_id(text)
            if identity == self.identity:
                offsets.setdefault(partition, []).append(offset)
        for partition, done in offsets.items():
            self.partition(partition).acknowledge(done)

    def replace(self) -> None:
        """Drops all records and fences, as if the topic was deleted and made again."""
        self._incarnation += 1
        self.partitions = {name: PartitionLog(self._stored) for name in self.partitions}
        self.fences = {}
        self.wake()

    def wake(self) -> None:
        """Lets every waiting reader look again."""
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            # A crashed engine leaves its futures behind, possibly on a loop that is closed by now.
            if not future.done() and not future.get_loop().is_closed():
                future.set_result(None)

    async def changed(self) -> None:
        """Waits until something happens to the topic."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        try:
            await future
        finally:
            if future in self._waiting:
                self._waiting.remove(future)

    def starts(self) -> Mapping[Partition, Position]:
        """The position of the first record of each partition."""
        return {name: Position(log.first, self.identity) for name, log in self.partitions.items()}

    def ends(self) -> Mapping[Partition, Position]:
        """The position behind the last record of each partition."""
        return {name: Position(log.end, self.identity) for name, log in self.partitions.items()}


def record_id(identity: str, partition: Partition, offset: int) -> str:
    """The id of a record, unique over the topic's life."""
    return f"{identity}/{offset}/{partition}"


def parse_id(text: str) -> tuple[str, Partition, int]:
    """Takes an id apart: identity, partition, offset."""
    identity, offset, partition = text.split("/", 2)
    return identity, partition, int(offset)
