"""Logging in to real servers: PLAIN, SCRAM, TLS, client certificates; what is refused, in three lines, no secrets."""

from __future__ import annotations

import asyncio
import logging
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from streamflow.connect.contracts import SinkContext, SinkOptions
from streamflow.errors import ConnectorError, SettingsError, StreamflowError, Unavailable
from streamflow_kafka import Kafka, Options, SaslOAuth, SaslPlain, SaslScram, Tls
from tests.brokers import KAFKA, KafkaServer
from tests.brokers.required import need
from tests.brokers.server import free_port
from tests.connectors.kafka.broker import Broker
from tests.connectors.kafka.kit import close_all, opened, payloads, source_context
from tests.connectors.kafka.stage import chunk
from tests.connectors.nats.keys import certificates

CANARY = "c4n4ry-s3cret"
QUICK = Options(timeout_seconds=3, fetch_wait_seconds=0.2)


@pytest.fixture(autouse=True)
def _had() -> None:
    need(KAFKA)


@pytest.fixture
def quiet_log(caplog, capfd):
    caplog.set_level(logging.DEBUG)
    yield caplog
    out, err = capfd.readouterr()
    assert CANARY not in caplog.text + out + err


def server_store(keys: Path, who: str = "server") -> Path:
    """Key and certificate in one file, as Kafka takes them."""
    made = subprocess.run(
        ["openssl", "pkcs8", "-topk8", "-nocrypt", "-in", f"{who}.key"], cwd=keys, check=True, capture_output=True
    )
    store = keys / f"{who}.store"
    store.write_bytes(made.stdout + (keys / f"{who}.pem").read_bytes())
    return store


async def fed(server: KafkaServer) -> None:
    broker = Broker(server)
    await broker.connect()
    await broker.topic(name="orders")
    await broker.feed("orders", b"a", b"b")
    await broker.close()


async def goes_through(kafka: Kafka) -> None:
    spec = kafka.topic("orders")
    assert (await spec.source().probe()).ok
    assert await payloads(await opened(spec), 2) == [b"a", b"b"]
    await close_all()


async def is_published_through(kafka: Kafka, server: KafkaServer) -> None:
    """What a sink publishes through this listener is there for others, and it recovers through it."""
    spec = kafka.topic("results", value=str)
    broker = Broker(server)
    await broker.connect()
    await broker.topic(name="results")
    first = spec.sink(SinkOptions())
    assert (await first.probe()).ok
    await first.open(SinkContext("f", "out", 0, "i", 1))
    baseline = await first.recover(None, [])
    runs = [chunk(first, epoch, epoch, [str(epoch)]) for epoch in (1, 2)]
    await first.publish(runs[:1], baseline)
    await first.close()
    second = spec.sink(SinkOptions())
    await second.open(SinkContext("f", "out", 0, "i", 2))
    at = await second.recover(baseline, runs)
    assert at.next_seq == 2
    await second.publish(runs[1:], at)
    await second.close()
    assert await broker.values("results") == [b"1", b"2"]
    await broker.close()


async def is_refused(kafka: Kafka, error: type[StreamflowError], match: str) -> None:
    source = kafka.topic("orders").source()
    with pytest.raises(error, match=match) as caught:
        await source.open(source_context(), {})
    assert not isinstance(caught.value, Unavailable) or error is Unavailable
    assert caught.value.hint
    assert CANARY not in str(caught.value) + caught.value.hint
    assert "\n" not in str(caught.value) + caught.value.hint
    await source.close()
    probe = await kafka.topic("orders").source().probe()
    assert not probe.ok
    assert probe.hint
    assert CANARY not in repr(probe)


async def test_logins(quiet_log, tmp_path: Path):
    own, strange = certificates(tmp_path), certificates(tmp_path, "strange")
    tls = Tls(ca=own / "ca.pem")
    async with KafkaServer(users={"ann": CANARY}, certificate=server_store(own)) as server:
        await fed(server)

        def sasl(security: Any, url: str = server.sasl_url) -> Kafka:
            return Kafka(url, security=security, options=QUICK)

        def encrypted(security: Any) -> Kafka:
            return sasl(security, server.sasl_ssl_url)

        for good in (
            sasl(SaslPlain("ann", CANARY)),
            sasl(SaslScram("ann", CANARY)),
            sasl(SaslScram("ann", CANARY, "SCRAM-SHA-256")),
            encrypted(SaslPlain("ann", CANARY, tls)),
            encrypted(SaslScram("ann", CANARY, tls=ssl.create_default_context(cafile=str(own / "ca.pem")))),
            sasl(tls, server.ssl_url),
        ):
            await goes_through(good)
        await is_published_through(encrypted(SaslScram("ann", CANARY, tls=tls)), server)
        for wrong in (
            sasl(SaslPlain("ann", CANARY + "x")),
            sasl(SaslScram("ann", CANARY + "x")),
            sasl(SaslScram("bob", CANARY)),
            encrypted(SaslScram("ann", CANARY + "x", tls=tls)),
        ):
            await is_refused(wrong, ConnectorError, "refuses the login")

        async def token() -> str:
            return CANARY

        await is_refused(sasl(SaslOAuth(token)), ConnectorError, "does not take this way to log in")
        await is_refused(sasl(SaslPlain("ann", CANARY), server.url), ConnectorError, "does not take this way to log in")
        await is_refused(sasl(None), Unavailable, "closed the connection")
        await is_refused(sasl(None, server.ssl_url), Unavailable, "closed the connection|in time")
        await is_refused(sasl(tls, server.url), Unavailable, "closed the connection")
        await is_refused(sasl(Tls(ca=strange / "ca.pem"), server.ssl_url), ConnectorError, "TLS with Kafka .* failed")
        await is_refused(sasl(Tls(), server.ssl_url), ConnectorError, "TLS with Kafka .* failed: .*(?i:certificate)")
        await is_refused(sasl(Tls(ca=tmp_path / "no")), SettingsError, "TLS files cannot be used")
        await asyncio.to_thread(three_lines, tmp_path, server)


def three_lines(folder: Path, server: KafkaServer) -> None:
    """The command line says it in three lines, with an exit code."""
    program = folder / "orders.py"
    program.write_text(
        "import streamflow as sf\nfrom streamflow_kafka import Kafka, SaslScram\n"
        f'flow = sf.Flow("orders", state="{folder}/orders.db")\n'
        f'kafka = Kafka("{server.sasl_url}", security=SaslScram("ann", "{CANARY}x"))\n'
        'flow.source(kafka.topic("orders", value=str)).to(sf.MemoryTopic("out", value=str))\n'
    )
    for command in ("check", "run"):
        done = run_cli(command, f"{program}:flow")
        said = done.stdout + done.stderr
        assert done.returncode == 4, said
        assert "refuses the login" in said
        assert CANARY not in said
        if command == "run":
            assert len(said.strip().splitlines()) <= 3, said


def run_cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from streamflow.cli import main; main()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


async def test_the_host_name_is_checked(tmp_path: Path):
    own = certificates(tmp_path)
    async with KafkaServer(certificate=server_store(own, "other")) as server:
        kafka = Kafka(server.ssl_url, security=Tls(ca=own / "ca.pem"), options=QUICK)
        await is_refused(kafka, ConnectorError, "TLS with Kafka .* failed: .*(127|IP)")


async def test_client_certificates(tmp_path: Path):
    own, strange = certificates(tmp_path), certificates(tmp_path, "strange")
    async with KafkaServer(certificate=server_store(own), authority=own / "ca.pem") as server:
        await fed(server)
        good = Tls(ca=own / "ca.pem", cert=own / "client.pem", key=own / "client.key")
        await goes_through(Kafka(server.ssl_url, security=good, options=QUICK))
        wrong = Tls(ca=own / "ca.pem", cert=strange / "client.pem", key=strange / "client.key")
        for tls in (Tls(ca=own / "ca.pem"), wrong):
            kafka = Kafka(server.ssl_url, security=tls, options=QUICK)
            await is_refused(kafka, ConnectorError, "TLS with Kafka .* failed: .*(?i:certificate)")


async def test_what_a_user_may_not_read_is_named():
    rules = {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
    }
    async with KafkaServer(users={"ann": CANARY}, extra_config=rules) as server:
        await fed(server)
        ann = Kafka(server.sasl_url, security=SaslScram("ann", CANARY), options=QUICK)
        await is_refused(ann, ConnectorError, "does not allow this user to read topic orders")


async def test_servers_that_are_down_or_no_kafka(tmp_path: Path):
    down = Kafka(f"127.0.0.1:{free_port()}", security=SaslPlain("ann", CANARY), options=QUICK)
    await is_refused(down, Unavailable, r"no Kafka broker answers at 127\.0\.0\.1:\d+: connection refused")
    await is_refused(Kafka("host.invalid", options=QUICK), Unavailable, "no Kafka broker answers at host.invalid:9092")

    async def silent(reader, writer) -> None:
        await reader.read(1000)
        await asyncio.sleep(1)
        writer.close()

    async def chatty(reader, writer) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    for kind in (silent, chatty):
        server = await asyncio.start_server(kind, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        options = Options(timeout_seconds=0.3, fetch_wait_seconds=0.1)
        await is_refused(Kafka(f"127.0.0.1:{port}", options=options), Unavailable, "Kafka at 127.0.0.1")
        server.close()
        await server.wait_closed()
    await asyncio.sleep(0.8)


@pytest.mark.long
async def test_the_next_server_is_tried():
    async with KafkaServer() as server:
        await fed(server)
        await goes_through(Kafka([f"127.0.0.1:{free_port()}", server.url], options=QUICK))
