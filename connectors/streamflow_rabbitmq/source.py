"""The source: a queue whose messages are acknowledged when they are committed."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Set
from itertools import count
from typing import TYPE_CHECKING, Any, Final

from streamflow.batch import Partition, Position, SourceBatch, Taken
from streamflow.connect.contracts import MORE, Guarantee, Probe, SourceContext
from streamflow.errors import ConnectorError, Unavailable
from streamflow_rabbitmq.declare import queue_there
from streamflow_rabbitmq.frames import KEY_HEADER
from streamflow_rabbitmq.ids import Delivery, IdFrom, as_texts, called, digest, no_id, short
from streamflow_rabbitmq.link import PERMISSION_HINT, Link, explain
from streamflow_rabbitmq.lock import Lock
from streamflow_rabbitmq.readers import others
from streamflow_rabbitmq.settings import RabbitMQ

if TYPE_CHECKING:
    from streamflow_rabbitmq.client import Content, DirectChannel
    from streamflow_rabbitmq.queue import QueueSettings

READ_RECORDS_MAX: Final = 512
SEEN_IDS_MAX: Final = 1_000_000
"""Committed ids that are remembered, as many as the state store keeps."""
CONFIRM_SECONDS: Final = 2.0
ALLOWED_SECONDS: Final = 0.05
"""How often it is asked whether every sink has recovered."""
LEAVING_SECONDS: Final = 2.0
"""How long the broker may need to be done with the last reader, once that has let go of the lock."""
CONSUMER: Final = "streamflow"
STREAM_OFFSET: Final = "x-stream-offset"


class QueueSource:
    """Reads one queue, classic or quorum.

    GUARANTEE: each message is handed out once, in the order of the queue, unless its id was committed; it is
    acknowledged only when it is committed, or at once when it comes again after that. BOUND: ``prefetch`` deliveries.

    Acknowledgements may get lost, of more messages than the prefetch where the broker dies: each comes again and is
    known by its id, of which a million are remembered. So many that nothing else could be delivered any more must not
    wait for a commit, hence "at once"; and an epoch ends when half of the prefetch waits for it.

    Whatever ends the channel or the consumer (a lost connection, the broker's ``consumer_timeout``, a deleted queue) is
    Unavailable: the shard starts again from its checkpoint, and the broker delivers again what was not acknowledged.

    Args:
        rabbit: The broker.
        settings: The queue.
        guarantee: What the spec promises.
    """

    def __init__(self, rabbit: RabbitMQ, settings: QueueSettings, guarantee: Guarantee) -> None:
        self.guarantee = guarantee
        self._rabbit, self._settings = rabbit, settings
        self._link: Link | None = None
        self._channel: DirectChannel
        self._buffer: deque[tuple[str, Content]] = deque()
        self._unacknowledged: deque[tuple[int, str]] = deque()
        self._in_flight: set[str] = set()
        self._seen: dict[str, None] = {}
        self._ack_now: list[int] = []
        self._acknowledging: asyncio.Task[None] | None = None
        self._refusal: ConnectorError | None = None
        self._arrived = asyncio.Event()
        self._paused = False
        self._made_up = count(1)
        self._generation = 0
        self._may_acknowledge: Callable[[], bool]

    async def probe(self) -> Probe:
        from streamflow_rabbitmq.probe import probe_queue

        return await probe_queue(self._rabbit, self._settings.name)

    @property
    def epoch_full(self) -> bool:
        """Whether half of the prefetch has been taken, or is about to be, and waits for a commit."""
        return len(self._unacknowledged) - len(self._buffer) >= self._settings.limits.prefetch // 2

    async def open(self, ctx: SourceContext, resume: Mapping[Partition, Position]) -> Mapping[Partition, Position]:
        await self.close()
        self._seen = dict.fromkeys(ctx.seen)
        self._generation, self._may_acknowledge = ctx.generation, ctx.may_acknowledge
        link = self._link = await Link.connect(self._rabbit, f"streamflow {ctx.flow} {ctx.source}")
        try:
            await queue_there(link, self._settings.name, self._settings.declare)
            if self._settings.readers == "exclusive":
                await self._lock(link, ctx)
            await self._consume(link)
        except BaseException:
            await self.close()
            raise
        return {}

    async def read(self) -> SourceBatch | None:
        while True:
            if self._buffer and not self._paused:
                return self._batch()
            if self._refusal is not None and not self._buffer:
                raise self._refusal
            link = self._opened()
            link.check()
            self._arrived.clear()
            waiting = asyncio.ensure_future(self._arrived.wait())
            try:
                await link.settled(waiting)
            finally:
                waiting.cancel()

    async def ends(self) -> Mapping[Partition, Position | None]:
        """Asks the broker how many messages are ready.

        It is asked twice, since its first answer may overtake deliveries; the second one comes behind those. A queue
        without a consumer, although here is one, is a quorum queue without a leader: it says 0 to everything.
        """
        link = self._opened()
        for _ in range(2):
            found = await link.ask(self._channel.queue_declare(self._settings.name, passive=True))
            if found.message_count or not found.consumer_count or self._buffer:
                return {"": MORE}
        return {"": None}

    def pause(self, partitions: Set[Partition]) -> None:
        self._paused = "" in partitions
        self._arrived.set()

    async def committed(self, epoch: int, taken: Taken) -> None:
        self._remember(taken.ids)
        last = 0
        while self._unacknowledged and self._unacknowledged[0][1] in self._seen:
            last = self._unacknowledged.popleft()[0]
        # acknowledged by the same frame; once more each, the broker would close the channel
        self._ack_now = [tag for tag in self._ack_now if tag > last]
        link = self._link
        # A lost connection is not reported here: what was not acknowledged comes again when the source is opened again.
        if last and link is not None and not link.lost.done():
            await link.send(_ack(self._channel.number, last, multiple=True))

    async def close(self) -> None:
        """Stops listening; acknowledgements that were sent have arrived, where the broker still answers."""
        link, self._link = self._link, None
        if link is None:
            return
        if self._acknowledging is not None:
            self._acknowledging.cancel()
        try:
            if not link.lost.done():
                await self._say_farewell(link)
        finally:
            await link.close()
            self._buffer.clear()
            self._unacknowledged.clear()
            self._in_flight.clear()
            self._ack_now.clear()
            self._refusal = None

    async def _say_farewell(self, link: Link) -> None:
        try:
            if self._ack_now and self._may_acknowledge():
                await self._acknowledge_again(link)
            # Answered behind all acknowledgements: closing with some on their way ends in an error of the broker. The
            # consumer is not cancelled: it goes together with what it holds, so nobody reads past that.
            await link.ask(self._channel.queue_declare(self._settings.name, passive=True), seconds=CONFIRM_SECONDS)
        except (ConnectorError, AttributeError):
            return

    async def _lock(self, link: Link, ctx: SourceContext) -> None:
        """Keeps other readers of this library out: quorum queues do not know exclusive consumers.

        Raises:
            Fenced: A newer instance of this flow reads.
            Unavailable: Another flow does.
        """
        fence = f"sf.{ctx.flow}.{ctx.incarnation}.{ctx.shard}.{ctx.source}"
        try:
            await Lock(link, fence, ctx.generation, f"sf.read.{short(self._settings.name)}").take()
        except Unavailable as error:
            link.check()
            raise self._other_reader(error.message) from None

    async def _consume(self, link: Link) -> None:
        from streamflow_rabbitmq.client import aiormq

        channel = self._channel = await link.loose_channel()
        channel.on_delivery = self._on_delivery
        channel.on_cancelled = self._on_cancelled
        await link.ask(channel.basic_qos(prefetch_count=self._settings.limits.prefetch))
        name, exclusive = self._settings.name, self._settings.readers == "exclusive"
        try:
            if exclusive and (found := await others(link, name, LEAVING_SECONDS)):
                raise self._other_reader(f"{found} consumer{'s' if found > 1 else ''}")
            await link.ask(channel.basic_consume(name, _never, exclusive=exclusive, consumer_tag=CONSUMER))
        except aiormq.exceptions.AMQPChannelError as error:
            if "exclusive" in explain(error):
                raise self._other_reader(explain(error)) from None
            raise ConnectorError(
                f"queue {self._settings.name} at {self._rabbit} may not be read by user {self._rabbit.login.user}: "
                f"{explain(error)}",
                hint=PERMISSION_HINT,
            ) from None
        link.tie(channel)

    def _other_reader(self, found: str) -> Unavailable:
        return Unavailable(
            f"queue {self._settings.name} at {self._rabbit} has another reader: {found}",
            hint="Order holds for one reader only; it is tried again by itself. For a queue with a single active "
            'consumer say readers="single_active", for competing ones readers="shared".',
        )

    # -- what arrives -----------------------------------------------------------------------------

    def _on_delivery(self, content: Content) -> None:
        if self._refusal is not None:
            return
        tag = content.method.delivery_tag
        try:
            name = self._id(content)
        except ConnectorError as error:
            self._refusal = error
            self._arrived.set()
            return
        if name in self._seen:
            self._ack_now.append(tag)
            if self._acknowledging is None or self._acknowledging.done():
                self._acknowledging = asyncio.ensure_future(self._acknowledge_soon())
            return
        # in flight already: the producer sent it twice, or a quorum queue has a new leader; both tags go when it does
        self._unacknowledged.append((tag, name))
        if name not in self._in_flight:
            self._in_flight.add(name)
            self._buffer.append((name, content))
            self._arrived.set()

    def _id(self, content: Content) -> str:
        """What the message is known by when it comes again.

        Raises:
            ConnectorError: It has no id, or the queue is a stream.
        """
        properties = content.header.properties
        id_from: IdFrom = self._settings.id_from
        if properties.headers and STREAM_OFFSET in properties.headers:
            raise ConnectorError(
                f"{self._settings.name} at {self._rabbit} is a stream, not a queue",
                hint="Read it with rabbit.stream(...).",
            )
        if id_from == "message_id" and properties.message_id:
            return short(str(properties.message_id))
        if id_from == "digest":
            return digest(content.body)
        if id_from is None:
            return f"{self._generation}.{next(self._made_up)}"
        delivery = _delivery(content)
        if callable(id_from):
            return short(called(id_from, delivery, self._settings.name))
        raise no_id(self._settings.name, delivery, "the producer has set no message_id")

    def _on_cancelled(self) -> None:
        if self._link is not None:
            self._link.fail(
                Unavailable(
                    f"RabbitMQ at {self._rabbit} ended the consumer of queue {self._settings.name}: the queue was "
                    "deleted, or its node went away",
                    hint="It is opened again by itself.",
                )
            )

    async def _acknowledge_soon(self) -> None:
        """Acknowledges what came again, all that arrived in this turn of the loop together."""
        await asyncio.sleep(0)
        while not self._may_acknowledge():  # noqa: ASYNC110 - rare, and nobody is there who could say when
            await asyncio.sleep(ALLOWED_SECONDS)
        link = self._link
        while self._ack_now and link is not None and not link.lost.done():
            try:
                await self._acknowledge_again(link)
            except ConnectorError:
                return  # the reader says that the connection is lost

    async def _acknowledge_again(self, link: Link) -> None:
        tags, self._ack_now = self._ack_now, []
        await link.send(b"".join(_ack(self._channel.number, tag, multiple=False) for tag in tags))

    def _remember(self, ids: Any) -> None:
        """Keeps committed ids; forgets the oldest."""
        for name in ids:
            self._seen[name] = None
            self._in_flight.discard(name)
        while len(self._seen) > SEEN_IDS_MAX:
            del self._seen[next(iter(self._seen))]

    def _opened(self) -> Link:
        if self._link is None:
            raise Unavailable(f"queue {self._settings.name} is not open", hint="Open the source first.")
        return self._link

    def _batch(self) -> SourceBatch:
        buffer = self._buffer
        taken = [buffer.popleft() for _ in range(min(READ_RECORDS_MAX, len(buffer)))]
        headers = [as_texts(content.header.properties.headers) or None for _, content in taken]
        times = [content.header.properties.timestamp for _, content in taken]
        return SourceBatch(
            "",
            [content.body for _, content in taken],
            ids=[name for name, _ in taken],
            headers=headers if any(headers) else None,
            keys=[_key(content, found) for (_, content), found in zip(taken, headers, strict=True)],
            timestamps_ms=[int(time.timestamp() * 1000) if time else 0 for time in times] if any(times) else None,
        )


def _delivery(content: Content) -> Delivery:
    method, properties = content.method, content.header.properties
    return Delivery(
        content.body,
        as_texts(properties.headers),
        str(method.routing_key or ""),
        str(method.exchange or ""),
        str(properties.message_id or ""),
        str(properties.correlation_id or ""),
    )


def _key(content: Content, headers: Mapping[str, str] | None) -> bytes:
    key = headers.get(KEY_HEADER) if headers else None
    return (str(content.method.routing_key or "") if key is None else key).encode()


def _ack(channel: int, tag: int, *, multiple: bool) -> bytes:
    """The frame of Basic.Ack."""
    return b"".join(
        (
            b"\x01",
            channel.to_bytes(2, "big"),
            b"\x00\x00\x00\x0d\x00\x3c\x00\x50",
            tag.to_bytes(8, "big"),
            b"\x01" if multiple else b"\x00",
            b"\xce",
        )
    )


async def _never(message: object) -> None:
    raise AssertionError("deliveries never reach aiormq's own consumers")
