"""What the two kinds of sink share: opening, lock and marker, encoding, messages, refusals."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NoReturn

import msgspec

from streamflow.batch import Chunk, Fragment, Progress
from streamflow.codecs import Codec
from streamflow.connect.contracts import Frames, Guarantee, Probe, SinkContext, SinkOptions
from streamflow.connect.recovery import unpublished
from streamflow.errors import ConnectorError, RecordRejected, Refusal, SettingsError, Unavailable
from streamflow_rabbitmq.declare import ExchangeDeclaration, QueueDeclaration, exchange_there, queue_there
from streamflow_rabbitmq.frames import FrameEncoder, unpack
from streamflow_rabbitmq.link import Link
from streamflow_rabbitmq.lock import Lock
from streamflow_rabbitmq.marker import Mark, Marker
from streamflow_rabbitmq.settings import Limits, RabbitMQ
from streamflow_rabbitmq.wire import Writer, publish_method

if TYPE_CHECKING:
    from streamflow_rabbitmq.client import Content, DirectChannel

FENCE_BYTES_MAX: Final = 230
"""Longest fence name: with a number behind it, it is a message id, which has up to 255 bytes."""
_KEYS_REMEMBERED: Final = 4096


@dataclass(frozen=True, slots=True)
class Target:
    """Where a sink writes.

    Args:
        exchange: Name of the exchange; empty for the default exchange, which delivers to the queue named by the key.
        routing_key: Used where a record does not say its own.
        declaration: What exchange, or queue, shall be, where it may be made.
        limits: Bounds.
    """

    exchange: str
    routing_key: str
    declaration: ExchangeDeclaration | QueueDeclaration | None
    limits: Limits

    def __str__(self) -> str:
        return f"exchange {self.exchange}" if self.exchange else f"queue {self.routing_key}"

    async def check(self, link: Link) -> None:
        """Checks that exchange or queue is there, or makes it as it was declared."""
        if self.exchange:
            assert not isinstance(self.declaration, QueueDeclaration)
            await exchange_there(link, self.exchange, self.declaration)
        else:
            assert not isinstance(self.declaration, ExchangeDeclaration)
            await queue_there(link, self.routing_key, self.declaration)


class Cursor(msgspec.Struct, frozen=True):
    """The broker's mark in a stored `Progress`: the marker's birth, and its count there."""

    made: str
    at: int


class RabbitSink:
    """Base of the sinks; see `ConfirmSink` and `TransactionSink` for what they guarantee.

    The connection that publishes holds the sink's lock (see `Lock`) and has written the sink's marker (see `Marker`):
    a newer instance cuts off an older one, and one that was cut off never publishes again.

    Args:
        rabbit: The broker.
        target: Exchange or queue.
        codec: Encodes values.
        options: What ``to`` added.
        guarantee: What the spec promises.
    """

    def __init__(
        self, rabbit: RabbitMQ, target: Target, codec: Codec[Any], options: SinkOptions, guarantee: Guarantee
    ) -> None:
        self.guarantee = guarantee
        self._rabbit, self._target, self._options = rabbit, target, options
        self._encoder = FrameEncoder(codec, options, target.limits.message_bytes_max, f"rabbitmq {target}")
        self._link: Link | None = None
        self._channel: DirectChannel
        self._marker: Marker
        self._found: Mark | None = None
        self._mark: Mark
        self._writer: Writer
        self._fence = b""
        self._methods: dict[bytes, bytes] = {}
        self._returned: dict[int, str] = {}
        self._point: Callable[[str], None]
        self._read: Callable[[Chunk], Awaitable[Chunk]]

    async def probe(self) -> Probe:
        from streamflow_rabbitmq.probe import probe_target

        return await probe_target(self._rabbit, self._target)

    async def open(self, ctx: SinkContext) -> None:
        await self.close()
        if len(ctx.fence.encode()) > FENCE_BYTES_MAX:
            raise SettingsError(
                f"the names of flow and sink are too long for message ids: {ctx.fence[:60]}...",
                hint="Give flow or sink a shorter name.",
            )
        self._fence, self._point, self._read = ctx.fence.encode(), ctx.point, ctx.read
        self._encoder.sink = ctx.sink
        link = self._link = await Link.connect(self._rabbit, f"streamflow {ctx.flow} {ctx.sink}")
        try:
            await self._target.check(link)
            lock = Lock(link, ctx.fence, ctx.generation)
            await lock.take()
            self._marker = Marker(link, ctx.fence, lock.claim.generation)
            self._found = await self._marker.read()
            self._mark = self._marker.taken_over(self._found)
            channel = self._channel = await link.channel()
            self._writer = Writer(channel.number, link.frame_bytes_max)
            self._methods.clear()
            self._returned.clear()
            channel.on_return = self._on_return
            await self._start(link, channel)
        except BaseException:
            await self.close()
            raise

    def encode(self, records: Fragment) -> Frames:
        return self._encoder.encode(records)

    async def recover(self, stored: Progress | None, pending: Sequence[Chunk]) -> Progress:
        raise NotImplementedError

    async def publish(self, chunks: Sequence[Chunk], at: Progress) -> Progress:
        raise NotImplementedError

    async def close(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            await link.close()

    async def _start(self, link: Link, channel: DirectChannel) -> None:
        """Puts the channel into its mode, and writes the marker as this generation's."""
        raise NotImplementedError

    async def _write(self, mark: Mark) -> None:
        """Makes ``mark`` the marker."""
        raise NotImplementedError

    async def _refuse(self, refusal: Refusal) -> NoReturn:
        """Raises what an older copy of a store is told, and gives the marker back: its generation counts for nothing.

        Else each attempt to start the copy would raise the generation that the newest store must have.
        """
        if self._found is not None:
            await self._write(self._found)
        raise refusal

    def _opened(self) -> Link:
        if self._link is None:
            raise Unavailable(f"the sink on {self._target} is not open", hint="Open it first.")
        self._link.check()
        return self._link

    def _count(self, at: Progress, next_seq: int) -> int:
        """What the marker counts at a sequence number, counted on from a progress."""
        cursor = msgspec.json.decode(at.cursor, type=Cursor)
        start = cursor.at if cursor.made == self._mark.made else self._mark.at
        return start + next_seq - at.next_seq

    def _cursor(self, count: int) -> bytes:
        return msgspec.json.encode(Cursor(self._mark.made, count))

    def _next_seq(self, stored: Progress) -> int | None:
        """The sequence number that the marker has come to; None where it was made anew since the stored progress."""
        cursor = msgspec.json.decode(stored.cursor, type=Cursor)
        return stored.next_seq + self._mark.at - cursor.at if cursor.made == self._mark.made else None

    def _live(self, chunks: Sequence[Chunk], next_seq: int) -> Iterator[tuple[int, bytes]]:
        """The frames from ``next_seq`` on with their numbers, without those that were given up."""
        for seq, frame in enumerate(unpublished(chunks, next_seq), next_seq):
            if frame:
                yield seq, frame

    def _message(self, seq: int, frame: bytes) -> bytes:
        """One record as it goes over the wire."""
        routing_key, headers, body = unpack(frame)
        method = self._methods.get(routing_key) or self._method(routing_key)
        return method + self._writer.content(headers, b"%s.%d" % (self._fence, seq), body)

    def _method(self, routing_key: bytes) -> bytes:
        if len(self._methods) >= _KEYS_REMEMBERED:
            self._methods.clear()
        key = routing_key if self._options.subject is not None else self._target.routing_key.encode()
        method = publish_method(self._channel.number, self._target.exchange.encode(), key, mandatory=True)
        self._methods[routing_key] = method
        return method

    def _on_return(self, content: Content) -> None:
        """The broker gives a message back that no queue takes."""
        name = str(content.header.properties.message_id or "")
        seq = name.rpartition(".")[2]
        if name.startswith(self._fence.decode()) and seq.isdigit():
            key = content.method.routing_key
            self._returned[int(seq)] = f"{content.method.reply_code} {content.method.reply_text}, routing key {key!r}"
        elif self._link is not None:
            self._link.fail(
                ConnectorError(
                    f"the marker queue of the sink on {self._target} at {self._rabbit} was deleted while it ran",
                    hint="Names that start with sf. belong to the connector; start the flow again.",
                )
            )

    def _rejected(self) -> RecordRejected:
        """The error for the first record that the broker gave back."""
        seq = min(self._returned)
        reason = self._returned[seq]
        return RecordRejected(
            seq,
            f"record {seq} has no way from {self._target} at {self._rabbit}: {reason}",
            hint="Bind a queue for that routing key (or an alternate exchange), or correct subject= of to(...).",
        )
