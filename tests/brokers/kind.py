"""What the harness must know about one kind of broker."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

LOOPBACK_HOSTS = frozenset({"127.0.0.1", "localhost", "::1"})


class BrokerError(Exception):
    """A broker that cannot be started, or does not answer as it should."""


class NothingListensError(BrokerError):
    """Nobody accepts connections at the address."""


@dataclass(frozen=True, slots=True)
class BrokerKind:
    """One kind of broker: where it listens, how to ask if it is ready, how to start it natively.

    Attributes:
        name: The name on the command line, also the service in docker-compose.yml.
        url_variable: The environment variable that overrides the URL.
        url_default: The URL of the shared broker.
        port_variable: The variable by which docker-compose.yml takes the published port.
        probe: Returns a line about the broker that answers at a URL. Raises NothingListensError where
            nobody listens, BrokerError where somebody does but is not (yet) a usable broker.
        native_command: Writes the configuration into a folder and returns the command that serves the URL.
        install: Gets what `native_command` needs, from a cache or by a download. Raises BrokerError, with what to
            do about it, where that cannot be had.
    """

    name: str
    url_variable: str
    url_default: str
    port_variable: str
    probe: Callable[[str], str]
    native_command: Callable[[str, Path], list[str]]
    install: Callable[[], object]

    @property
    def url(self) -> str:
        """The URL that the environment asks for, else the default."""
        return os.environ.get(self.url_variable) or self.url_default


def host_and_port(url: str, default_port: int) -> tuple[str, int]:
    """Return host and port of a broker URL.

    Args:
        url: For example `nats://127.0.0.1:4222`.
        default_port: Taken when the URL names none.
    """
    parts = urlsplit(url if "//" in url else f"//{url}")
    return parts.hostname or "127.0.0.1", parts.port or default_port
