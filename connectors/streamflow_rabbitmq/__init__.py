"""The RabbitMQ connector: queues and streams as sources, streams, exchanges and queues as sinks."""

from streamflow.connect.secret import Secret
from streamflow_rabbitmq.settings import Limits, RabbitMQ, Times, Tls, UserPassword

__all__ = ["Limits", "RabbitMQ", "Secret", "Times", "Tls", "UserPassword"]
