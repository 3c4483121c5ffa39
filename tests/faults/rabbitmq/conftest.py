"""The broker of the trials, shared by all of them; a trial that kills brokers at will starts its own."""

from __future__ import annotations

import pytest

from tests.brokers import RabbitServer


@pytest.fixture
def server(lasting_rabbit: RabbitServer) -> RabbitServer:
    """A broker for all trials of a session: names are fresh, and who kills it starts it again."""
    return lasting_rabbit
