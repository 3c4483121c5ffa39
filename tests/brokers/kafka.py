"""Apache Kafka in KRaft mode, one node: its configuration, and how to tell that it is ready."""

from __future__ import annotations

import base64
import secrets
import shutil
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from tests.brokers.kafka_software import format_folder, java_command, kafka_home
from tests.brokers.kind import BrokerError, BrokerKind, NothingListensError, host_and_port
from tests.brokers.server import free_port

DEFAULT_PORT = 9092
PROBE_SECONDS = 2.0
ANSWER_BYTES_MAX = 1024 * 1024
SCRAM = ("SCRAM-SHA-256", "SCRAM-SHA-512")
HEAP = ("-Xms256m", "-Xmx512m")


@dataclass(frozen=True)
class Layout:
    """Ports and listeners of a node, all on one host.

    Args:
        host: The address to bind.
        ports: Of PLAINTEXT and of the controller; then, where they are wanted, SASL_PLAINTEXT, SSL and SASL_SSL.
        users: Passwords by name; not empty: SASL_PLAINTEXT with PLAIN, SCRAM-SHA-256 and SCRAM-SHA-512.
        certificate: File with key and certificates of the server in PEM; with it SSL, and SASL_SSL for users.
        authority: File with the authority that clients must have a certificate of.
        extra: More configuration; it wins.
    """

    host: str
    ports: tuple[int, ...]
    users: Mapping[str, str] = field(default_factory=dict)
    certificate: Path | None = None
    authority: Path | None = None
    extra: Mapping[str, str] = field(default_factory=dict)

    @property
    def protocols(self) -> list[str]:
        """The protocol of each of `ports`."""
        wanted = ["PLAINTEXT", "CONTROLLER"]
        wanted += ["SASL_PLAINTEXT"] if self.users else []
        wanted += ["SSL"] if self.certificate else []
        return wanted + (["SASL_SSL"] if self.users and self.certificate else [])

    def address(self, protocol: str) -> str:
        """Host and port of a protocol."""
        return f"{self.host}:{self.ports[self.protocols.index(protocol)]}"


class Greeting(NamedTuple):
    """What a node says about its cluster: the id, and how many brokers take part."""

    cluster: str
    brokers: int


def write_config(folder: Path, layout: Layout) -> Path:
    """Write a server configuration and return its path.

    Args:
        folder: Holds the configuration and, in `data`, the logs.
        layout: What listens where.
    """
    listeners = ",".join(f"{name}://{layout.address(name)}" for name in layout.protocols)
    security = ",".join(f"{name}:{'PLAINTEXT' if name == 'CONTROLLER' else name}" for name in layout.protocols)
    config = {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@{layout.address('CONTROLLER')}",
        "controller.listener.names": "CONTROLLER",
        "listeners": listeners,
        "advertised.listeners": ",".join(each for each in listeners.split(",") if not each.startswith("CONTROLLER")),
        "listener.security.protocol.map": security,
        "inter.broker.listener.name": "PLAINTEXT",
        "log.dirs": str(folder / "data"),
        # A single node cannot replicate; transactions and groups need their topics all the same.
        "offsets.topic.replication.factor": "1",
        "offsets.topic.num.partitions": "4",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "transaction.state.log.num.partitions": "4",
        "share.coordinator.state.topic.replication.factor": "1",
        "share.coordinator.state.topic.min.isr": "1",
        "default.replication.factor": "1",
        "min.insync.replicas": "1",
        "group.initial.rebalance.delay.ms": "0",
        # A topic that a test forgot to make is a mistake, not a new topic.
        "auto.create.topics.enable": "false",
        # After a kill the controller waits for the dead broker's session: 9 s by default.
        "broker.session.timeout.ms": "1500",
        "broker.heartbeat.interval.ms": "300",
        **_sasl(layout),
        **_tls(folder, layout),
        **layout.extra,
    }
    path = folder / "server.properties"
    path.write_text("".join(f"{name}={value}\n" for name, value in config.items()))
    return path


def prepare(folder: Path, layout: Layout, cluster: str = "") -> list[str]:
    """Write configuration and, the first time, an empty log folder; return the command that serves the layout.

    Args:
        folder: For all of it.
        layout: What listens where.
        cluster: Id of the cluster, for a new log folder.
    """
    home = kafka_home()
    config = write_config(folder, layout)
    if not (folder / "data").exists():
        if layout.users:
            users = [f"{how}=[name={name},password={word}]" for name, word in layout.users.items() for how in SCRAM]
            format_folder(home, config, users)
        else:
            shutil.copytree(home / "empty", folder / "data")
        properties = folder / "data" / "meta.properties"
        lines = properties.read_text().splitlines()
        kept = [line for line in lines if not line.startswith("cluster.id=")]
        properties.write_text("\n".join([*kept, f"cluster.id={cluster or new_cluster_id()}", ""]))
    return java_command(home, "kafka.Kafka", [str(config)], HEAP)


def new_cluster_id() -> str:
    """Return the id of a new cluster: a UUID in base64, as Kafka writes it."""
    while (made := base64.urlsafe_b64encode(secrets.token_bytes(16)).decode().rstrip("=")).startswith("-"):
        pass
    return made


def native_command(url: str, folder: Path) -> list[str]:
    """Write the configuration for an address and return the command that serves it."""
    host, port = host_and_port(url, DEFAULT_PORT)
    return prepare(folder, Layout(host, (port, free_port())))


def probe(url: str) -> str:
    """Return a line about the node at the address once it takes part in its cluster.

    Raises:
        NothingListensError: Nobody accepts connections there.
        BrokerError: Somebody does, but is no Kafka broker, or not yet.
    """
    said = greeting(url)
    if not said.brokers:
        raise BrokerError(f"the Kafka node at {url} has no broker yet")
    return f"Kafka cluster {said.cluster}, {said.brokers} broker{'s' if said.brokers > 1 else ''}"


def greeting(url: str) -> Greeting:
    """Return what the node at the address says about its cluster.

    A metadata request without topics, version 2 (kafka.apache.org/protocol).

    Raises:
        NothingListensError: Nobody accepts connections there.
        BrokerError: Somebody does, but is no Kafka broker.
    """
    host, port = host_and_port(url, DEFAULT_PORT)
    try:
        connection = socket.create_connection((host, port), timeout=PROBE_SECONDS)
    except OSError as error:
        raise NothingListensError(f"nothing listens at {host}:{port} ({error})") from error
    request = struct.pack(">hhih", 3, 2, 1, -1) + struct.pack(">i", 0)
    with connection, connection.makefile("rb") as answers:
        try:
            connection.sendall(struct.pack(">i", len(request)) + request)
            size = int.from_bytes(answers.read(4))
            answer = answers.read(size) if 8 <= size <= ANSWER_BYTES_MAX else b""
        except OSError as error:
            raise BrokerError(f"{host}:{port} accepts connections but does not answer: {error}") from error
    try:
        return _read_greeting(answer)
    except (struct.error, UnicodeDecodeError) as error:
        raise BrokerError(f"what listens at {host}:{port} is no Kafka broker: it answers {answer[:60]!r}") from error


def _read_greeting(answer: bytes) -> Greeting:
    correlation, brokers = struct.unpack_from(">ii", answer)
    if correlation != 1 or brokers > 10_000:
        raise struct.error("not the answer to the question")
    at = 8
    for _ in range(brokers):
        _, at = _read_text(answer, at + 4)
        _, at = _read_text(answer, at + 4)  # the rack, behind the port
    cluster, _ = _read_text(answer, at)
    return Greeting(cluster, brokers)


def _read_text(answer: bytes, at: int) -> tuple[str, int]:
    """A text that may be absent, and where it ends."""
    size = max(0, struct.unpack_from(">h", answer, at)[0])
    return answer[at + 2 : at + 2 + size].decode(), at + 2 + size


def _sasl(layout: Layout) -> dict[str, str]:
    if not layout.users:
        return {}
    plain = "".join(f' user_{name}="{word}"' for name, word in layout.users.items())
    modules = {
        "plain": f"org.apache.kafka.common.security.plain.PlainLoginModule required{plain};",
        **{how.lower(): "org.apache.kafka.common.security.scram.ScramLoginModule required;" for how in SCRAM},
    }
    config = {"sasl.enabled.mechanisms": ",".join(["PLAIN", *SCRAM])}
    for protocol in ("SASL_PLAINTEXT", "SASL_SSL"):
        if protocol in layout.protocols:
            for how, module in modules.items():
                config[f"listener.name.{protocol.lower()}.{how}.sasl.jaas.config"] = module
    return config


def _tls(folder: Path, layout: Layout) -> dict[str, str]:
    if layout.certificate is None:
        return {}
    config = {"ssl.keystore.type": "PEM", "ssl.keystore.location": str(layout.certificate)}
    if layout.authority is not None:
        config |= {
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(layout.authority),
            "ssl.client.auth": "required",
        }
    return config


KAFKA = BrokerKind(
    name="kafka",
    url_variable="STREAMFLOW_KAFKA_URL",
    url_default=f"127.0.0.1:{DEFAULT_PORT}",
    port_variable="STREAMFLOW_KAFKA_PORT",
    probe=probe,
    native_command=native_command,
    install=kafka_home,
)
