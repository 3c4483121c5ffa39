"""Whoever is outside of the flow: makes topics, feeds numbered records, reads results, all with plain aiokafka."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError

from tests.brokers import KafkaServer
from tests.faults.feeder import PAUSE_SECONDS, Feeder

PARTITIONS = 3
SEND_SECONDS = 3.0
SILENT_POLLS = 5
KNOWN_SECONDS = 20.0
"""Before, a broker that has just started knows its topics again; it answers earlier."""


async def make_topics(server: KafkaServer, *names: str, partitions: int = PARTITIONS, **config: str) -> None:
    """Makes topics, and waits until the server says that they have leaders."""
    admin = AIOKafkaAdminClient(bootstrap_servers=server.url)
    await admin.start()
    try:
        made = await admin.create_topics([NewTopic(name, partitions, 1, topic_configs=config) for name in names])
        assert all(code == 0 for _, code, *_ in made.topic_errors), made
        while True:
            told = await admin.describe_topics(list(names))
            if all(
                topic["error_code"] == 0 and all(part["leader"] >= 0 for part in topic["partitions"]) for topic in told
            ):
                return
            await asyncio.sleep(0.02)
    finally:
        await admin.close()


class Outsider:
    """A plain aiokafka consumer of committed records, as somebody else would use it; it reads what it is asked for."""

    def __init__(self, server: KafkaServer, isolation: str = "read_committed") -> None:
        self._server, self._isolation = server, isolation
        self._found: dict[str, list[dict[str, Any]]] = {}
        self._consumers: dict[str, Any] = {}
        self._started: list[Any] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for consumer in self._started:
            # where the server was killed, aiokafka may wait for ever, or raise that its own tasks were cancelled
            stopping = asyncio.create_task(consumer.stop())
            await asyncio.wait([stopping], timeout=SEND_SECONDS)
            if not stopping.cancel() and not stopping.cancelled():
                stopping.exception()

    async def count(self, topic: str) -> int:
        """How many records there are now."""
        return len(await self._read(topic))

    async def results(self, topic: str) -> list[dict[str, Any]]:
        """Reads a topic from its first record to its last, partition by partition."""
        return list(await self._read(topic))

    async def last_records(self, topic: str) -> list[dict[str, Any]]:
        """The last record of each partition."""
        last = {each["partition"]: each for each in await self._read(topic)}
        return list(last.values())

    async def seen(self, topic: str, partition: int) -> int:
        """How many records of a partition a reader sees that gives up after a while: an open transaction hides some."""
        consumer = self._consumers.get(topic) or await self._consumer(topic)
        place = TopicPartition(topic, partition)
        count = silent = 0
        while silent < SILENT_POLLS:
            found = (await consumer.getmany(place, timeout_ms=100)).get(place, [])
            count, silent = count + len(found), 0 if found else silent + 1
        return count

    async def _read(self, topic: str) -> list[dict[str, Any]]:
        """Reads what is new, until the reader stands behind the last record, committed or not."""
        found = self._found.setdefault(topic, [])
        consumer = self._consumers.get(topic) or await self._consumer(topic)
        places = consumer.assignment()
        while True:
            for place, records in (await consumer.getmany(timeout_ms=20)).items():
                found += [{**json.loads(each.value), "partition": place.partition} for each in records]
            if not any([consumer.highwater(place) != await consumer.position(place) for place in places]):
                return found

    async def _consumer(self, topic: str) -> Any:
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self._server.url, isolation_level=self._isolation, enable_auto_commit=False
        )
        self._started.append(consumer)
        await consumer.start()
        await consumer._client.add_topic(topic)
        async with asyncio.timeout(KNOWN_SECONDS):
            while not consumer.partitions_for_topic(topic):
                await asyncio.sleep(0.02)
                await consumer._client.force_metadata_update()
        places = [TopicPartition(topic, number) for number in sorted(consumer.partitions_for_topic(topic))]
        consumer.assign(places)
        await consumer.seek_to_beginning(*places)
        self._consumers[topic] = consumer
        return consumer


class KafkaFeeder(Feeder):
    """Publishes to a topic, a key always to the same partition.

    It is the only producer, and idempotent: what it sends again after a lost answer is there once. Where it has to make
    another producer, it first looks which records landed, and publishes only the rest.
    """

    def __init__(self, server: KafkaServer, topic: str, results: str, seed: int, bursts: Sequence[int]) -> None:
        super().__init__(seed, bursts)
        self._server, self._topic, self._results = server, topic, results

    async def feed(self, count: int) -> None:
        """Publishes records now, instead of by itself while a block lasts."""
        async with Producer(self._server) as producer:
            await self._publish(producer, [self._record() for _ in range(count)])
        self.acknowledged = self.total

    async def _feed(self) -> None:
        pending: list[tuple[str, bytes]] = []
        while not self._stopping or pending:
            try:
                async with Outsider(self._server) as outsider, Outsider(self._server) as results:
                    async with asyncio.timeout(5 * SEND_SECONDS):
                        there = {f"{each['key']}-{each['n']}" for each in await outsider.results(self._topic)}
                    pending = [record for record in pending if record[0] not in there]
                    async with Producer(self._server) as producer:
                        while not self._stopping or pending:
                            if not pending and await self._may_feed(results):
                                pending = self._burst()
                            await self._publish(producer, pending)
                            pending.clear()
                            self.acknowledged = self.total
                            await asyncio.sleep(PAUSE_SECONDS)
            except (OSError, KafkaError, TimeoutError):
                await asyncio.sleep(0.1)

    async def _may_feed(self, results: Outsider) -> bool:
        try:
            async with asyncio.timeout(SEND_SECONDS):
                return await self._is_near(lambda: results.count(self._results))
        except TimeoutError:
            # a killed broker has left a transaction undecided; what the sink publishes next gets readers going
            return True

    async def _publish(self, producer: Any, records: list[tuple[str, bytes]]) -> None:
        async with asyncio.timeout(SEND_SECONDS):
            sent = [
                await producer.send(self._topic, content, partition=int(name.partition("-")[0][1:]) % PARTITIONS)
                for name, content in records
            ]
            await asyncio.gather(*sent)


class Producer:
    """An idempotent producer, which is thrown away without ceremony where its server is gone."""

    def __init__(self, server: KafkaServer) -> None:
        self._producer = AIOKafkaProducer(
            bootstrap_servers=server.url, enable_idempotence=True, request_timeout_ms=2500, linger_ms=5
        )

    async def __aenter__(self) -> Any:
        try:
            async with asyncio.timeout(5 * SEND_SECONDS):
                await self._producer.start()
        except BaseException as error:
            await self.__aexit__(type(error), error, None)
            raise
        return self._producer

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            async with asyncio.timeout(SEND_SECONDS):
                await self._producer.stop()
        except TimeoutError:
            await self._producer.client.close()
