"""Fixtures: an outsider's hands on a RabbitMQ server that the session shares, or on one of the test's own."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.brokers import RabbitServer
from tests.connectors.rabbitmq.outsider import Outsider


@pytest_asyncio.fixture
async def outsider(lasting_rabbit: RabbitServer) -> AsyncIterator[Outsider]:
    """A server shared by the session: names are fresh, and who kills it starts it again."""
    async for each in _connected(lasting_rabbit):
        yield each


@pytest_asyncio.fixture
async def mortal(rabbit_server: RabbitServer) -> AsyncIterator[Outsider]:
    """A server of this test's own."""
    async for each in _connected(rabbit_server):
        yield each


async def _connected(server: RabbitServer) -> AsyncIterator[Outsider]:
    each = Outsider(server)
    await each.connect()
    try:
        yield each
    finally:
        await each.close()
