"""Fixtures: a server that all trials share; whoever kills or stops one starts its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.brokers import NatsServer


@pytest.fixture(scope="session")
def server() -> Iterator[NatsServer]:
    """Not to be killed. It syncs now and then: what it acknowledged outlives the end of any process."""
    with NatsServer(sync="2m") as shared:
        yield shared
