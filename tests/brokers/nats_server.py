"""A private NATS server with JetStream."""

from __future__ import annotations

import secrets

from tests.brokers.kind import BrokerError
from tests.brokers.nats import greeting, server_binary, write_config
from tests.brokers.server import BrokerServer


class NatsServer(BrokerServer):
    """A NATS server with JetStream on a free loopback port, fsync on every write; see `BrokerServer`."""

    kind = "nats"
    program = "nats-server"

    def __init__(self, *, extra_config: str = "", port: int | None = None, sync: str = "always") -> None:
        """Prepare a server; nothing runs before `start`.

        Args:
            extra_config: More configuration in the server's own syntax: users, token, nkeys, tls ... Read
                anew from the attribute at each start.
            port: The port to bind; a free one by default.
            sync: The server's `sync_interval`: `always`, or a time such as `2m`.
        """
        super().__init__(port=port)
        self.extra_config = extra_config
        self.sync = sync
        self._name = f"streamflow-{secrets.token_hex(8)}"

    @property
    def url(self) -> str:
        """The client URL, for example `nats://127.0.0.1:23456`."""
        return f"nats://{self.host}:{self.port}"

    def command(self) -> list[str]:
        config = write_config(self.folder, self.host, self.port, self.extra_config, name=self._name, sync=self.sync)
        return [server_binary(), "-c", str(config)]

    def is_ready(self) -> bool:
        try:
            # By name: a stranger on the port would answer in place of a server about to give up on it.
            return greeting(self.url).get("server_name") == self._name
        except BrokerError:
            return False
