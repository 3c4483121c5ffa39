"""Docker Compose, where an engine answers."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from tests.brokers.kind import BrokerError, BrokerKind, host_and_port

COMPOSE_FILE = Path(__file__).parents[2] / "docker-compose.yml"
ASK_SECONDS = 15.0
UP_SECONDS = 300.0


def engine_answers() -> bool:
    """Return whether a Docker engine with Compose answers; a client on the PATH proves nothing."""
    if shutil.which("docker") is None:
        return False
    return _answers("docker", "info") and _answers("docker", "compose", "version")


def compose_up(kind: BrokerKind) -> None:
    """Start one service and wait for its health check.

    Args:
        kind: The broker; its URL gives the published port.

    Raises:
        BrokerError: Compose says no, with its last words.
    """
    _compose(kind, "up", "--detach", "--wait", kind.name)


def compose_down(kind: BrokerKind) -> None:
    """Stop and remove one service with its data.

    Raises:
        BrokerError: Compose says no, with its last words.
    """
    _compose(kind, "rm", "--stop", "--force", "--volumes", kind.name)


def _compose(kind: BrokerKind, *arguments: str) -> None:
    environment = dict(os.environ)
    _, port = host_and_port(kind.url, 0)
    if port:
        environment[kind.port_variable] = str(port)
    try:
        done = subprocess.run(
            ["docker", "compose", "--file", str(COMPOSE_FILE), *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=UP_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise BrokerError(f"docker compose {arguments[0]} took longer than {UP_SECONDS:.0f} s") from error
    if done.returncode != 0:
        raise BrokerError(f"docker compose {arguments[0]} failed:\n{done.stderr.strip()[-1000:]}")


def _answers(*command: str) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=ASK_SECONDS, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False
