"""A sink on a super stream: one publisher per partition, the numbers of all of them from one sequence."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import msgspec

from streamflow.batch import Chunk, Progress
from streamflow.connect.recovery import progress_at, unpublished
from streamflow.errors import Fenced, ProgressUnknown, RecordRejected, SinkAhead
from streamflow_rabbitmq.streams.frames import HASHED, NUMBERED, ROUTE
from streamflow_rabbitmq.streams.links import Links
from streamflow_rabbitmq.streams.publisher import Publisher
from streamflow_rabbitmq.streams.sink import BaseSink, Cursor, cursor_of


@dataclass(slots=True)
class _Batch:
    """Messages of one chunk for one partition."""

    ids: list[int] = field(default_factory=list)
    messages: list[bytes] = field(default_factory=list)


class SuperStreamSink(BaseSink):
    """Publishes to the partitions of a super stream, to which others may write as well.

    GUARANTEE: exactly-once, for ever. BOUND: the window of `Limits`, for each partition.

    A record goes to the partition of its key (as RabbitMQ's own clients choose it), the one that ``partition=`` names,
    or in turn by its number. In each partition the publisher has the fence name, and ids are the numbers of the whole
    sink: they rise, with gaps, and each partition drops what comes again. What is published is what lies below the
    first record that its own partition does not remember.

    **Partitions.** Where a record goes must not change between two attempts. So the sink keeps to the partitions that
    it found when it first started, in their order; those added later are used after
    ``streamflow reset --sink NAME --accept-head``.

    **Refused.** As for `StreamSink`; and ProgressUnknown, if a partition has gone away.
    """

    def __init__(self, *args: object, **more: object) -> None:
        super().__init__(*args, **more)  # type: ignore[arg-type]
        self._names: list[str] = []
        self._publishers: list[Publisher] = []

    async def recover(self, stored: Progress | None, pending: Sequence[Chunk]) -> Progress:
        links = self._opened()
        known = stored or Progress(0, 1)
        cursor = cursor_of(known)
        names = cursor.partitions or self._names
        await self._connect(links, names)
        lasts = [await each.last_id() for each in self._publishers]
        if stored is None:
            self._check_new(max(lasts))
        each = list(cursor.each) or [0] * len(names)
        for name, last, published in zip(names, lasts, each, strict=True):
            if last < published:
                raise self._lost(name, last, published)
        next_seq = await self._next_seq(known, pending, lasts, each)
        truth = progress_at(next_seq, known, pending)
        return Progress(truth.epoch, truth.next_seq, msgspec.json.encode(Cursor(max(each), names, each)))

    async def _find(self, links: Links) -> None:
        self._names = await links.partitions(self._settings.name)

    async def _connect(self, links: Links, names: list[str]) -> None:
        if not set(names) <= set(self._names):
            self._names = await links.partitions(self._settings.name, names)
        gone = sorted(set(names) - set(self._names))
        if gone:
            raise ProgressUnknown(
                f"{self._settings.describe()} at {self._rabbit} has no partition {', '.join(gone)} any more",
                hint="Bring it back, or start on the others with: streamflow reset --sink NAME --accept-head.",
            )
        limits = self._settings.limits
        self._publishers = [Publisher(await links.to(name), name, self._fence, limits) for name in names]
        for publisher in self._publishers:
            await publisher.declare()

    async def _next_seq(self, known: Progress, pending: Sequence[Chunk], lasts: list[int], each: list[int]) -> int:
        """The first number that its partition does not remember; ``each`` gets the last ones below it."""
        beyond = [last if last > published else 0 for last, published in zip(lasts, each, strict=True)]
        found: int | None = None
        seq = known.next_seq - 1
        async for seq, frame in self._pending(known.next_seq, pending):
            if found is not None and seq > max(beyond):
                break
            partition = self._route(seq, frame)
            if beyond[partition] < seq:
                found = found or seq
            elif found is None:
                each[partition] = seq
            if beyond[partition] == seq:
                beyond[partition] = -1
        self._check_all_known(beyond, seq)
        if found is not None:
            return found
        return max(pending[-1].end_seq if pending else 0, known.next_seq)

    async def _pending(self, start: int, pending: Sequence[Chunk]) -> AsyncIterator[tuple[int, bytes]]:
        """The frames from ``start`` on with their numbers, without those that were given up."""
        for chunk in pending:
            if chunk.end_seq <= start:
                continue
            first = max(start, chunk.first_seq)
            for seq, frame in enumerate(unpublished([await self._ctx.read(chunk)], first), first):
                if frame:
                    yield seq, frame

    def _check_all_known(self, beyond: list[int], seq: int) -> None:
        """Refuses numbers that a partition remembers and the outbox does not have for it."""
        for name, last in zip(self._names, beyond, strict=False):
            if last > seq:
                raise SinkAhead(
                    f"partition {name} holds records of this sink up to {last}, but this store published only up to "
                    f"{seq}",
                    hint="The store is an older copy. Use the newest, or: streamflow reset --sink NAME --accept-head.",
                )
            if last > 0:
                raise Fenced(
                    f"partition {name} holds other content under number {last} than this store",
                    hint="Another instance runs on a copy of this store. Stop one of the two.",
                )

    async def _publish(self, chunks: Sequence[Chunk], at: Progress) -> Progress:
        cursor = cursor_of(at)
        each = list(cursor.each)
        for chunk in chunks:
            first = max(chunk.first_seq, at.next_seq)
            if chunk is not chunks[0]:
                self._point("publish.part")
            for partition, batch in enumerate(self._batches(first, unpublished([chunk], first))):
                if batch.ids:
                    await self._publishers[partition].send(batch.ids, batch.messages)
                    each[partition] = batch.ids[-1]
        for publisher in self._publishers:
            await publisher.settled()
        end = max(at.next_seq, chunks[-1].end_seq)
        cursor = Cursor(max(each), cursor.partitions, each)
        return progress_at(end, at, chunks, msgspec.json.encode(cursor))

    def _batches(self, first: int, frames: list[bytes]) -> list[_Batch]:
        batches = [_Batch() for _ in self._publishers]
        self._check_sizes(first, frames)
        for seq, frame in enumerate(frames, first):
            if frame:
                batch = batches[self._route(seq, frame)]
                batch.ids.append(seq)
                batch.messages.append(frame[ROUTE.size :])
        return batches

    def _route(self, seq: int, frame: bytes) -> int:
        kind, number = ROUTE.unpack_from(frame)
        count = len(self._publishers)
        if kind == HASHED:
            return int(number) % count
        if kind == NUMBERED:
            if number >= count:
                raise RecordRejected(
                    seq,
                    f"record {seq} is for partition {number}; {self._settings.describe()} has {count} for this sink",
                    hint="Correct partition= of to(...).",
                )
            return int(number)
        return seq % count
