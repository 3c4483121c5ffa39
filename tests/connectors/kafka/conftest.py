"""Fixtures: a Kafka server for each module, or for one test, with an outsider's hands on it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from streamflow_kafka import marker
from tests.brokers import KAFKA, KafkaServer
from tests.brokers.required import need
from tests.connectors.kafka.broker import Broker
from tests.connectors.kafka.kit import close_all
from tests.connectors.kafka.stage import Stage
from tests.connectors.kafka.undecided import VERIFY, set_broker


@pytest.fixture(scope="session")
def module_server() -> Iterator[KafkaServer]:
    """Shared by all modules: it takes seconds to start."""
    need(KAFKA)
    # compaction is looked for every 15 s by default, transactions that take too long every 10
    often = {"log.cleaner.backoff.ms": "100", "transaction.abort.timed.out.transaction.cleanup.interval.ms": "200"}
    with KafkaServer(extra_config=often) as server:
        yield server


@pytest_asyncio.fixture
async def broker(module_server: KafkaServer) -> AsyncIterator[Broker]:
    """A server shared by the module's tests; who kills it starts it again."""
    module_server.start()
    each = Broker(module_server)
    await each.connect()
    try:
        yield each
    finally:
        await close_all()
        await each.close()


@pytest_asyncio.fixture
async def stage(broker: Broker) -> AsyncIterator[Stage]:
    each = Stage(broker, await broker.topic())
    yield each
    await each.close()


@pytest_asyncio.fixture
async def careless(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Broker]:
    """A broker that takes a marker that no transaction was opened on; what it hides, it hides for ever."""
    monkeypatch.setattr(marker, "HIDDEN_SECONDS", 0.3)
    await set_broker(broker, {VERIFY: "false"})
    yield broker
    await set_broker(broker, {})
