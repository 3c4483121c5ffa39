"""The RabbitMQ connector: queues and streams as sources, streams, exchanges and queues as sinks."""

from streamflow.connect.secret import Secret, UserPassword
from streamflow.connect.tls import Tls
from streamflow_rabbitmq.declare import ExchangeDeclaration, QueueDeclaration
from streamflow_rabbitmq.exchange import RabbitExchange
from streamflow_rabbitmq.ids import Delivery
from streamflow_rabbitmq.queue import RabbitQueue
from streamflow_rabbitmq.settings import Limits, RabbitMQ, Times
from streamflow_rabbitmq.stream import RabbitStream

__all__ = [
    "Delivery",
    "ExchangeDeclaration",
    "Limits",
    "QueueDeclaration",
    "RabbitExchange",
    "RabbitMQ",
    "RabbitQueue",
    "RabbitStream",
    "Secret",
    "Times",
    "Tls",
    "UserPassword",
]
