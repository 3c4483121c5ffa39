"""Kafka: how fast a source reads beside the best plain loop over aiokafka, the same records, interleaved."""

from __future__ import annotations

import asyncio
import gc
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Final

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from benchmarks import kafka_sink
from streamflow.connect.contracts import SourceContext
from streamflow_kafka import Kafka
from tests.brokers import KafkaServer

RECORDS: Final = 200_000
ROUNDS: Final = 5
PARTITIONS: Final = 3
PAYLOAD: Final = b"x" * 100
COMPRESSIONS: Final = (None, "zstd")
_CONTEXT: Final = SourceContext("bench", "source", 0, "i", 1)


async def fill(server: KafkaServer, topic: str, compression: str | None) -> None:
    """Makes a topic and writes the records."""
    admin = AIOKafkaAdminClient(bootstrap_servers=server.url)
    await admin.start()
    await admin.create_topics([NewTopic(topic, PARTITIONS, 1)])
    await admin.close()
    producer = AIOKafkaProducer(bootstrap_servers=server.url, compression_type=compression, max_batch_size=128 * 1024)
    await producer.start()
    for number in range(RECORDS):
        await producer.send(topic, PAYLOAD, partition=number % PARTITIONS)
    await producer.stop()


async def plain(server: KafkaServer, topic: str) -> float:
    """Reads all with getmany; returns seconds."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=server.url, isolation_level="read_committed", enable_auto_commit=False
    )
    await consumer.start()
    consumer.assign([TopicPartition(topic, number) for number in range(PARTITIONS)])
    await consumer.seek_to_beginning()
    began, count = time.perf_counter(), 0
    while count < RECORDS:
        for records in (await consumer.getmany(timeout_ms=1000)).values():
            count += len(records)
    took = time.perf_counter() - began
    await consumer.stop()
    return took


async def ours(server: KafkaServer, topic: str) -> float:
    """Reads all with the source; returns seconds, opening not counted, as for `plain`."""
    source = Kafka(server.url).topic(topic).source()
    began, count = time.perf_counter(), 0
    await source.open(_CONTEXT, {})
    while count < RECORDS:
        batch = await source.read()
        assert batch is not None
        count += len(batch)
    took = time.perf_counter() - began
    await source.close()
    return took


async def measure(server: KafkaServer, compression: str | None) -> None:
    """Prints the figures for one kind of topic."""
    topic = f"bench-{compression or 'plain'}"
    await fill(server, topic, compression)
    ways: dict[str, Callable[[KafkaServer, str], Awaitable[float]]] = {"aiokafka": plain, "source": ours}
    took: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            gc.collect()
            took[name].append(await way(server, topic))
    speeds = {name: RECORDS / statistics.median(seconds) for name, seconds in took.items()}
    ratio = statistics.median(there / here for there, here in zip(took["aiokafka"], took["source"], strict=True))
    print(
        f"source, {compression or 'uncompressed':<12} {speeds['source']:>10,.0f} records/s, aiokafka getmany "
        f"{speeds['aiokafka']:>10,.0f}; ratio {ratio:.2f}",
        flush=True,
    )


async def run() -> None:
    async with KafkaServer() as server:
        for compression in COMPRESSIONS:
            await measure(server, compression)


def main() -> None:
    asyncio.run(run())
    kafka_sink.main()
