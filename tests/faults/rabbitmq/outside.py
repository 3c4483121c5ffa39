"""Whoever is outside of the flow: makes queues, feeds numbered records, collects results, all with plain aio-pika."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Any

import aio_pika
from aio_pika.abc import AbstractIncomingMessage
from aiormq.exceptions import AMQPError

from tests.brokers import RabbitServer
from tests.faults.feeder import PAUSE_SECONDS, Feeder

TROUBLE = (OSError, AMQPError, RuntimeError, TimeoutError)
UNKNOWN_SECONDS = 10.0
AGAIN_SECONDS = 0.4
"""Between two attempts to connect: aio-pika's take so much of the processor that a broker needs longer to start."""


async def make_queue(
    server: RabbitServer, name: str, kind: str, exchange: str = "", *, collected: bool = False
) -> None:
    """Makes a durable queue, and, if asked for, an exchange that leads to it.

    Args:
        server: Where.
        name: Of the queue.
        kind: ``classic`` or ``quorum``.
        exchange: Name of the exchange.
        collected: Whether a `Collector` reads it. It has a single active consumer then: who comes back after a lost
            connection, or a kill of the broker, gets nothing before what it held is back in its place.
    """
    arguments: dict[str, Any] = {"x-queue-type": kind, **({"x-single-active-consumer": True} if collected else {})}
    connection = await aio_pika.connect(server.url)
    try:
        channel = await connection.channel()
        queue = await channel.declare_queue(name, durable=True, arguments=arguments)
        if exchange:
            await queue.bind(await channel.declare_exchange(exchange, "topic", durable=True), "a.*")
    finally:
        await connection.close()


async def depth(server: RabbitServer, queue: str) -> int:
    """Messages that are ready in a queue."""
    connection = await aio_pika.connect(server.url)
    try:
        channel = await connection.channel()
        declared = await channel.declare_queue(queue, passive=True)
        return int(declared.declaration_result.message_count or 0)
    finally:
        await connection.close()


class Collector:
    """A consumer that takes results out of a queue as they come, and remembers the id of each.

    It acknowledges what it has; where its connection ends, what it had not acknowledged comes again under its id.
    """

    def __init__(self, server: RabbitServer, queue: str, *, exact: bool) -> None:
        self.exact = exact
        self.found: list[tuple[str, bytes]] = []
        self.ids: set[str] = set()
        self._server, self._queue = server, queue
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._collect())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def count(self, name: str) -> int:
        """Results that came, each id counted once."""
        return len(self.ids)

    async def results(self, name: str) -> list[dict[str, Any]]:
        """What a consumer makes of them that remembers ids; all of them where the sink must be exact."""
        if self.exact:
            return [json.loads(body) for _, body in self.found]
        first: dict[str, bytes] = {}
        for message_id, body in self.found:
            first.setdefault(message_id, body)
        return [json.loads(body) for body in first.values()]

    @property
    def doubled(self) -> int:
        """How many came more than once."""
        return len(self.found) - len(self.ids)

    async def _collect(self) -> None:
        while True:
            try:
                connection = await aio_pika.connect(self._server.url, timeout=2)
            except TROUBLE:
                await asyncio.sleep(AGAIN_SECONDS)
                continue
            try:
                channel = await connection.channel()
                await channel.set_qos(prefetch_count=500)
                queue = await channel.get_queue(self._queue)
                await queue.consume(self._take)
                while not channel.is_closed:
                    await asyncio.sleep(0.05)
            except TROUBLE:
                await asyncio.sleep(0.1)
            finally:
                await connection.close()

    async def _take(self, message: AbstractIncomingMessage) -> None:
        self.found.append((str(message.message_id), message.body))
        self.ids.add(str(message.message_id))
        try:
            await message.ack()
        except TROUBLE:
            return


class RabbitFeeder(Feeder):
    """Publishes to a queue, each record under an id of its own.

    Where its connection ends, it publishes the burst again that was on its way, as a producer does that follows the
    rules: the ids are the same, and what landed is a beginning of it.
    """

    def __init__(
        self, server: RabbitServer, queue: str, results: Callable[[], Awaitable[int]], seed: int, bursts: Sequence[int]
    ) -> None:
        super().__init__(seed, bursts)
        self.repeated = 0
        self._server, self._queue, self._results = server, queue, results

    async def feed(self, count: int) -> None:
        """Publishes records now, instead of by itself while a block lasts."""
        connection = await aio_pika.connect(self._server.url)
        try:
            await _publish(connection, self._queue, [self._record() for _ in range(count)])
        finally:
            await connection.close()
        self.acknowledged = self.total

    async def _feed(self) -> None:
        pending: list[tuple[str, bytes]] = []
        while not self._stopping or pending:
            try:
                connection = await aio_pika.connect(self._server.url, timeout=2)
            except TROUBLE:
                await asyncio.sleep(AGAIN_SECONDS)
                continue
            try:
                while not self._stopping or pending:
                    if not pending and await self._may_feed():
                        pending = self._burst()
                    await _publish(connection, self._queue, pending)
                    pending.clear()
                    self.acknowledged = self.total
                    await asyncio.sleep(PAUSE_SECONDS)
            except TROUBLE:
                self.repeated += len(pending)
                await asyncio.sleep(0.05)
            finally:
                await connection.close()

    async def _may_feed(self) -> bool:
        return await self._is_near(self._results)


async def _publish(connection: Any, queue: str, records: list[tuple[str, bytes]]) -> None:
    """Publishes records on one channel, in order, and waits for the confirm of each."""
    if not records:
        return
    channel = await connection.channel()
    async with asyncio.timeout(UNKNOWN_SECONDS):
        await asyncio.gather(
            *(
                channel.default_exchange.publish(
                    aio_pika.Message(body, message_id=name, delivery_mode=2), routing_key=queue
                )
                for name, body in records
            )
        )
    await channel.close()


class Outside:
    """A `Collector` for as long as a block lasts."""

    def __init__(self, collector: Collector) -> None:
        self._collector = collector

    async def __aenter__(self) -> Collector:
        return self._collector

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None
