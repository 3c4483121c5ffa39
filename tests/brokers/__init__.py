"""Real brokers for tests and the demo, with or without Docker.

Two ways to get one. `use_broker(BROKERS["nats"])` gives the shared one, which nobody may kill. `NatsServer`,
`KafkaServer` and `RabbitServer` start a private one on free ports, for whatever wants to kill, freeze or reconfigure
it. What cannot be had here (no Java, say) is for `tests.brokers.required` to judge.
"""

from __future__ import annotations

from tests.brokers.kafka import KAFKA
from tests.brokers.kafka_server import KafkaServer
from tests.brokers.kind import BrokerError, BrokerKind, NothingListensError
from tests.brokers.nats import NATS
from tests.brokers.nats_server import NatsServer
from tests.brokers.rabbitmq import RABBITMQ
from tests.brokers.rabbitmq_server import RabbitServer
from tests.brokers.server import BrokerServer
from tests.brokers.shared import Shared, down, status, up, use_broker

BROKERS: dict[str, BrokerKind] = {kind.name: kind for kind in (NATS, KAFKA, RABBITMQ)}

__all__ = [
    "BROKERS",
    "KAFKA",
    "NATS",
    "RABBITMQ",
    "BrokerError",
    "BrokerKind",
    "BrokerServer",
    "KafkaServer",
    "NatsServer",
    "NothingListensError",
    "RabbitServer",
    "Shared",
    "down",
    "status",
    "up",
    "use_broker",
]
