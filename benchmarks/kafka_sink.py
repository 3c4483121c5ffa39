"""How fast a topic is written: the sink beside the best loop on aiokafka's transactions, records of 100 bytes."""

from __future__ import annotations

import asyncio
import gc
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.partitioner import murmur2
from aiokafka.structs import OffsetAndMetadata

from streamflow.batch import Chunk, Fragment, MicroBatch, Progress, pack_frames
from streamflow.connect.contracts import SinkContext, SinkOptions
from streamflow_kafka import Kafka, Options
from tests.brokers import KafkaServer
from tests.faults.kafka.outside import make_topics

RECORDS: Final = 120_000
ROUNDS: Final = 5
CHUNK_RECORDS: Final = 600
"""About 64 kB, the default of ``Settings.chunk_bytes``."""
GOAL: Final = 0.8
BATCH_BYTES: Final = 256 * 1024
KEYS: Final = 1_000


@dataclass(frozen=True)
class Shape:
    """What is written, and how many chunks of it go into one transaction."""

    name: str
    partitions: int
    keyed: bool
    run_chunks: int


SHAPES: Final = (
    Shape("1 partition, no keys, 64 chunks in a transaction", 1, False, 64),
    Shape("6 partitions, keys, 64 chunks in a transaction", 6, True, 64),
    Shape("1 partition, no keys, 4 chunks in a transaction", 1, False, 4),
)


async def through_sink(server: KafkaServer, topic: str, shape: Shape, payloads: Sequence[bytes]) -> float:
    """Publishes runs as the engine does; what was encoded on arrival is not counted. Returns records a second."""
    spec = Kafka(server.url, options=Options(batch_bytes=BATCH_BYTES)).topic(topic)
    sink = spec.sink(SinkOptions(key=key_of if shape.keyed else None))
    chunks: list[Chunk] = []
    for first in range(0, len(payloads), CHUNK_RECORDS):
        values = list(payloads[first : first + CHUNK_RECORDS])
        frames = sink.encode(Fragment(MicroBatch(1, 0), values, True))
        chunks.append(Chunk("out", len(chunks) + 1, 0, first + 1, len(frames), pack_frames(frames)))
    await sink.open(SinkContext("bench", "out", 0, topic, 1))
    try:
        at: Progress = await sink.recover(None, [])
        gc.collect()  # what is left of encoding
        began = time.perf_counter()
        for first in range(0, len(chunks), shape.run_chunks):
            at = await sink.publish(chunks[first : first + shape.run_chunks], at)
        assert at.next_seq == len(payloads) + 1
        return len(payloads) / (time.perf_counter() - began)
    finally:
        await sink.close()


async def through_aiokafka(server: KafkaServer, topic: str, shape: Shape, payloads: Sequence[bytes]) -> float:
    """The same transactions, a marker in each, with batches that are filled by hand; returns records a second."""
    producer = AIOKafkaProducer(
        bootstrap_servers=server.url, transactional_id=f"bench-{topic}", max_batch_size=BATCH_BYTES
    )

    @lru_cache(KEYS)
    def partition_of(key: bytes) -> int:
        return int((murmur2(key) & 0x7FFFFFFF) % shape.partitions)

    await producer.start()
    try:
        began = time.perf_counter()
        run = CHUNK_RECORDS * shape.run_chunks
        for first in range(0, len(payloads), run):
            async with producer.transaction():
                await _fill(producer, topic, payloads[first : first + run], partition_of if shape.keyed else None)
                marker = {TopicPartition(topic, 0): OffsetAndMetadata(first, "")}
                await producer.send_offsets_to_transaction(marker, f"bench-{topic}")
        return len(payloads) / (time.perf_counter() - began)
    finally:
        await producer.stop()


async def _fill(
    producer: Any, topic: str, payloads: Sequence[bytes], partition_of: Callable[[bytes], int] | None
) -> None:
    open_ones: dict[int, Any] = {}
    sent: list[Any] = []
    now_ms = int(time.time() * 1000)
    for payload in payloads:
        key = None if partition_of is None else key_of(payload)
        partition = 0 if partition_of is None or key is None else partition_of(key)
        batch = open_ones.get(partition)
        if batch is None:
            batch = open_ones[partition] = producer.create_batch()
        if batch.append(timestamp=now_ms, key=key, value=payload) is None:
            sent.append(await producer.send_batch(batch, topic, partition=partition))
            batch = open_ones[partition] = producer.create_batch()
            batch.append(timestamp=now_ms, key=key, value=payload)
    for partition, batch in open_ones.items():
        sent.append(await producer.send_batch(batch, topic, partition=partition))
    await asyncio.gather(*sent)


def key_of(payload: bytes) -> bytes:
    """The first few bytes."""
    return payload[:6]


Run = Callable[[KafkaServer, str, Shape, Sequence[bytes]], Awaitable[float]]
RUNS: Final[dict[str, Run]] = {"sink": through_sink, "aiokafka": through_aiokafka}


async def compare(server: KafkaServer, shape: Shape) -> None:
    """Prints interleaved runs of the two, and the median of their ratios."""
    print(shape.name)
    payloads = [f"{number % KEYS:06}{number:08}".encode().ljust(100, b".") for number in range(RECORDS)]
    ratios = []
    for turn in range(-1, ROUNDS):  # the first imports and warms the broker
        found: dict[str, float] = {}
        for name in (list(RUNS), list(reversed(RUNS)))[turn % 2]:
            topic = f"{name}-{SHAPES.index(shape)}-{turn + 1}"
            await make_topics(server, topic, partitions=shape.partitions)
            gc.collect()
            found[name] = await RUNS[name](server, topic, shape, payloads)
        if turn >= 0:
            ratios.append(found["sink"] / found["aiokafka"])
            print(
                "  " + "   ".join(f"{name} {found[name]:>9,.0f}/s" for name in RUNS) + f"   {ratios[-1]:.2f}",
                flush=True,
            )
    print(f"  sink against aiokafka: {statistics.median(ratios):.2f}; to stay above {GOAL}")


async def measure() -> None:
    """Prints every shape."""
    async with KafkaServer() as server:
        for shape in SHAPES:
            await compare(server, shape)


def main() -> None:
    print("records/s of 100 bytes into Kafka, in transactions with a marker; encoding not counted")
    asyncio.run(measure())


if __name__ == "__main__":
    main()
