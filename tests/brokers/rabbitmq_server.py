"""A private RabbitMQ with streams."""

from __future__ import annotations

import secrets
import socket

from tests.brokers.kind import BrokerError
from tests.brokers.rabbitmq import (
    PROBE_SECONDS,
    Certificates,
    Listeners,
    command,
    greeting,
    server_script,
    write_config,
)
from tests.brokers.server import BrokerServer


class RabbitServer(BrokerServer):
    """One node on free loopback ports: AMQP, streams, and both with TLS if certificates are given; see `BrokerServer`.

    The process is the Erlang VM itself, and its name service (epmd) dies with it. It acknowledges what is in the page
    cache: what it acknowledged outlives a kill, though not a power loss.
    """

    kind = "rabbitmq"
    program = "RabbitMQ"
    ready_seconds = 60.0
    port_in_use = ("eaddrinuse", "address in use", "Address already in use")

    def __init__(
        self,
        *,
        extra_config: str = "",
        certificates: Certificates | None = None,
        port: int | None = None,
        streams: bool = True,
    ) -> None:
        """Prepare a server; nothing runs before `start`.

        Args:
            extra_config: More lines of `rabbitmq.conf`; read anew from the attribute at each start.
            certificates: Files for TLS listeners beside the others.
            port: The AMQP port; a free one by default.
            streams: Whether its stream plugin is enabled.
        """
        super().__init__(port=port, ports=6)
        self.extra_config = extra_config
        self.certificates = certificates
        self._streams = streams
        self._name = f"streamflow-{secrets.token_hex(8)}"

    @property
    def url(self) -> str:
        """Where AMQP clients connect, for example `amqp://127.0.0.1:23456`."""
        return f"amqp://{self.host}:{self.port}"

    @property
    def node(self) -> str:
        """Name of the Erlang node, up to the host."""
        return self._name

    @property
    def tls_url(self) -> str:
        """Where encrypted AMQP clients connect."""
        return f"amqps://{self.host}:{self.listeners.amqp_tls}"

    @property
    def listeners(self) -> Listeners:
        """All ports of clients."""
        encrypted = self.ports[2:4] if self.certificates is not None else [0, 0]
        return Listeners(*self.ports[:2], *encrypted)

    @property
    def stream_port(self) -> int:
        """The port of the stream protocol."""
        return self.listeners.stream

    def command(self) -> list[str]:
        write_config(self.folder, self.listeners, self.extra_config, self.certificates, streams=self._streams)
        return command(self.folder, self._name, server_script(), (self.ports[4], self.ports[5]))

    def is_ready(self) -> bool:
        try:
            # By name: a stranger on the port would answer in place of a server about to give up on it.
            if greeting(self.url).get("cluster_name", "").partition("@")[0] != self._name:
                return False
            if self._streams:
                socket.create_connection((self.host, self.stream_port), timeout=PROBE_SECONDS).close()
        except (BrokerError, OSError):
            return False
        return True
