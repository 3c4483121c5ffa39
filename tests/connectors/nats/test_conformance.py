"""NATS streams pass the conformance kit: by position, filtered, as work queue and interest stream; all three sinks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import pytest

from streamflow.testing.conformance import SinkConformance, SourceConformance
from streamflow_nats import Limits, Nats, NatsStream
from tests.connectors.nats.broker import Broker

NAME = "CONFORMANCE"
LIMITS = Limits(read_ahead_records=64, ack_wait_seconds=1.0, unacked_max=2048)


class NatsStage:
    """Hooks that source and sink share."""

    config: ClassVar[dict[str, Any]] = {}
    subjects: ClassVar[list[str]] = ["conf.x"]
    environment: Broker

    @pytest.fixture(name="environment")
    def on_broker(self, mortal: Broker) -> Broker:
        return mortal

    @property
    def nats(self) -> Nats:
        return Nats(self.environment.server.url, timeout_seconds=6)

    async def start(self) -> None:
        await self.environment.make(NAME, self.subjects, **self.config)

    def missing_spec(self) -> NatsStream[Any]:
        return self.nats.stream("MISSING", subject="missing.x")

    async def take_down(self) -> None:
        await self.environment.server.kill_async()

    async def bring_up(self) -> None:
        await self.environment.server.start_async()
        await self.environment.close()
        await self.environment.connect()

    async def replace(self) -> None:
        await self.environment.js.delete_stream(NAME)
        await self.start()


class TestPositionalSource(NatsStage, SourceConformance):
    read_ahead_records_max = LIMITS.read_ahead_records

    def spec(self) -> NatsStream[bytes]:
        return self.nats.stream(NAME, limits=LIMITS)

    async def feed(self, payloads: Sequence[bytes], partition: str = "") -> None:
        await self.environment.feed("conf.x", *payloads)

    async def truncate(self, count: int, partition: str = "") -> None:
        await self.environment.js.purge_stream(NAME, seq=count + 1)

    async def lose(self, count: int, partition: str = "") -> None:
        """A stream of the same creation time with fewer messages: a restored file store is that; see test_source."""
        pytest.skip(
            "lose: a NATS server keeps its last sequence; tests/connectors/nats/test_source.py copies its files"
        )


class TestFilteredSource(TestPositionalSource):
    subjects: ClassVar[list[str]] = ["conf.>"]

    def spec(self) -> NatsStream[bytes]:
        return self.nats.stream(NAME, subject="conf.x", limits=LIMITS)


class TestWorkQueueSource(TestPositionalSource):
    by_ids = True
    unacknowledged_max = LIMITS.unacked_max
    config: ClassVar[dict[str, Any]] = {"retention": "workqueue"}


class TestInterestSource(TestPositionalSource):
    by_ids = True
    unacknowledged_max = LIMITS.unacked_max
    config: ClassVar[dict[str, Any]] = {"retention": "interest"}

    async def start(self) -> None:
        await super().start()
        # Without a consumer an interest stream keeps nothing: a first run of the flow has made the durable.
        source = self.spec().source()
        await source.open(self.context(), {})
        await source.close()


class SinkStage(NatsStage, SinkConformance):
    mode: Any = "chain"

    def spec(self) -> NatsStream[str]:
        return self.nats.stream(NAME, subject="conf.x", value=str, mode=self.mode)

    async def visible(self) -> list[Any]:
        return await self.environment.values(NAME)

    async def traceparents(self) -> list[str | None]:
        messages = [message for message in await self.environment.all(NAME) if "sf-marker" not in message.headers]
        return [message.headers.get("traceparent") for message in messages]

    def oversized(self) -> Any:
        return "x" * (1024 * 1024)

    async def write_foreign(self, values: Sequence[Any]) -> None:
        await self.environment.feed("conf.x", *[value.encode() for value in values])


class TestChainSink(SinkStage):
    pass


class TestChainSinkInBatches(SinkStage):
    config: ClassVar[dict[str, Any]] = {"allow_atomic": True}


class TestBatchSink(SinkStage):
    mode = "batch"
    subjects: ClassVar[list[str]] = ["conf.x", f"{NAME}._sf.>"]
    config: ClassVar[dict[str, Any]] = {"allow_atomic": True}


class TestMessageIdSink(SinkStage):
    mode = "msgid"
