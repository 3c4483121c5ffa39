"""Streams as an outsider sees them: made, fed and read with rstream's own client, nothing of the connector."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aio_pika
from rstream import AMQPMessage, amqp_decoder, schema
from rstream.client import Client
from rstream.constants import OffsetType
from rstream.exceptions import LeaderNotAvailable, ServerError

from tests.brokers import RabbitServer

PART = 500
SEGMENT_BYTES = 50
"""So small that each chunk has a segment of its own, which can be taken away like an expired or a lost one."""
ANSWER_SECONDS = 10.0
AVAILABLE_SECONDS = 20.0
EARLY_SECONDS = 2.0


class Streams:
    """A plain client of the stream protocol."""

    answer_seconds = ANSWER_SECONDS

    def __init__(self, server: RabbitServer) -> None:
        self._server = server
        self._client: Client
        self._confirmed: asyncio.Queue[int] = asyncio.Queue()
        self._chunks: dict[int, asyncio.Queue[schema.Deliver]] = {}
        self._publishers: dict[str, int] = {}
        self._ids = list(range(255, 0, -1))

    async def __aenter__(self) -> Self:
        self._publishers.clear()
        self._ids = list(range(255, 0, -1))
        self._client = Client(self._server.host, self._server.stream_port, frame_max=1024 * 1024, heartbeat=60)
        await self._client.start()
        await self._client.authenticate("/", "guest", "guest")
        self._client.add_handler(schema.PublishConfirm, self._on_confirm)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Not its own close(): that sleeps, and waits for answers of a server that may be gone.
        self._client._is_not_closed = False
        for name in list(self._client._tasks):
            with contextlib.suppress(Exception):  # what a task has died of is of no interest any more
                await self._client.stop_task(name)
        if self._client._conn is not None:
            with contextlib.suppress(OSError):
                await self._client._conn.close()

    async def make(self, name: str, **arguments: Any) -> None:
        """Makes a stream; arguments as the protocol names them, with _ for -."""
        await self._client.create_stream(name, {key.replace("_", "-"): value for key, value in arguments.items()})

    async def available(self, name: str) -> None:
        """Waits until a stream can be used after the start of its server.

        A server that is asked too early ends the connection instead of answering, and rstream does not tell.
        """
        async with asyncio.timeout(AVAILABLE_SECONDS):
            while True:
                try:
                    async with asyncio.timeout(EARLY_SECONDS):
                        await self.end(name)
                    return
                except (ServerError, LeaderNotAvailable):
                    await asyncio.sleep(0.05)
                except TimeoutError:
                    await self.__aexit__(None, None, None)
                    await self.__aenter__()

    async def delete(self, name: str) -> None:
        self._publishers.pop(name, None)
        await self._client.delete_stream(name)

    async def feed(self, name: str, payloads: Sequence[bytes], *, singly: bool = False, reference: str = "") -> None:
        """Publishes messages; returns when they are confirmed. ``singly``: each in a chunk of its own."""
        await self.feed_raw(name, [bytes(AMQPMessage(body=payload)) for payload in payloads], singly=singly)

    async def feed_raw(self, name: str, messages: Sequence[bytes], *, singly: bool = False) -> None:
        """Publishes messages as they are."""
        if name not in self._publishers:
            self._publishers[name] = number = self._take_id()
            await self._client.declare_publisher(name, None, number)
        size = 1 if singly else PART
        for start in range(0, len(messages), size):
            part = [schema.Message(at, None, each) for at, each in enumerate(messages[start : start + size], start + 1)]
            await self._client.send_publish_frame(schema.Publish(self._publishers[name], part))
            await self._confirmations(len(part))

    async def feed_batch(self, name: str, frame: schema.PublishSubBatching) -> None:
        """Publishes a compressed batch that was made by hand, but for the publisher's id."""
        if name not in self._publishers:
            self._publishers[name] = number = self._take_id()
            await self._client.declare_publisher(name, None, number)
        frame.publisher_id = self._publishers[name]
        # version 1, but bit 7 of the type says that it is a batch
        await self._client.send_frame(frame)
        await self._confirmations(1)

    async def messages(self, name: str, start: int = 0) -> list[tuple[int, bytes]]:
        """All messages of a stream from an offset on, as they are, with their offsets."""
        end = await self.end(name)
        found: list[tuple[int, bytes]] = []
        if end <= start:
            return found
        number = self._take_id()
        chunks = self._listen(number)
        await self._client.subscribe(name, number, schema.OffsetSpecOffset(OffsetType.OFFSET, start), 50)
        while not found or found[-1][0] < end - 1:
            async with asyncio.timeout(self.answer_seconds):
                chunk = await chunks.get()
            await self._client.credit(number, 1)
            found += enumerate(map(bytes, chunk.get_messages()), chunk.chunk_first_offset)
        await self._unsubscribe(number)
        return [each for each in found if each[0] >= start]

    async def values(self, name: str) -> list[bytes]:
        """The payloads of all messages of a stream."""
        return [body_of(message) for _, message in await self.messages(name)]

    async def headers(self, name: str) -> list[dict[str, str]]:
        """The application properties of all messages of a stream."""
        found = [amqp_decoder(message).application_properties for _, message in await self.messages(name)]
        return [{str(key, "utf-8"): str(text, "utf-8") for key, text in (each or {}).items()} for each in found]

    async def end(self, name: str) -> int:
        """The offset behind the last record; 0 if there is none."""
        number = self._take_id()
        chunks = self._listen(number)
        await self._client.subscribe(name, number, schema.OffsetSpec(OffsetType.LAST), initial_credit=1)
        await self._unsubscribe(number)
        if chunks.empty():
            return 0
        last = chunks.get_nowait()
        return last.chunk_first_offset + last.num_records

    async def make_super(self, name: str, count: int, first: int = 0, segment_bytes: int = 0) -> list[str]:
        """Makes a super stream, or adds partitions to it: RabbitMQ before 3.13 has no command for that."""
        partitions = [f"{name}-{number}" for number in range(first, first + count)]
        async with await aio_pika.connect(self._server.url) as connection:
            channel = await connection.channel()
            exchange = await channel.declare_exchange(name, "direct", durable=True, arguments={"x-super-stream": True})
            for number, partition in enumerate(partitions, first):
                arguments: dict[str, Any] = {"x-queue-type": "stream"}
                if segment_bytes:
                    arguments["x-stream-max-segment-size-bytes"] = segment_bytes
                queue = await channel.declare_queue(partition, durable=True, arguments=arguments)
                await queue.bind(exchange, str(number), arguments={"x-stream-partition-order": number})
        return partitions

    async def delete_super(self, name: str, partitions: Sequence[str]) -> None:
        async with await aio_pika.connect(self._server.url) as connection:
            channel = await connection.channel()
            for partition in partitions:
                self._publishers.pop(partition, None)
                await channel.queue_delete(partition)
            await channel.exchange_delete(name)

    def folder(self, name: str) -> Path:
        """Where the server keeps a stream's segments."""
        (found,) = self._server.folder.glob(f"data/*/stream/__{name}_*")
        return found

    async def _confirmations(self, count: int) -> None:
        async with asyncio.timeout(self.answer_seconds):
            while count > 0:
                count -= await self._confirmed.get()

    def _on_confirm(self, frame: schema.PublishConfirm) -> None:
        self._confirmed.put_nowait(len(frame.publishing_ids))

    def _listen(self, number: int) -> asyncio.Queue[schema.Deliver]:
        self._chunks[number] = chunks = asyncio.Queue[schema.Deliver]()

        def on_chunk(frame: schema.Deliver) -> None:
            if frame.subscription_id == number:
                chunks.put_nowait(frame)

        # by the name of the subscription: rstream's listener hands chunks to queues of that name
        self._client._frames[number] = chunks
        self._client.add_handler(schema.Deliver, on_chunk, str(number))
        return chunks

    def _take_id(self) -> int:
        return self._ids.pop()

    async def _unsubscribe(self, number: int) -> None:
        await self._client.unsubscribe(number)
        self._client.remove_handler(schema.Deliver, str(number))
        self._ids.append(number)


def body_of(message: bytes) -> bytes:
    body = amqp_decoder(message).body
    return b"".join(map(bytes, body)) if not isinstance(body, bytes) else body
