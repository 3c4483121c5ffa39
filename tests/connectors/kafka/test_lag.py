"""How far a running flow is behind, as tools that look at groups tell it."""

from __future__ import annotations

import asyncio
from pathlib import Path

from aiokafka import AIOKafkaConsumer, TopicPartition

import streamflow as sf
from streamflow_kafka import Kafka
from tests.connectors.kafka.broker import QUICK, Broker

GROUP = "told.orders"


async def told(broker: Broker, topic: str) -> tuple[int, int]:
    """What kafka-consumer-groups.sh shows of the one partition, CURRENT-OFFSET and LAG, asked as it asks."""
    place = TopicPartition(topic, 0)
    offsets = await broker.admin.list_consumer_group_offsets(GROUP)
    consumer = AIOKafkaConsumer(bootstrap_servers=broker.server.url, enable_auto_commit=False)
    await consumer.start()
    try:
        ends = await consumer.end_offsets([place])
    finally:
        await consumer.stop()
    return offsets[place].offset, ends[place] - offsets[place].offset


async def test_the_lag_of_a_running_flow(broker: Broker, tmp_path: Path):
    """Ten records are committed, five wait in a step: the tool says five, and none when they are through."""
    topic, gate = await broker.topic(), asyncio.Event()
    flow, out = sf.Flow("told", state=tmp_path / "flow.db"), sf.MemoryTopic("out", value=str)
    orders = flow.source(Kafka(broker.server.url, options=QUICK).topic(topic, value=str), name="orders")

    @orders.map(concurrency=64)
    async def held(order: str) -> str:
        if int(order) > 10:
            await gate.wait()
        return order

    held.to(out)
    async with flow.running():
        for numbers, committed, lag in ((range(1, 11), 10, 0), (range(11, 16), 10, 5)):
            await broker.feed(topic, *(b"%d" % number for number in numbers))
            async with asyncio.timeout(10):
                while await broker.group_offset(GROUP, topic) != committed:
                    await asyncio.sleep(0.05)
            assert await told(broker, topic) == (committed, lag)
        gate.set()
        async with asyncio.timeout(10):
            while await broker.group_offset(GROUP, topic) != 15:
                await asyncio.sleep(0.05)
        assert await told(broker, topic) == (15, 0)
    assert len(out) == 15
