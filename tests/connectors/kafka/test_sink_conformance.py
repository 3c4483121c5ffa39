"""Kafka topics pass the conformance kit as sinks: on one partition, so that a consumer sees one order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import pytest

from streamflow.testing.conformance import SinkConformance
from streamflow_kafka import Kafka, KafkaTopic
from tests.connectors.kafka.broker import QUICK, Broker


class TestKafkaSink(SinkConformance):
    config: ClassVar[dict[str, Any]] = {}
    environment: Broker
    topic: str

    @pytest.fixture(name="environment")
    def on_broker(self, broker: Broker) -> Broker:
        return broker

    async def start(self) -> None:
        self.topic = await self.environment.topic(**self.config)

    def spec(self) -> KafkaTopic[str]:
        return Kafka(self.environment.server.url, options=QUICK).topic(self.topic, value=str)

    def missing_spec(self) -> KafkaTopic[str]:
        return self.environment.kafka.topic("missing", value=str)

    async def visible(self) -> list[Any]:
        return [(value or b"").decode() for value in await self.environment.values(self.topic)]

    async def traceparents(self) -> list[str | None]:
        found = [dict(record.headers).get("traceparent") for record in await self.environment.records(self.topic)]
        return [None if text is None else text.decode() for text in found]

    def oversized(self) -> Any:
        return "x" * (1024 * 1024)

    async def write_foreign(self, values: Sequence[Any]) -> None:
        await self.environment.feed(self.topic, *[value.encode() for value in values])

    async def take_down(self) -> None:
        await self.environment.close()
        await self.environment.server.kill_async()

    async def bring_up(self) -> None:
        await self.environment.server.start_async()
        await self.environment.connect()

    async def replace(self) -> None:
        await self.environment.delete(self.topic)
        await self.environment.topic(name=self.topic)
