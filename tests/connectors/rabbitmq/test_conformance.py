"""RabbitMQ queues and exchanges pass the conformance kit: classic and quorum as sources; both modes as sinks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, ClassVar

import pytest
import pytest_asyncio

from streamflow.connect.contracts import Level
from streamflow.testing.conformance import SinkConformance, SourceConformance
from streamflow_rabbitmq import Limits, RabbitMQ, RabbitQueue
from tests.connectors.rabbitmq.kit import DECLARED_SECONDS
from tests.connectors.rabbitmq.outsider import QUICK, Outsider, fresh
from tests.faults.proxy import Line


class RabbitStage:
    """Hooks that source and sink share."""

    arguments: ClassVar[dict[str, Any]] = {}
    kills = False
    """Whether `take_down` kills the server; else it takes the line down, which takes no time."""
    environment: Outsider
    line: Line

    @pytest_asyncio.fixture(name="environment")
    async def on_broker(self, outsider: Outsider) -> AsyncIterator[Outsider]:
        async with Line(outsider.server) as self.line:
            yield outsider

    @property
    def rabbit(self) -> RabbitMQ:
        return RabbitMQ(self.line.url, times=QUICK)

    async def start(self) -> None:
        self.queue = await self.environment.queue(**self.arguments)

    async def stop(self) -> None:
        await self.environment.delete(self.queue)

    def missing_spec(self) -> Any:
        return self.rabbit.queue("missing")

    async def take_down(self) -> None:
        if self.kills:
            await asyncio.sleep(DECLARED_SECONDS)
            await self.environment.server.kill_async()
        self.line.refuse()
        self.line.cut()

    async def bring_up(self) -> None:
        if self.kills:
            await self.environment.server.start_async()
            await self.environment.close()
            await self.environment.connect()
        self.line.admit()

    async def replace(self) -> None:
        await self.environment.delete(self.queue)
        await self.environment.queue(self.queue, **self.arguments)


class QueueStage(RabbitStage, SourceConformance):
    by_ids = True
    unacknowledged_max = 2048

    def spec(self) -> RabbitQueue[bytes]:
        return self.rabbit.queue(self.queue)

    async def feed(self, payloads: Sequence[bytes], partition: str = "") -> None:
        await self.environment.feed(self.queue, payloads)


class TestClassicSource(QueueStage):
    async def test_a_lost_connection_is_reported_and_nothing_is_lost(self) -> None:
        self.kills = True
        await super().test_a_lost_connection_is_reported_and_nothing_is_lost()


class TestQuorumSource(QueueStage):
    arguments: ClassVar[dict[str, Any]] = {"x-queue-type": "quorum"}


class TestSingleActiveSource(QueueStage):
    arguments: ClassVar[dict[str, Any]] = {"x-single-active-consumer": True}

    def spec(self) -> RabbitQueue[bytes]:
        return self.rabbit.queue(self.queue, readers="single_active")


class SinkStage(RabbitStage, SinkConformance):
    mode: Any = "confirm"
    limits = Limits(message_bytes_max=1024 * 1024)

    def spec(self) -> Any:
        return self.rabbit.queue(self.queue, value=str, mode=self.mode, limits=self.limits)

    async def visible(self) -> list[Any]:
        return await self.environment.distinct(self.queue)

    async def traceparents(self) -> list[str | None]:
        return [message.headers.get("traceparent") for message in await self.environment.messages(self.queue)]

    def oversized(self) -> Any:
        return "x" * (1024 * 1024)

    async def write_foreign(self, values: Sequence[Any]) -> None:
        await self.environment.feed(self.queue, [value.encode() for value in values])


class TestConfirmSink(SinkStage):
    async def test_a_broker_that_dies_and_comes_back(self) -> None:
        self.kills = True
        await super().test_a_broker_that_dies_and_comes_back()


class TestExchangeSink(SinkStage):
    arguments: ClassVar[dict[str, Any]] = {"x-queue-type": "quorum"}

    def spec(self) -> Any:
        return self.rabbit.exchange(self.exchange, value=str, routing_key="a.b", limits=self.limits)

    async def start(self) -> None:
        await super().start()
        self.exchange = await self.environment.exchange(bind=[(self.queue, "a.*")])

    def missing_spec(self) -> Any:
        return self.rabbit.exchange(fresh("missing"))


class TestTransactionSink(SinkStage):
    """Mode tx is called effectively-once because of the broker's own crashes; here it must be exact."""

    mode = "tx"

    @property
    def level(self) -> Level:
        assert self.spec().sink_guarantee.level is Level.EFFECTIVELY_ONCE
        return Level.EXACTLY_ONCE

    async def visible(self) -> list[Any]:
        return [body.decode() for body in await self.environment.bodies(self.queue)]

    async def replace(self) -> None:
        pytest.skip("replace: the marker tells what arrived, not the queue; test_sink.py deletes the marker")
