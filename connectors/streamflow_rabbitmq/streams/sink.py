"""A sink on one stream, and what it shares with one on a super stream: opening, encoding, the lock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from streamflow.batch import Chunk, Fragment, Progress
from streamflow.codecs import Codec
from streamflow.connect.contracts import Frames, Guarantee, Probe, SinkContext, SinkOptions
from streamflow.connect.recovery import progress_at, unpublished
from streamflow.errors import ProgressUnknown, RecordRejected, SinkAhead, Unavailable
from streamflow_rabbitmq.settings import RabbitMQ
from streamflow_rabbitmq.stream import StreamSettings
from streamflow_rabbitmq.streams.frames import ROUTE, FrameEncoder
from streamflow_rabbitmq.streams.guard import Guard
from streamflow_rabbitmq.streams.links import Links
from streamflow_rabbitmq.streams.publisher import Publisher, message_bytes_max


class Cursor(msgspec.Struct, frozen=True, omit_defaults=True):
    """The broker's mark in a stored `Progress`.

    Args:
        last: The last number that was published: lower than the progress says where records were given up.
        partitions: Of a super stream, as they were when the sink first started.
        each: The last number published to each of them.
    """

    last: int = 0
    partitions: list[str] = []
    each: list[int] = []


class BaseSink:
    """What both kinds of sink do alike; see `StreamSink` and `SuperStreamSink` for what they guarantee.

    Args:
        rabbit: The broker.
        settings: The stream.
        codec: Encodes values.
        options: What ``to`` added.
        guarantee: What the spec promises.
    """

    def __init__(
        self, rabbit: RabbitMQ, settings: StreamSettings, codec: Codec[Any], options: SinkOptions, guarantee: Guarantee
    ) -> None:
        self.guarantee = guarantee
        self._rabbit, self._settings = rabbit, settings
        self._encoder = FrameEncoder(codec, options, partitioned=settings.partitioned, sink=settings.describe())
        self._links: Links | None = None
        self._guard = Guard(rabbit)
        self._fence = ""
        self._message_bytes_max = 0
        self._ctx: SinkContext
        self._point: Callable[[str], None]

    async def probe(self) -> Probe:
        from streamflow_rabbitmq.streams.probe import probe_stream

        return await probe_stream(self._rabbit, self._settings)

    async def open(self, ctx: SinkContext) -> None:
        await self.close()
        self._fence, self._ctx, self._point = ctx.fence, ctx, ctx.point
        name = f"streamflow {ctx.flow} {ctx.sink}"
        self._links = Links(self._rabbit, name, self._rabbit.times.heartbeat_seconds)
        try:
            link = await self._links.open()
            await self._find(self._links)
            await self._guard.take(self._links, ctx.fence, ctx.generation, name)
            await self._declare(self._links)
            self._links.check()
        except BaseException:
            await self.close()
            raise
        self._message_bytes_max = message_bytes_max(link) + (ROUTE.size if self._settings.partitioned else 0)
        self._encoder.sink = ctx.sink
        self._encoder.frame_bytes_max = self._message_bytes_max

    def encode(self, records: Fragment) -> Frames:
        return self._encoder.encode(records)

    async def recover(self, stored: Progress | None, pending: Sequence[Chunk]) -> Progress:
        raise NotImplementedError

    async def publish(self, chunks: Sequence[Chunk], at: Progress) -> Progress:
        links = self._opened()
        try:
            return await self._publish(chunks, at)
        except BaseException as error:
            # What is on its way may land or not: this instance cannot go on. Only the refusal of a record is clear.
            if not isinstance(error, RecordRejected):
                links.fail(Unavailable(f"a publish to {self._settings.describe()} was broken off: {error}"))
            raise

    async def close(self) -> None:
        links, self._links = self._links, None
        if links is not None:
            await links.close()  # before the lock: who gets it finds nothing on its way
        await self._guard.close()

    async def _find(self, links: Links) -> None:
        """Looks that the streams exist, before the lock is taken from anybody."""

    async def _declare(self, links: Links) -> None:
        """Declares the publishers, behind the lock."""

    async def _publish(self, chunks: Sequence[Chunk], at: Progress) -> Progress:
        raise NotImplementedError

    def _opened(self) -> Links:
        if self._links is None:
            raise Unavailable(f"the sink on {self._settings.describe()} is not open", hint="Open it first.")
        self._guard.check()
        self._links.check()
        return self._links

    def _check_sizes(self, first: int, messages: Sequence[bytes]) -> None:
        if messages and len(max(messages, key=len)) > self._message_bytes_max:
            at, message = next(each for each in enumerate(messages, first) if len(each[1]) > self._message_bytes_max)
            raise RecordRejected(
                at,
                f"record {at} has {len(message)} bytes; {self._settings.describe()} takes {self._message_bytes_max}",
                hint="Raise stream.frame_max on the server, or emit smaller values.",
            )

    def _check_new(self, last: int) -> None:
        """Refuses what an unknown store has published under this name."""
        if last:
            raise SinkAhead(
                f"{self._settings.describe()} holds records of this sink up to {last}, but the store knows of none",
                hint="The store is an older copy. Use the newest, or: streamflow reset --sink NAME --accept-head.",
            )

    def _lost(self, name: str, last: int, known: int) -> ProgressUnknown:
        return ProgressUnknown(
            f"stream {name} at {self._rabbit} remembers {last or 'nothing'} as the last number of this sink, but "
            f"{known} was published",
            hint="It was made anew, lost records, or had more than 255 other named publishers. Look at what consumers "
            "got, then: streamflow reset --sink NAME --accept-head.",
        )


class StreamSink(BaseSink):
    """Publishes to one stream, to which others may write as well.

    GUARANTEE: exactly-once, for ever. BOUND: the window of `Limits`.

    The publisher's name is the fence name, and a record's publishing id is its number. The stream remembers the last id
    of each name, with its data, and drops what comes again, however late; so recovery asks for that id, and publishing
    twice adds nothing. But it drops by id alone, without a word: an older instance with other content would believe
    that it published. A lock keeps those out (`Guard`).

    **Refused.** The stream remembers more than the outbox holds: SinkAhead. It remembers less than was published (it
    was deleted and made anew, or forgot this name among more than 255): ProgressUnknown.
    """

    _publisher: Publisher

    async def recover(self, stored: Progress | None, pending: Sequence[Chunk]) -> Progress:
        self._opened()
        last = await self._publisher.last_id()
        if stored is None:
            self._check_new(last)
        known = stored or Progress(0, 1)
        published = cursor_of(known).last if known.cursor else known.next_seq - 1
        if last < published:
            raise self._lost(self._settings.name, last, published)
        # At `published` the records up to the progress were given up: their numbers never reach the stream.
        next_seq = known.next_seq if last == published else last + 1
        truth = progress_at(next_seq, known, pending)
        return Progress(truth.epoch, truth.next_seq, msgspec.json.encode(Cursor(last)))

    async def _find(self, links: Links) -> None:
        await links.to(self._settings.name)

    async def _declare(self, links: Links) -> None:
        link = await links.to(self._settings.name)
        self._publisher = Publisher(link, self._settings.name, self._fence, self._settings.limits)
        await self._publisher.declare()

    async def _publish(self, chunks: Sequence[Chunk], at: Progress) -> Progress:
        last = cursor_of(at).last
        for chunk in chunks:
            first = max(chunk.first_seq, at.next_seq)
            messages = unpublished([chunk], first)
            if not messages:
                continue
            if chunk is not chunks[0]:
                self._point("publish.part")
            last = await self._send(first, messages) or last
        await self._publisher.settled()
        end = max(at.next_seq, chunks[-1].end_seq)
        return progress_at(end, at, chunks, msgspec.json.encode(Cursor(last)))

    async def _send(self, first: int, messages: list[bytes]) -> int:
        """Sends the messages that were not given up; returns the number of the last one, or 0."""
        self._check_sizes(first, messages)
        if all(messages):
            await self._publisher.send(range(first, first + len(messages)), messages)
            return first + len(messages) - 1
        live = [(seq, message) for seq, message in enumerate(messages, first) if message]
        if not live:
            return 0
        await self._publisher.send([seq for seq, _ in live], [message for _, message in live])
        return live[-1][0]


def cursor_of(progress: Progress) -> Cursor:
    """The mark in a progress; an empty one where there is none."""
    return msgspec.json.decode(progress.cursor, type=Cursor) if progress.cursor else Cursor()
