"""The NATS JetStream connector: streams as exactly-once sources and sinks."""

from streamflow.connect.secret import Secret, UserPassword
from streamflow.connect.tls import Tls
from streamflow_nats.settings import Creds, Limits, Nats, NKey, Token
from streamflow_nats.stream import NatsStream

__all__ = [
    "Creds",
    "Limits",
    "NKey",
    "Nats",
    "NatsStream",
    "Secret",
    "Tls",
    "Token",
    "UserPassword",
]
