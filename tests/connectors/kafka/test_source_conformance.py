"""Kafka topics pass the source conformance kit: one topic of several partitions, and topics by a pattern."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from typing import Any

import pytest

from streamflow.testing.conformance import SourceConformance
from streamflow_kafka import KafkaTopics
from tests.connectors.kafka.broker import QUICK, Broker, cut_log

_numbers = itertools.count(1)


class TestTopic(SourceConformance):
    environment: Broker
    read_ahead_records_max = 0

    @pytest.fixture(name="environment")
    def on_broker(self, broker: Broker) -> Broker:
        return broker

    async def start(self) -> None:
        self.topic = f"conf{next(_numbers)}"
        self.partitions = [f"{self.topic}:{number}" for number in range(2)]
        await self.environment.topic(2, self.topic)

    async def stop(self) -> None:
        await asyncio.to_thread(self.environment.server.start)

    def spec(self) -> KafkaTopics[bytes]:
        return self.environment.kafka.topic(getattr(self, "topic", "conf"), options=QUICK)

    def missing_spec(self) -> KafkaTopics[Any]:
        return self.environment.kafka.topic("missing", options=QUICK)

    async def feed(self, payloads: Sequence[bytes], partition: str = "") -> None:
        topic, _, number = partition.rpartition(":")
        await self.environment.feed(topic or self.topic, *payloads, partition=int(number or 0))

    async def truncate(self, count: int, partition: str = "") -> None:
        topic, _, number = partition.rpartition(":")
        await self.environment.delete_records(topic, count, int(number))

    async def lose(self, count: int, partition: str = "") -> None:
        topic, _, number = partition.rpartition(":")
        await self.environment.close()
        await self.environment.server.kill_async()
        cut_log(self.environment.server, topic, 10 - count, int(number))
        await self.bring_up()

    async def take_down(self) -> None:
        await self.environment.close()
        await self.environment.server.kill_async()

    async def bring_up(self) -> None:
        await self.environment.server.start_async()
        await self.environment.close()
        await self.environment.connect()

    async def replace(self) -> None:
        await self.environment.delete(self.topic)
        await self.environment.topic(2, self.topic)


class TestPattern(TestTopic):
    """Two topics of one partition each, by a pattern."""

    async def start(self) -> None:
        number = next(_numbers)
        self.names = [f"conf{number}a", f"conf{number}b"]
        self.topic = self.names[0]
        self.partitions = [f"{name}:0" for name in self.names]
        for name in self.names:
            await self.environment.topic(1, name)

    def spec(self) -> KafkaTopics[bytes]:
        return self.environment.kafka.topics(pattern=f"{getattr(self, 'topic', 'conf')[:-1]}[ab]")

    def missing_spec(self) -> KafkaTopics[Any]:
        return self.environment.kafka.topics(pattern="missing.*")

    async def replace(self) -> None:
        await self.environment.delete(self.topic)
        await self.environment.topic(1, self.topic)
