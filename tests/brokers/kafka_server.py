"""A private Apache Kafka."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tests.brokers.kafka import Layout, greeting, new_cluster_id, prepare
from tests.brokers.kind import BrokerError
from tests.brokers.server import BrokerServer


class KafkaServer(BrokerServer):
    """One node, broker and controller, on free loopback ports; see `BrokerServer`.

    It acknowledges before it calls fsync, as Kafka does everywhere: what it acknowledged outlives a kill, though not
    a power loss. Topics are never made by themselves.
    """

    kind = "kafka"
    program = "Kafka"
    ready_seconds = 60.0
    port_in_use = ("Address already in use",)

    def __init__(
        self,
        *,
        extra_config: Mapping[str, str] | None = None,
        users: Mapping[str, str] | None = None,
        certificate: Path | None = None,
        authority: Path | None = None,
        port: int | None = None,
    ) -> None:
        """Prepare a server; nothing runs before `start`.

        Args:
            extra_config: More configuration by name; read anew from the attribute at each start.
            users: Passwords by name: one more listener, `sasl_url`, with PLAIN, SCRAM-SHA-256 and SCRAM-SHA-512.
            certificate: File with the server's key and certificate in PEM: one more listener, `ssl_url`; with
                `users` also `sasl_ssl_url`.
            authority: File with the authority that clients of the encrypted listeners must have a certificate of.
            port: The port of the plain listener; a free one by default.
        """
        self.extra_config = dict(extra_config or {})
        self._users, self._certificate, self._authority = dict(users or {}), certificate, authority
        super().__init__(port=port, ports=len(Layout("", (), self._users, certificate).protocols))
        self.cluster = new_cluster_id()

    @property
    def url(self) -> str:
        """The plain listener, for example `127.0.0.1:23456`."""
        return self._layout.address("PLAINTEXT")

    @property
    def sasl_url(self) -> str:
        """The listener that wants a login."""
        return self._layout.address("SASL_PLAINTEXT")

    @property
    def ssl_url(self) -> str:
        """The encrypted listener."""
        return self._layout.address("SSL")

    @property
    def sasl_ssl_url(self) -> str:
        """The encrypted listener that wants a login."""
        return self._layout.address("SASL_SSL")

    @property
    def _layout(self) -> Layout:
        return Layout(self.host, tuple(self.ports), self._users, self._certificate, self._authority, self.extra_config)

    def command(self) -> list[str]:
        return prepare(self.folder, self._layout, self.cluster)

    def is_ready(self) -> bool:
        try:
            said = greeting(self.url)
        except BrokerError:
            return False
        # By its own id: a stranger on the port would answer in place of a server about to give up on it.
        return said.cluster == self.cluster and said.brokers == 1
