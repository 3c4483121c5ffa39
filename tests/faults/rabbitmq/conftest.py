"""Fixtures: long trials wait for a broker of their own; the others share the one of the session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.brokers import RABBITMQ, RabbitServer
from tests.brokers.required import need


@pytest.fixture(scope="module")
def server() -> Iterator[RabbitServer]:
    """A broker for the trials of a module."""
    need(RABBITMQ)
    with RabbitServer() as shared:
        yield shared
