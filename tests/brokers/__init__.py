"""Real brokers for tests and the demo, with or without Docker.

Two ways to get one. `use_broker(BROKERS["nats"])` gives the shared one, which nobody may kill. `NatsServer`
starts a private one on a free port, for whatever wants to kill, freeze or reconfigure it.
"""

from __future__ import annotations

from tests.brokers.kind import BrokerError, BrokerKind, NothingListensError
from tests.brokers.nats import NATS
from tests.brokers.nats_server import NatsServer
from tests.brokers.shared import Shared, down, status, up, use_broker

# Kafka and RabbitMQ join here, each with a module of its own next to nats.py.
BROKERS: dict[str, BrokerKind] = {NATS.name: NATS}

__all__ = [
    "BROKERS",
    "NATS",
    "BrokerError",
    "BrokerKind",
    "NatsServer",
    "NothingListensError",
    "Shared",
    "down",
    "status",
    "up",
    "use_broker",
]
