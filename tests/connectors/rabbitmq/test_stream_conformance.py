"""Streams and super streams pass the conformance kit on a real RabbitMQ, as sources and as sinks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from streamflow.testing.conformance import SinkConformance, SourceConformance
from streamflow_rabbitmq import RabbitStream
from tests.connectors.rabbitmq.streams_kit import LIMITS, NAME, StreamStage
from tests.connectors.rabbitmq.streams_outside import SEGMENT_BYTES

FEW = 20
"""So many records are fed one by one, each into a segment of its own."""


class SuperStage(StreamStage):
    """A super stream of three partitions."""

    names: Sequence[str] = tuple(f"{NAME}-{number}" for number in range(3))

    async def create(self) -> None:
        await self.environment.streams.make_super(NAME, 3, segment_bytes=self.segment_bytes)

    async def remove(self) -> None:
        await self.environment.streams.delete_super(NAME, self.names)

    def missing_spec(self) -> RabbitStream[Any]:
        return self.environment.rabbit.super_stream("missing")


class SourceStage(StreamStage, SourceConformance):
    segment_bytes = SEGMENT_BYTES

    def spec(self) -> RabbitStream[bytes]:
        return self.environment.rabbit.stream(NAME, limits=LIMITS)

    def stream(self, partition: str) -> str:
        return partition or NAME

    async def feed(self, payloads: Sequence[bytes], partition: str = "") -> None:
        streams = self.environment.streams
        await streams.feed(self.stream(partition), payloads, singly=len(payloads) <= FEW)

    async def truncate(self, count: int, partition: str = "") -> None:
        """Retention takes whole segments from the front, while the server runs."""
        for path in self.segments(self.stream(partition))[: 2 * count]:
            path.unlink()

    async def lose(self, count: int, partition: str = "") -> None:
        """The server comes back without its last segments."""
        await self.kill()
        for path in self.segments(self.stream(partition))[-2 * count :]:
            path.unlink()
        await self.restart()


class TestStreamSource(SourceStage):
    async def test_a_lost_connection_is_reported_and_nothing_is_lost(self) -> None:
        self.kills = True
        await super().test_a_lost_connection_is_reported_and_nothing_is_lost()


class TestSuperStreamSource(SuperStage, SourceStage):
    partitions = SuperStage.names

    def spec(self) -> RabbitStream[bytes]:
        return self.environment.rabbit.super_stream(NAME, limits=LIMITS)

    async def lose(self, count: int, partition: str = "") -> None:
        pytest.skip("lose: as for the plain stream")


class SinkStage(StreamStage, SinkConformance):
    def spec(self) -> RabbitStream[str]:
        return self.environment.rabbit.stream(NAME, value=str)

    async def visible(self) -> list[Any]:
        return [payload.decode() for payload in await self.environment.streams.values(NAME)]

    async def traceparents(self) -> list[str | None]:
        return [each.get("traceparent") for each in await self.environment.streams.headers(NAME)]

    def oversized(self) -> Any:
        return "x" * (1024 * 1024)

    async def write_foreign(self, values: Sequence[Any]) -> None:
        await self.environment.streams.feed(NAME, [value.encode() for value in values])


class TestStreamSink(SinkStage):
    async def test_a_broker_that_dies_and_comes_back(self) -> None:
        self.kills = True
        await super().test_a_broker_that_dies_and_comes_back()


class TestSuperStreamSink(SuperStage, SinkStage):
    """Records without keys go to the partitions in turn, by their number: so the order of all can be seen."""

    def spec(self) -> RabbitStream[str]:
        return self.environment.rabbit.super_stream(NAME, value=str)

    async def visible(self) -> list[Any]:
        streams = self.environment.streams
        found = [[payload.decode() for payload in await streams.values(name)] for name in self.names]
        numbered = sorted((int(value.split()[1]), at, value) for at, part in enumerate(found) for value in part)
        for part in found:
            own = [int(value.split()[1]) for value in part if int(value.split()[1]) < 9000]
            assert own == sorted(own), "records of a partition are out of order"
        assert all(number % 3 == at for number, at, _ in numbered if number < 9000)
        return [value for number, _, value in numbered if number >= 9000] + [
            value for number, _, value in numbered if number < 9000
        ]

    async def traceparents(self) -> list[str | None]:
        streams = self.environment.streams
        found: dict[int, str | None] = {}
        for name in self.names:
            numbers = [int(payload.split()[1]) for payload in await streams.values(name)]
            texts = [each.get("traceparent") for each in await streams.headers(name)]
            found.update(zip(numbers, texts, strict=True))
        return [found[number] for number in sorted(found)]

    async def write_foreign(self, values: Sequence[Any]) -> None:
        await self.environment.streams.feed(self.names[0], [value.encode() for value in values])
