"""RabbitMQ with streams: how to get it, its configuration, and how to tell that it is ready."""

from __future__ import annotations

import os
import re
import socket
import struct
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.brokers import debian
from tests.brokers.kind import BrokerError, BrokerKind, NothingListensError, host_and_port
from tests.brokers.rabbitmq_home import own_script
from tests.brokers.server import free_port

DEFAULT_PORT: Final = 5672
DEFAULT_STREAM_PORT: Final = 5552
STREAM_PORT_VARIABLE: Final = "STREAMFLOW_RABBITMQ_STREAM_PORT"
PROBE_SECONDS: Final = 2.0
PACKAGE: Final = "rabbitmq-server"
# Not the one on the PATH: that changes the user, and the folders with it.
SERVER_SCRIPT: Final = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
EXEC: Final = Path(__file__).with_name("rabbitmq_exec.py")
FRAME_BYTES_MAX: Final = 64 * 1024
_PROTOCOL_HEADER: Final = b"AMQP\x00\x00\x09\x01"


@dataclass(frozen=True, slots=True)
class Listeners:
    """The loopback ports of one server; those for TLS are 0 where it has none."""

    amqp: int
    stream: int
    amqp_tls: int = 0
    stream_tls: int = 0


@dataclass(frozen=True, slots=True)
class Certificates:
    """Files of a server that speaks TLS.

    Args:
        authority: Who signed the clients' certificates.
        certificate: The server's own.
        key: Its private key.
        client_required: Whether clients must show a certificate.
    """

    authority: Path
    certificate: Path
    key: Path
    client_required: bool = False


def stream_port() -> int:
    """The stream port of the shared server: the environment's, else the default."""
    return int(os.environ.get(STREAM_PORT_VARIABLE) or DEFAULT_STREAM_PORT)


def server_script() -> Path:
    """Return the script that starts the server, after installing Debian's package if need be and possible.

    Raises:
        BrokerError: It is not there and cannot be installed.
    """
    if not SERVER_SCRIPT.exists():
        debian.install(PACKAGE, SERVER_SCRIPT)
    return SERVER_SCRIPT


def write_config(
    folder: Path,
    listeners: Listeners,
    extra_config: str = "",
    certificates: Certificates | None = None,
    *,
    streams: bool = True,
) -> Path:
    """Write the configuration and the list of plugins; return the path of the first.

    Args:
        folder: Holds both, and the data.
        listeners: The ports, all on the loopback.
        extra_config: More lines of `rabbitmq.conf`.
        certificates: For the TLS listeners.
        streams: Whether it serves streams.
    """
    lines = [
        f"listeners.tcp.1 = 127.0.0.1:{listeners.amqp}",
        "loopback_users = none",
        "log.console = true",
        "log.console.level = info",
        "log.file = false",
        # A full disk of a test machine is no reason to stop taking messages.
        "disk_free_limit.absolute = 1MB",
    ]
    if streams:
        lines += [
            f"stream.listeners.tcp.1 = 127.0.0.1:{listeners.stream}",
            "stream.advertised_host = 127.0.0.1",
            f"stream.advertised_port = {listeners.stream}",
        ]
    if certificates is not None:
        verify = "verify_peer" if certificates.client_required else "verify_none"
        lines += [
            f"listeners.ssl.1 = 127.0.0.1:{listeners.amqp_tls}",
            f"stream.listeners.ssl.1 = 127.0.0.1:{listeners.stream_tls}",
            f"stream.advertised_tls_port = {listeners.stream_tls}",
            f"ssl_options.cacertfile = {certificates.authority}",
            f"ssl_options.certfile = {certificates.certificate}",
            f"ssl_options.keyfile = {certificates.key}",
            f"ssl_options.verify = {verify}",
            f"ssl_options.fail_if_no_peer_cert = {str(certificates.client_required).lower()}",
        ]
    path = folder / "rabbitmq.conf"
    path.write_text("\n".join([*lines, extra_config, ""]))
    (folder / "enabled_plugins").write_text(f"[{'rabbitmq_stream' if streams else ''}].\n")
    return path


def command(folder: Path, node: str, script: Path, ports: tuple[int, int]) -> list[str]:
    """Return the command that serves the configuration in a folder, as one process with one child (epmd).

    Args:
        folder: Holds what `write_config` wrote.
        node: Name of the node; tells one server from another.
        script: What `server_script` returned.
        ports: For its name service, epmd, and for other nodes.
    """
    epmd_port, distribution_port = ports
    arguments = "-start_epmd false -kernel inet_dist_use_interface {127,0,0,1} +S 2:2"
    settings = {
        "HOME": folder,
        "RABBITMQ_NODENAME": f"{node}@localhost",
        "RABBITMQ_MNESIA_BASE": folder / "data",
        "RABBITMQ_LOG_BASE": folder,
        "RABBITMQ_LOGS": "-",
        "RABBITMQ_CONFIG_FILE": folder / "rabbitmq.conf",
        "RABBITMQ_ENABLED_PLUGINS_FILE": folder / "enabled_plugins",
        "RABBITMQ_PID_FILE": folder / "pid",
        "RABBITMQ_DIST_PORT": distribution_port,
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": arguments,
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "ERL_EPMD_PORT": epmd_port,
        "ERL_CRASH_DUMP_BYTES": 0,
        # Makes the script become the Erlang VM instead of waiting for it.
        "RUNNING_UNDER_SYSTEMD": "true",
    }
    environment = [f"{name}={value}" for name, value in settings.items()]
    own = own_script(script, folder)
    return ["/usr/bin/env", *environment, sys.executable, "-I", "-S", str(EXEC), str(epmd_port), str(own)]


def native_command(url: str, folder: Path) -> list[str]:
    """Write the configuration for a URL and return the command that serves it."""
    _, port = host_and_port(url, DEFAULT_PORT)
    write_config(folder, Listeners(port, stream_port()))
    return command(folder, f"streamflow-{port}", server_script(), (free_port(), free_port()))


def probe(url: str) -> str:
    """Return a line about the server at the URL once it serves both protocols.

    Args:
        url: For example `amqp://127.0.0.1:5672`.

    Raises:
        NothingListensError: Nobody accepts AMQP connections there.
        BrokerError: Somebody does, but is no RabbitMQ with streams.
    """
    properties = greeting(url)
    host, _ = host_and_port(url, DEFAULT_PORT)
    try:
        socket.create_connection((host, stream_port()), timeout=PROBE_SECONDS).close()
    except OSError as error:
        raise BrokerError(
            f"the RabbitMQ server at {url} does not serve streams at port {stream_port()} ({error}); enable "
            f"rabbitmq_stream, or name its port by {STREAM_PORT_VARIABLE}"
        ) from error
    return f"RabbitMQ {properties.get('version', '?')} with streams at port {stream_port()}"


def greeting(url: str) -> dict[str, str]:
    """Return the texts among what the server at the URL says about itself (`cluster_name`, `version` ...).

    Raises:
        NothingListensError: Nobody accepts connections there.
        BrokerError: Somebody does, but is no RabbitMQ server.
    """
    host, port = host_and_port(url, DEFAULT_PORT)
    try:
        connection = socket.create_connection((host, port), timeout=PROBE_SECONDS)
    except OSError as error:
        raise NothingListensError(f"nothing listens at {host}:{port} ({error})") from error
    with connection, connection.makefile("rb") as answers:
        try:
            connection.sendall(_PROTOCOL_HEADER)
            kind, _, size = struct.unpack(">BHI", answers.read(7).ljust(7, b"\xff"))
            # The method connection.start (AMQP 0-9-1, section 1.4.2.1) in a method frame.
            start = answers.read(size) if kind == 1 and size < FRAME_BYTES_MAX else b""
        except OSError as error:
            raise BrokerError(f"{host}:{port} accepts connections but does not answer: {error}") from error
    if not start.startswith(b"\x00\x0a\x00\x0a"):
        raise BrokerError(f"what listens at {host}:{port} is no RabbitMQ server")
    return _texts(start)


def _texts(table: bytes) -> dict[str, str]:
    """The long strings in an AMQP field table: length and name, `S`, length and text."""
    found = {}
    for hit in re.finditer(rb"([a-z_]{4,30})S(....)", table, re.DOTALL):
        size = int.from_bytes(hit[2], "big")
        found[hit[1].decode()] = table[hit.end() : hit.end() + size].decode(errors="replace")
    return found


RABBITMQ = BrokerKind(
    name="rabbitmq",
    url_variable="STREAMFLOW_RABBITMQ_URL",
    url_default=f"amqp://127.0.0.1:{DEFAULT_PORT}",
    port_variable="STREAMFLOW_RABBITMQ_PORT",
    probe=probe,
    native_command=native_command,
    install=server_script,
)
