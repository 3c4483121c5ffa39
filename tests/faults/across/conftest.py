"""Fixtures: one server of each broker, which all trials of the folder share."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.brokers import KAFKA, RABBITMQ, BrokerServer, KafkaServer, NatsServer, RabbitServer
from tests.brokers.required import need
from tests.faults.across.trial import Servers


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    """Not to be killed. They start beside each other: that takes as long as the slowest of them."""
    need(KAFKA)
    need(RABBITMQ)
    servers = Servers(KafkaServer(), NatsServer(sync="2m"), RabbitServer())
    every: list[BrokerServer] = [servers.kafka, servers.nats, servers.rabbit]
    try:
        with ThreadPoolExecutor(len(every)) as threads:
            list(threads.map(lambda server: server.start(), every))
        yield servers
    finally:
        for server in every:
            server.close()
