"""Fixtures: a NATS server for each module, or for one test, with an outsider's hands on it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from tests.brokers import NatsServer
from tests.connectors.nats.broker import Broker


@pytest.fixture(scope="module")
def module_server() -> Iterator[NatsServer]:
    with NatsServer() as server:
        yield server


@pytest_asyncio.fixture
async def broker(module_server: NatsServer) -> AsyncIterator[Broker]:
    """A server shared by the module's tests; do not kill it."""
    async for each in _connected(module_server):
        yield each


@pytest_asyncio.fixture
async def mortal(nats_server: NatsServer) -> AsyncIterator[Broker]:
    """A server of this test's own; kill it at will."""
    async for each in _connected(nats_server):
        yield each


async def _connected(server: NatsServer) -> AsyncIterator[Broker]:
    each = Broker(server)
    await each.connect()
    try:
        yield each
    finally:
        await each.close()
