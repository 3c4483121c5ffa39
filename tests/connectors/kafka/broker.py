"""A Kafka server as an outsider sees it: topics made, fed and read with plain aiokafka."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic
from aiokafka.admin.records_to_delete import RecordsToDelete

from streamflow_kafka import Kafka, Options
from streamflow_kafka.batches import split
from tests.brokers import KafkaServer

_names = itertools.count(1)
QUICK = Options(timeout_seconds=3, refresh_seconds=0.2, fetch_wait_seconds=0.2)
"""Short waits, for tests."""


class Broker:
    """A server, and the hands of an outsider on it."""

    def __init__(self, server: KafkaServer) -> None:
        self.server = server
        self.kafka = Kafka(server.url, options=QUICK)
        self.admin: Any = None
        self.producer: Any = None

    async def connect(self) -> None:
        self.admin = AIOKafkaAdminClient(bootstrap_servers=self.server.url)
        await self.admin.start()
        self.producer = AIOKafkaProducer(bootstrap_servers=self.server.url, acks="all", max_request_size=8 << 20)
        await self.producer.start()

    async def close(self) -> None:
        for client, end in ((self.producer, "stop"), (self.admin, "close")):
            if client is not None:
                await getattr(client, end)()
        self.producer = self.admin = None

    # -- topics -----------------------------------------------------------------------------------

    async def topic(self, partitions: Any = 1, name: Any = "", **config: Any) -> Any:
        """Makes a topic, with a name of its own unless one is given."""
        name = name or f"t{next(_names)}"
        made = await self.admin.create_topics([NewTopic(name, partitions, 1, topic_configs=config)])
        assert [code for _, code, *_ in made.topic_errors] == [0], made
        await self._known(name, partitions)
        return name

    async def grow(self, topic: str, partitions: int) -> None:
        """Adds partitions to a topic."""
        made = await self.admin.create_partitions({topic: NewPartitions(partitions)})
        assert [code for _, code, *_ in made.topic_errors] == [0], made
        await self._known(topic, partitions)

    async def delete(self, topic: str) -> None:
        """Deletes a topic."""
        gone = await self.admin.delete_topics([topic])
        assert [code for _, code, *_ in gone.topic_error_codes] == [0], gone
        while topic in await self.admin.list_topics():
            await asyncio.sleep(0.02)

    async def _known(self, topic: str, partitions: int) -> None:
        """Waits until the broker says so itself, and the producer has heard of it."""
        for client in (self.admin._client, self.producer.client):
            while len(client.cluster.partitions_for_topic(topic) or ()) < partitions or any(
                (client.cluster.leader_for_partition(TopicPartition(topic, number)) or -1) < 0
                for number in range(partitions)
            ):
                await client.add_topic(topic)
                await client.force_metadata_update()
                await asyncio.sleep(0.02)

    # -- records ----------------------------------------------------------------------------------

    async def feed(self, topic: str, *values: bytes | None, partition: int = 0, **more: Any) -> None:
        """Appends records, each in a batch of its own."""
        for value in values:
            await self.producer.send_and_wait(topic, value, partition=partition, **more)

    async def feed_batch(
        self, topic: str, values: Sequence[bytes], partition: int = 0, compression: str | None = None
    ) -> None:
        """Appends records in one batch."""
        async with self.other_producer(compression_type=compression, max_batch_size=64 << 20) as producer:
            batch = producer.create_batch()
            for value in values:
                assert batch.append(key=None, value=value, timestamp=None) is not None
            await (await producer.send_batch(batch, topic, partition=partition))

    @contextlib.asynccontextmanager
    async def other_producer(self, **options: Any) -> AsyncIterator[Any]:
        """A producer of another kind: compressing, transactional ..."""
        producer = AIOKafkaProducer(
            bootstrap_servers=self.server.url, **{"acks": "all", "max_request_size": 64 << 20, **options}
        )
        await producer.start()
        try:
            yield producer
        finally:
            await producer.stop()

    async def delete_records(self, topic: str, before: int, partition: int = 0) -> None:
        """Deletes the first records, as retention does."""
        await self._known(topic, 1)
        await self.admin.delete_records({TopicPartition(topic, partition): RecordsToDelete(before)})

    async def group_offset(self, group: str, topic: str, partition: int = 0) -> int:
        """What a group says of a partition; -1 for nothing."""
        with contextlib.suppress(Exception):
            found = await self.admin.list_consumer_group_offsets(group)
            for place, at in found.items():
                if place == TopicPartition(topic, partition):
                    return int(at.offset)
        return -1

    async def values(self, topic: str) -> list[bytes | None]:
        """The values of a topic's committed records, partition by partition."""
        return [record.value for record in await self.records(topic)]

    async def records(self, topic: str) -> list[Any]:
        """A topic's committed records, partition by partition."""
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self.server.url, isolation_level="read_committed", enable_auto_commit=False
        )
        await consumer.start()
        try:
            await consumer._client.add_topic(topic)  # else it knows of none
            places = [TopicPartition(topic, number) for number in sorted(consumer.partitions_for_topic(topic) or ())]
            consumer.assign(places)
            await consumer.seek_to_beginning(*places)
            found: dict[Any, list[Any]] = {place: [] for place in places}
            # to the last record, not to the last committed one: a commit is visible a moment after it is answered
            while any([consumer.highwater(place) != await consumer.position(place) for place in places]):
                for place, records in (await consumer.getmany(timeout_ms=20)).items():
                    found[place] += records
            return [record for place in places for record in found[place]]
        finally:
            await consumer.stop()


def cut_log(server: KafkaServer, topic: str, records: int, partition: int = 0) -> None:
    """Takes everything behind so many batches out of a partition's file, as a disk that lost it; the server is down."""
    assert not server.running
    folder = Path(server.folder) / "data" / f"{topic}-{partition}"
    log = folder / f"{0:020}.log"
    data = log.read_bytes()
    kept = split(data, f"{topic}:{partition}")[:records]
    assert len(kept) == records
    log.write_bytes(data[: sum(len(batch.data) for batch in kept)])
    for other in folder.iterdir():
        if other.suffix in (".index", ".timeindex", ".txnindex", ".snapshot"):
            other.unlink()
