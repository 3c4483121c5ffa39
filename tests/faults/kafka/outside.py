"""Whoever is outside of the flow: makes topics, feeds numbered records, reads results, all with plain aiokafka."""

from __future__ import annotations

import asyncio
import contextlib
import json
import zlib
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError

from tests.brokers import KafkaServer
from tests.connectors.kafka.broker import Broker
from tests.faults.feeder import AHEAD_RECORDS_MAX, Feeder

UNKNOWN_SECONDS = 10.0
TROUBLE = (OSError, KafkaError, TimeoutError, asyncio.TimeoutError)


async def make_topic(server: KafkaServer, name: str, partitions: int, **config: Any) -> None:
    """Makes a topic."""
    broker = Broker(server)
    await broker.connect()
    try:
        await broker.topic(partitions, name, **config)
    finally:
        await broker.close()


class Outsider:
    """A plain reader of committed records, as somebody else would use it."""

    def __init__(self, server: KafkaServer) -> None:
        self._server = server
        self._readers: dict[str, Any] = {}
        self._seen: dict[str, dict[int, list[bytes]]] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for reader in self._readers.values():
            await reader.stop()

    async def count(self, topic: str) -> int:
        """Committed records in a topic."""
        return sum(map(len, (await self._read(topic)).values()))

    async def results(self, topic: str) -> list[dict[str, Any]]:
        """Every committed record of a topic, partition by partition."""
        reader = await self._reader(topic)
        places = sorted(reader.assignment())
        ends = await reader.end_offsets(places)
        seen = await self._read(topic)
        while any([await reader.position(place) < ends[place] for place in places]):
            seen = await self._read(topic)
        return [json.loads(value) for place in places for value in seen[place.partition]]

    async def ends(self, topic: str) -> dict[int, int]:
        """Where the partitions of a topic end."""
        reader = await self._reader(topic)
        return {place.partition: at for place, at in (await reader.end_offsets(list(reader.assignment()))).items()}

    async def _read(self, topic: str) -> dict[int, list[bytes]]:
        """Reads on; returns the values seen so far by partition."""
        reader = await self._reader(topic)
        seen = self._seen[topic]
        while found := await reader.getmany(timeout_ms=20, max_records=5000):
            for place, records in found.items():
                seen[place.partition] += [record.value for record in records]
        return seen

    async def _reader(self, topic: str) -> Any:
        if topic not in self._readers:
            reader = AIOKafkaConsumer(
                bootstrap_servers=self._server.url,
                isolation_level="read_committed",
                enable_auto_commit=False,
                auto_offset_reset="earliest",
                fetch_max_wait_ms=20,
            )
            await reader.start()
            self._readers[topic] = reader
            await reader._client.add_topic(topic)
            while not reader.partitions_for_topic(topic):
                await reader._client.force_metadata_update()
            numbers = sorted(reader.partitions_for_topic(topic))
            reader.assign([TopicPartition(topic, number) for number in numbers])
            self._seen[topic] = {number: [] for number in numbers}
        return self._readers[topic]


class KafkaFeeder(Feeder):
    """Publishes to a topic, each key to one partition, a batch per partition at a time.

    It is the only publisher: after a lost connection the ends of the partitions tell which batches landed, and the rest
    is published again.
    """

    def __init__(
        self, server: KafkaServer, topic: str, results: str, partitions: int, seed: int, bursts: Sequence[int]
    ) -> None:
        super().__init__(seed, bursts)
        self._server, self._topic, self._results, self.partitions = server, topic, results, partitions
        self._ends: dict[int, int] = {}
        self._pending: dict[int, list[tuple[str, bytes]]] = {}

    async def feed(self, count: int) -> None:
        """Publishes records now, instead of by itself while a block lasts."""
        self._plan([self._record() for _ in range(count)])
        async with self._producer() as producer:
            await self._publish(producer)
        self.acknowledged = self.total

    async def _feed(self) -> None:
        while not self._stopping or self._pending:
            with contextlib.suppress(*TROUBLE):
                async with Outsider(self._server) as outsider, self._producer() as producer:
                    self._forget_landed(await outsider.ends(self._topic))
                    while not self._stopping or self._pending:
                        if not self._pending and await self._may_feed(outsider):
                            self._plan(self._burst())
                        await self._publish(producer)
                        self.acknowledged = self.total
                        await asyncio.sleep(0.03)
            if not self._stopping or self._pending:
                await asyncio.sleep(0.05)

    def _plan(self, records: list[tuple[str, bytes]]) -> None:
        for key, payload in records:
            number = zlib.crc32(key.partition("-")[0].encode()) % self.partitions
            self._pending.setdefault(number, []).append((key, payload))

    def _forget_landed(self, ends: dict[int, int]) -> None:
        for number, end in ends.items():
            landed = end - self._ends.get(number, 0)
            if landed and self._pending.get(number):
                assert landed == len(self._pending[number]), f"half a batch landed: {landed}"
                del self._pending[number]
            self._ends[number] = end

    @contextlib.asynccontextmanager
    async def _producer(self) -> Any:
        producer = AIOKafkaProducer(
            bootstrap_servers=self._server.url,
            enable_idempotence=True,
            max_batch_size=8 << 20,
            request_timeout_ms=int(UNKNOWN_SECONDS * 1000),
        )
        await producer.start()
        try:
            yield producer
        finally:
            with contextlib.suppress(*TROUBLE):
                async with asyncio.timeout(UNKNOWN_SECONDS):
                    await producer.stop()

    async def _publish(self, producer: Any) -> None:
        for number in sorted(self._pending):
            batch = producer.create_batch()
            for key, payload in self._pending[number]:
                assert batch.append(key=key.partition("-")[0].encode(), value=payload, timestamp=None) is not None
            async with asyncio.timeout(UNKNOWN_SECONDS):
                told = await (await producer.send_batch(batch, self._topic, partition=number))
            self._ends[number] = told.offset + len(self._pending.pop(number))

    async def _may_feed(self, outsider: Outsider) -> bool:
        return not self.paused and self.total - await outsider.count(self._results) < AHEAD_RECORDS_MAX
