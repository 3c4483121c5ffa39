"""Fixtures: a server that the trials of a module share; whoever kills or stops one starts its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.brokers import KAFKA, KafkaServer
from tests.brokers.required import need


@pytest.fixture(autouse=True)
def _had() -> None:
    need(KAFKA)


@pytest.fixture(scope="session")
def server() -> Iterator[KafkaServer]:
    """Not to be killed."""
    need(KAFKA)
    with KafkaServer() as shared:
        yield shared
