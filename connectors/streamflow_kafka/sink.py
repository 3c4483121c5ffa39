"""The Kafka sink: a run of epochs and the marker that tells of it become visible in one transaction."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Any, Final

import msgspec

from streamflow.batch import Chunk, Fragment, Progress, split_table, unpack_frames
from streamflow.codecs import Codec
from streamflow.connect.contracts import Frames, Guarantee, Probe, SinkContext, SinkOptions
from streamflow.connect.recovery import progress_at, unpublished
from streamflow.errors import ConnectorError, Fenced, NotFound, ProgressUnknown, RecordRejected, SinkAhead, Unavailable
from streamflow_kafka.client import Cluster
from streamflow_kafka.frames import FrameEncoder
from streamflow_kafka.marker import Marker, linked, read_marker, this_process
from streamflow_kafka.metadata import TopicInfo
from streamflow_kafka.outgoing import Outgoing
from streamflow_kafka.repair import Repair
from streamflow_kafka.settings import Kafka
from streamflow_kafka.starts import SETTLE_SECONDS, find_topics
from streamflow_kafka.tail import next_seq_in_tail, topic_ends, topic_settings
from streamflow_kafka.topic import TopicSettings
from streamflow_kafka.transactions import Refused, Transactions

RECORD_OVERHEAD_BYTES: Final = 61 + 40
"""A batch's header, and what a record needs beside its own bytes."""
ABORT_SECONDS: Final = 1.0
TRANSACTION_BYTES_MAX: Final = 16 * 1024 * 1024
"""More than this is published in several transactions; a chunk is never split."""


class Cursor(msgspec.Struct, frozen=True, omit_defaults=True):
    """The broker's mark in a stored `Progress`.

    Args:
        topic: Id of the topic, which tells it from a later one of the same name.
        ends: Per partition an offset behind the last record of this sink.
        link: Stands for all frames published so far, made by `linked`.
    """

    topic: str
    ends: list[int]
    link: str = ""


class KafkaSink:
    """Publishes to a topic that others may write to as well.

    GUARANTEE: exactly-once for consumers that read committed records. BOUND: one transaction at a time, of at most
    `TRANSACTION_BYTES_MAX` or one chunk; five requests on their way to each broker.

    A run of epochs goes out in one transaction together with a marker: the offset of a group called like the fence,
    which says what comes next (see `marker`). So the records of a run land once or not at all, and the marker tells
    which. Opening begins a new producer under the fence's name: what an older one left open is aborted, and whatever it
    sends from then on is refused.

    **History.** The marker carries checksums of all that was ever published. Where two instances on copies of one store
    have committed different records under the same numbers, the second finds other ones than its own: Fenced.

    **Marker gone.** Brokers forget the offsets of a group without members after a week, offsets.retention.minutes. Then
    the topic is read from where the stored progress ends; the last record of each transaction tells its number. If
    records are gone there too, nobody can know: ProgressUnknown.

    **Refused.** The marker says more than the outbox holds: SinkAhead. It says less than was published, the topic holds
    less than it did, or is another one: ProgressUnknown.

    Args:
        kafka: The cluster.
        settings: The topic.
        codec: Encodes values.
        options: What ``to`` added.
        guarantee: What the spec promises.
    """

    def __init__(
        self, kafka: Kafka, settings: TopicSettings, codec: Codec[Any], options: SinkOptions, guarantee: Guarantee
    ) -> None:
        self.guarantee = guarantee
        self._kafka, self._settings, self._options = kafka, settings, settings.options
        self._name = settings.names[0]
        self._encoder = FrameEncoder(codec, options, f"kafka topic {self._name}", nulls=settings.nulls)
        self._cluster: Cluster | None = None
        self._transactions: Transactions
        self._outgoing: Outgoing
        self._topic: TopicInfo
        self._newer: Marker | None = None
        self._repair: Repair
        self._looked = 0.0
        self._fence = ""
        self._generation = 0
        self._read: Callable[[Chunk], Awaitable[Chunk]]
        self._point: Callable[[str], None]

    async def probe(self) -> Probe:
        from streamflow_kafka.probe import probe_sink

        return await probe_sink(self._kafka, self._settings)

    async def open(self, ctx: SinkContext) -> None:
        await self.close()
        self._fence, self._generation, self._read, self._point = ctx.fence, ctx.generation, ctx.read, ctx.point
        self._encoder.sink = ctx.sink
        cluster = await Cluster.connect(self._kafka, self._options, f"streamflow.{ctx.flow}.{ctx.sink}")
        self._transactions = Transactions(cluster, self._fence, self._name)
        self._repair = Repair(cluster, self._transactions, self._fence, self._point)
        self._cluster = cluster
        try:
            await self._start(cluster)
        except BaseException:
            await self.close()
            raise

    def encode(self, records: Fragment) -> Frames:
        return self._encoder.encode(records)

    async def recover(self, stored: Progress | None, pending: Sequence[Chunk]) -> Progress:
        cluster = self._check_open()
        newer = self._newer
        marker = newer or await self._settled_marker(stored)
        by_another = marker is not None and self._is_newer(marker)
        if marker is not None and by_another and (newer is None or newer.generation == self._generation):
            # moved since this one was opened, or by a process on a copy of the store
            raise self._fenced(marker)
        if stored is None:
            if newer is not None or (marker is not None and marker.next_seq > 1):
                last = (newer or marker or Marker(1)).next_seq - 1
                raise SinkAhead(
                    f"topic {self._name} holds records of this sink up to {last}, but the store knows of none",
                    hint="The store is an older copy. Use the newest, or: streamflow reset --sink NAME --accept-head.",
                )
            return Progress(0, 1, self._cursor(await topic_ends(cluster, self._topic), ""))
        cursor = await self._known(stored)
        if marker is None:
            in_tail = await next_seq_in_tail(cluster, self._topic, cursor.ends, self._fence)
            found = max(stored.next_seq, in_tail)
        else:
            found = marker.next_seq
        truth = progress_at(found, stored, pending)
        link = linked(cursor.link, [piece async for piece in self._between(stored.next_seq, found, pending)])
        if marker is not None and marker.link not in ("", link):
            raise Fenced(
                f"topic {self._name} holds other content up to number {found - 1} than this store",
                hint="Another instance runs on a copy of this store. Stop one of the two.",
            )
        if newer is not None:
            # Only now: an older copy of the store, which is behind, shall hear SinkAhead rather than Fenced.
            raise self._fenced(newer)
        return Progress(truth.epoch, truth.next_seq, self._cursor(cursor.ends, link))

    async def publish(self, chunks: Sequence[Chunk], at: Progress) -> Progress:
        cluster = self._check_open()
        if cluster.broken:
            raise self._broken()
        await self._look_again(cluster)
        first = True
        for group in _groups(chunks):
            if not first:
                self._point("publish.part")
            at, first = await self._publish_together(group, at), False
        return at

    async def lost(self) -> None:
        """Waits for a lost connection: a broker that was killed may hide from readers what was published last.

        Raises:
            Unavailable: One is lost. Opening the sink again repairs that.
        """
        await self._check_open().breaks()
        raise self._broken()

    async def close(self) -> None:
        cluster, self._cluster = self._cluster, None
        if cluster is not None:
            try:
                if self._transactions.open:
                    await self._abort(self._transactions)
            finally:
                await cluster.close()

    async def _start(self, cluster: Cluster) -> None:
        for wait in (*SETTLE_SECONDS, None):
            # a cluster that is starting may not know all its topics yet
            try:
                await self._look(cluster)
                break
            except NotFound:
                if wait is None:
                    raise
                await asyncio.sleep(wait)
        largest, options = self._options.message_bytes_max, self._options
        told = (await topic_settings(cluster, self._name)).get("max.message.bytes", "")
        batch_bytes = options.batch_bytes
        if told.isdecimal():
            batch_bytes = min(batch_bytes, int(told))
            # what is compressed may fit all the same: the broker decides
            largest = largest if options.compression else min(largest, int(told))
        own_header = len(self._fence) + 40
        self._encoder.frame_bytes_max = largest - RECORD_OVERHEAD_BYTES - own_header
        self._outgoing = Outgoing(self._transactions, options.compression, batch_bytes)
        # what an older producer left open would be waited for: it ends when this one begins
        marker = await self._marker(stable=False)
        # A producer of this name that is newer, or of a process on a copy of the store, is left alone: see `recover`.
        self._newer = marker if marker is not None and self._is_newer(marker) else None
        if self._newer is None:
            await self._repair.begin()

    async def _look(self, cluster: Cluster) -> None:
        self._topic = (await find_topics(cluster, self._settings))[self._name]
        self._encoder.partitions = len(self._topic.leaders)
        self._looked = asyncio.get_running_loop().time()

    async def _look_again(self, cluster: Cluster) -> None:
        """Looks for new partitions and new leaders now and then."""
        if asyncio.get_running_loop().time() - self._looked > self._options.refresh_seconds:
            before = self._topic.id
            await self._look(cluster)
            if self._topic.id != before:
                raise Unavailable(
                    f"topic {self._name} was made anew", hint="What it holds is compared with what was published."
                )

    def _broken(self) -> Unavailable:
        return Unavailable(f"Kafka at {self._kafka} closed the connection", hint="The sink is opened again.")

    def _check_open(self) -> Cluster:
        if self._cluster is None:
            raise Unavailable(f"the sink on {self._name} is not open", hint="Open it first.")
        return self._cluster

    async def _abort(self, transactions: Transactions) -> None:
        """Lets readers of the topic go on at once. What fails here is done by whoever opens the sink next."""
        with contextlib.suppress(ConnectorError, TimeoutError):
            async with asyncio.timeout(ABORT_SECONDS):
                await transactions.abort()

    # -- recovery ---------------------------------------------------------------------------------

    async def _marker(self, *, stable: bool = True) -> Marker | None:
        return await read_marker(self._check_open(), self._transactions, self._fence, self._name, stable=stable)

    async def _settled_marker(self, stored: Progress | None) -> Marker | None:
        """Returns the marker, once nothing of this producer is undecided any more."""
        known = None if stored is None else msgspec.json.decode(stored.cursor, type=Cursor).ends
        return await self._repair.settle(self._topic, known, self._marker)

    def _is_newer(self, marker: Marker) -> bool:
        if marker.generation == self._generation:
            return marker.process != this_process()
        return marker.generation > self._generation

    def _fenced(self, marker: Marker) -> Fenced:
        return Fenced(
            f"the marker of this sink at topic {self._name} was moved by another instance, of generation "
            f"{marker.generation}; this is {self._generation}",
            hint="A newer instance of this flow, or one on a copy of its store, has taken over; this one has stopped.",
        )

    async def _known(self, stored: Progress) -> Cursor:
        """Reads the stored mark and refuses one of another topic, or one that is ahead of it."""
        cursor = msgspec.json.decode(stored.cursor, type=Cursor)
        if cursor.topic != self._topic.id:
            raise ProgressUnknown(
                f"topic {self._name} at {self._kafka} is not the one that was published to: it was made anew",
                hint="Bring the old topic back, or start on the new one with: streamflow reset --sink NAME "
                "--accept-head.",
            )
        cluster = self._check_open()
        # a broker that has just become leader may not know its end yet
        for wait in (*SETTLE_SECONDS, None):
            ends = await topic_ends(cluster, self._topic)
            lost = [number for number, end in enumerate(cursor.ends) if number >= len(ends) or ends[number] < end]
            if not lost:
                break
            if wait is None:
                raise ProgressUnknown(
                    f"topic {self._name} went back: partition {lost[0]} ends at "
                    f"{ends[lost[0]] if lost[0] < len(ends) else 'nothing'}, and did at {cursor.ends[lost[0]]}",
                    hint="Restore the topic, or: streamflow reset --sink NAME --accept-head.",
                )
            await asyncio.sleep(wait)
        return cursor

    async def _between(self, first: int, end: int, pending: Sequence[Chunk]) -> AsyncIterator[bytes | memoryview]:
        """The bytes of the frames from one number to another."""
        for chunk in pending:
            if first < chunk.end_seq and chunk.first_seq < end:
                whole = chunk if chunk.payload else await self._read(chunk)
                if first <= chunk.first_seq and chunk.end_seq <= end:
                    yield split_table(whole.payload)[1]
                else:
                    frames = unpack_frames(whole.payload)
                    for frame in frames[max(0, first - chunk.first_seq) : end - chunk.first_seq]:
                        yield frame

    # -- publishing -------------------------------------------------------------------------------

    async def _publish_together(self, chunks: Sequence[Chunk], at: Progress) -> Progress:
        """Publishes some chunks in one transaction."""
        cursor = msgspec.json.decode(at.cursor, type=Cursor)
        end = max(at.next_seq, chunks[-1].end_seq)
        frames = unpublished(chunks, at.next_seq)
        link = linked(cursor.link, [piece async for piece in self._between(at.next_seq, end, chunks)])
        marker = Marker(end, self._generation, this_process(), link)
        began = asyncio.get_running_loop().time()
        try:
            try:
                ends = await self._transact(frames, at.next_seq, marker)
            except Refused as refused:
                ends = await self._transact_singly(frames, at.next_seq, marker, refused)
        except Fenced as error:
            if asyncio.get_running_loop().time() - began < self._options.transaction_timeout_seconds:
                raise
            raise Unavailable(
                f"the transaction of {self._fence} took too long: the broker has given it up",
                hint="Was the process or the machine asleep? The sink is opened again.",
            ) from error
        merged = [max(ends.get(number, 0), old) for number, old in enumerate(self._ends_of(cursor))]
        return progress_at(end, at, chunks, self._cursor(merged, link))

    async def _transact(self, frames: Sequence[bytes], first_seq: int, marker: Marker) -> dict[int, int]:
        ends = await self._outgoing.send(self._topic, frames, first_seq, marker, self._fence)
        self._point("publish.part")
        await self._transactions.commit()
        return ends

    async def _transact_singly(
        self, frames: Sequence[bytes], first_seq: int, marker: Marker, refused: Refused
    ) -> dict[int, int]:
        """Publishes again with each record in a batch of its own, so that the one that is refused is known.

        Raises:
            RecordRejected: It names that record.
        """
        if refused.count == 1:
            raise self._rejected(refused)
        await self._transactions.begin(again=True)
        found = await self._marker()
        if found is not None and found.next_seq != first_seq:
            raise Unavailable(
                f"the marker of {self._fence} has moved by itself", hint="The sink is opened again and reads it."
            )
        try:
            ends = await self._outgoing.send(self._topic, frames, first_seq, marker, self._fence, singly=True)
        except Refused as again:
            raise self._rejected(again) from None
        await self._transactions.commit()
        return ends

    def _rejected(self, refused: Refused) -> RecordRejected:
        from aiokafka.errors import for_code

        return RecordRejected(
            refused.first_seq,
            f"record {refused.first_seq}: Kafka at {self._kafka} refuses it for topic {self._name}: "
            f"{for_code(refused.code).__name__}",
            hint="Too large: raise max.message.bytes of the topic. Invalid: a compacted topic wants keys; pass key=.",
        )

    def _ends_of(self, cursor: Cursor) -> Iterator[int]:
        """Per partition the end that is known, also of those that are new."""
        for number in range(max(len(cursor.ends), len(self._topic.leaders))):
            yield cursor.ends[number] if number < len(cursor.ends) else 0

    def _cursor(self, ends: list[int], link: str) -> bytes:
        return msgspec.json.encode(Cursor(self._topic.id, ends, link))


def _groups(chunks: Sequence[Chunk]) -> Iterator[list[Chunk]]:
    """Chunks that go into one transaction each."""
    group: list[Chunk] = []
    size_bytes = 0
    for chunk in chunks:
        if group and size_bytes + chunk.size_bytes > TRANSACTION_BYTES_MAX:
            yield group
            group, size_bytes = [], 0
        group.append(chunk)
        size_bytes += chunk.size_bytes
    if group:
        yield group
