"""A topic with sinks on it, and what an outsider sees of them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.protocol.admin import DeleteGroupsRequest

from streamflow.batch import Chunk, Fragment, MicroBatch, Progress, pack_frames
from streamflow.connect.contracts import SinkContext, SinkOptions
from streamflow_kafka import Kafka, KafkaTopic
from streamflow_kafka.settings import Options
from streamflow_kafka.sink import KafkaSink
from tests.connectors.kafka.broker import QUICK, Broker


class Stage:
    """A topic, and sinks that are closed when the test ends."""

    def __init__(self, broker: Broker, topic: str) -> None:
        self.broker, self.topic = broker, topic
        self.fence = f"sf.f.{topic}.0.out"
        self.sinks: list[KafkaSink] = []

    def spec(self, options: Options = QUICK, **more: Any) -> KafkaTopic[str]:
        spec: KafkaTopic[str] = Kafka(self.broker.server.url, options=options).topic(self.topic, value=str, **more)
        return spec

    async def open(self, generation: int = 1, *, options: Options = QUICK, nulls: bool = False, **to: Any) -> KafkaSink:
        sink = self.spec(options, nulls=nulls).sink(SinkOptions(**to))
        assert isinstance(sink, KafkaSink)
        self.sinks.append(sink)
        await sink.open(SinkContext("f", "out", 0, self.topic, generation))
        return sink

    async def begun(self, generation: int = 1, **to: Any) -> tuple[KafkaSink, Progress]:
        """A sink, and its baseline."""
        sink = await self.open(generation, **to)
        return sink, await sink.recover(None, [])

    async def close(self) -> None:
        for sink in self.sinks:
            await sink.close()

    # what an outsider sees

    async def records(self, isolation: str = "read_committed") -> list[Any]:
        """All records of the topic, partition by partition."""
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self.broker.server.url, isolation_level=isolation, enable_auto_commit=False
        )
        await consumer.start()
        try:
            await consumer._client.add_topic(self.topic)
            places = [TopicPartition(self.topic, each) for each in sorted(consumer.partitions_for_topic(self.topic))]
            consumer.assign(places)
            await consumer.seek_to_beginning(*places)
            found: dict[Any, list[Any]] = {place: [] for place in places}
            while any([consumer.highwater(place) != await consumer.position(place) for place in places]):
                for place, records in (await consumer.getmany(timeout_ms=20)).items():
                    found[place] += records
            return [record for place in places for record in found[place]]
        finally:
            await consumer.stop()

    async def marker(self) -> tuple[int, dict[str, Any]]:
        """The offset of the sink's group, as the admin client tells it."""
        found = await self.broker.admin.list_consumer_group_offsets(self.fence)
        assert set(found) <= {TopicPartition(self.topic, 0)}
        at = found.get(TopicPartition(self.topic, 0))
        return (-1, {}) if at is None or at.offset < 0 else (at.offset, json.loads(at.metadata))

    async def marker_at(self, offset: int) -> dict[str, Any]:
        """Waits until the marker stands there, a moment after the commit is answered; returns its metadata."""
        async with asyncio.timeout(5):
            while True:
                found, metadata = await self.marker()
                if found == offset:
                    return metadata
                await asyncio.sleep(0.01)

    async def forget_marker(self) -> None:
        """What a broker does by itself when nobody has moved the marker for offsets.retention.minutes."""
        assert (await self.marker())[0] >= 0
        client = self.broker.admin._client
        coordinator = await client.coordinator_lookup(0, self.fence)
        answer = await client.send(coordinator, DeleteGroupsRequest([self.fence]))
        assert [code for _, code in answer.results] == [0], answer
        assert (await self.marker())[0] < 0

    async def set_limit(self, size_bytes: int) -> None:
        """Lowers ``max.message.bytes`` of the topic."""
        resource = ConfigResource(ConfigResourceType.TOPIC, self.topic, configs={"max.message.bytes": str(size_bytes)})
        await self.broker.admin.alter_configs([resource])
        await asyncio.sleep(0.2)  # it is not in force at once


def fragment(values: Sequence[Any], keys: Sequence[Any] | None = None) -> Fragment:
    return Fragment(MicroBatch(1, 0), list(values), True, None if keys is None else list(keys))


def chunk(sink: Any, epoch: int, first_seq: int, values: Sequence[Any], keys: Sequence[Any] | None = None) -> Chunk:
    frames = list(sink.encode(fragment(values, keys)))
    return Chunk("out", epoch, 0, first_seq, len(frames), pack_frames(frames))


def values_of(records: Sequence[Any]) -> list[str | None]:
    return [None if record.value is None else record.value.decode() for record in records]
