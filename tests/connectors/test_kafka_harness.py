"""The Kafka of the harness: ready when it says so, what it acknowledged survives kill -9, every listener works."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError
from aiokafka.helpers import create_ssl_context

from tests.brokers import KAFKA, BrokerError, KafkaServer, NothingListensError, down, status, up
from tests.brokers import kafka_software as software
from tests.brokers.kind import BrokerKind
from tests.brokers.process import identity
from tests.brokers.required import is_required, need
from tests.brokers.server import free_port
from tests.connectors.nats.keys import certificates

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _had() -> None:
    need(KAFKA)


async def make_topic(url: str, name: str, partitions: int = 1) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=url)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(name, partitions, 1)])
    finally:
        await admin.close()


async def produce(url: str, topic: str, values: list[bytes], **login: object) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=url, acks="all", **login)
    try:
        await producer.start()
        for value in values:
            await producer.send_and_wait(topic, value)
    finally:
        await producer.stop()


async def consume(url: str, topic: str, count: int) -> list[bytes]:
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=url, auto_offset_reset="earliest")
    await consumer.start()
    try:
        return [(await consumer.getone()).value for _ in range(count)]
    finally:
        await consumer.stop()


async def test_acknowledged_records_survive_kill_9_on_the_same_port(kafka_server: KafkaServer):
    url, pid = kafka_server.url, kafka_server.pid
    await make_topic(url, "keep")
    values = [str(number).encode() for number in range(20)]
    await produce(url, "keep", values)
    await kafka_server.kill_async()
    assert not kafka_server.running
    with pytest.raises(NothingListensError):
        await asyncio.to_thread(KAFKA.probe, url)
    await kafka_server.restart_async()
    assert kafka_server.url == url
    assert (kafka_server.pid == pid, kafka_server.starts) == (False, 2)
    assert await consume(url, "keep", 20) == values


async def test_a_frozen_server_answers_only_when_it_goes_on(kafka_server: KafkaServer, monkeypatch):
    monkeypatch.setattr("tests.brokers.kafka.PROBE_SECONDS", 0.2)
    kafka_server.freeze()
    with pytest.raises(BrokerError, match="does not answer"):
        await asyncio.to_thread(KAFKA.probe, kafka_server.url)
    kafka_server.thaw()
    monkeypatch.setattr("tests.brokers.kafka.PROBE_SECONDS", 5.0)
    assert "1 broker" in await asyncio.to_thread(KAFKA.probe, kafka_server.url)


async def test_every_listener_takes_who_may_and_refuses_who_may_not(tmp_path: Path):
    keys = certificates(tmp_path)
    store = keys / "server.store"
    made = subprocess.run(
        ["openssl", "pkcs8", "-topk8", "-nocrypt", "-in", "server.key"], cwd=keys, check=True, capture_output=True
    )
    store.write_bytes(made.stdout + (keys / "server.pem").read_bytes())
    context = create_ssl_context(cafile=str(keys / "ca.pem"))
    async with KafkaServer(users={"ann": "s3cret"}, certificate=store) as server:
        await make_topic(server.url, "who")
        for mechanism in ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"):
            login = {"sasl_mechanism": mechanism, "sasl_plain_username": "ann", "sasl_plain_password": "s3cret"}
            await produce(server.sasl_url, "who", [b"1"], security_protocol="SASL_PLAINTEXT", **login)
            await produce(
                server.sasl_ssl_url, "who", [b"2"], security_protocol="SASL_SSL", ssl_context=context, **login
            )
            wrong = {**login, "sasl_plain_password": "guess"}
            with pytest.raises(KafkaError):
                await produce(server.sasl_url, "who", [b"3"], security_protocol="SASL_PLAINTEXT", **wrong)
        await produce(server.ssl_url, "who", [b"4"], security_protocol="SSL", ssl_context=context)
        stranger = ssl.create_default_context()
        with pytest.raises(KafkaError):
            await produce(server.ssl_url, "who", [b"5"], security_protocol="SSL", ssl_context=stranger)
        assert await consume(server.url, "who", 7) == [b"1", b"2"] * 3 + [b"4"]


def test_close_leaves_neither_process_nor_folder():
    with KafkaServer() as server:
        pid, folder = server.pid, server.folder
        assert folder.exists()
    assert identity(pid) is None
    assert not folder.exists()


def test_a_server_that_cannot_start_shows_its_log():
    server = KafkaServer(extra_config={"num.partitions": "many"})
    with pytest.raises(BrokerError, match=r"(?s)Kafka ended with 1:\n.*num\.partitions"):
        server.start()
    server.close()


def test_a_fixed_port_that_is_taken_is_an_error(kafka_server: KafkaServer):
    second = KafkaServer(port=kafka_server.port)
    with pytest.raises(BrokerError, match=r"Address already in use"):
        second.start()
    second.close()
    assert kafka_server.running


def test_up_starts_once_and_down_stops_it(tmp_path: Path, monkeypatch):
    url = f"127.0.0.1:{free_port()}"
    monkeypatch.setenv("STREAMFLOW_KAFKA_URL", url)
    monkeypatch.setenv("STREAMFLOW_BROKERS_DIR", str(tmp_path))
    monkeypatch.setattr("tests.brokers.shared.engine_answers", lambda: False)
    started = up(KAFKA)
    assert (started.how, started.started_now, started.url) == ("native", True, url)
    assert (up(KAFKA).started_now, status(KAFKA)[0]) == (False, True)
    assert down(KAFKA).startswith("stopped (pid")
    with pytest.raises(NothingListensError):
        KAFKA.probe(url)


FAKE_MAVEN = """\
#!{python}
import os, pathlib, sys, time
folder = pathlib.Path([word for word in sys.argv if word.startswith("-DoutputDirectory=")][0].partition("=")[2])
with open({calls!r}, "a") as calls:
    calls.write("called\\n")
folder.mkdir()
time.sleep(0.3)
for jar in pathlib.Path({libs!r}).iterdir():
    os.symlink(jar, folder / jar.name)
"""


def test_two_processes_fetch_once_and_neither_sees_half_of_it(tmp_path: Path):
    """Maven is stood in for by a script that links the jars at hand: what is tested is the cache, not the download."""
    calls, tools = tmp_path / "calls", tmp_path / "bin"
    tools.mkdir()
    maven = tools / "mvn"
    libs = str(software.kafka_home() / "libs")
    maven.write_text(FAKE_MAVEN.format(python=sys.executable, calls=str(calls), libs=libs))
    maven.chmod(0o755)
    program = (
        "from tests.brokers.kafka_software import kafka_home\n"
        "home = kafka_home(); print(len(list((home / 'libs').iterdir())), (home / 'empty/meta.properties').exists(),\n"
        "    (home / 'classes.jsa').stat().st_size > 1_000_000)"
    )
    environment = {"PATH": f"{tools}:/usr/bin:/bin", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    command = [sys.executable, "-c", program]
    both = [subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate()[0].split() for process in both]
    assert said[0] == said[1] == [str(len(list(Path(libs).iterdir()))), "True", "True"]
    assert calls.read_text() == "called\n"
    assert [path.name for path in (tmp_path / "cache/streamflow").iterdir() if path.name.startswith(".")] == []


def test_a_start_takes_classes_from_the_archive_and_goes_without_a_bad_one(tmp_path: Path):
    home = software.kafka_home()
    usage = [*software.java_command(home, "kafka.Kafka", [], ["-Xlog:class+load"])]
    loaded = subprocess.run(usage, capture_output=True, text=True, check=False).stdout
    assert "kafka.Kafka$ source: shared objects file (top)" in loaded
    bad = tmp_path / "bad.jsa"
    for content in (b"", b"\0" * 100_000):
        bad.write_bytes(content)
        spoilt = [f"-XX:SharedArchiveFile={bad}" if "SharedArchive" in word else word for word in usage]
        loaded = subprocess.run(spoilt, capture_output=True, text=True, check=False).stdout
        assert "kafka.Kafka$ source: file:" in loaded


@pytest.mark.parametrize(("asked", "required"), [("", False), ("all", True), ("nats, kafka", True), ("nats", False)])
def test_what_the_environment_asks_for(asked: str, required: bool):
    assert is_required("kafka", {"STREAMFLOW_REQUIRE_BROKERS": asked}) is required
    assert not is_required("kafka", {})


def test_what_cannot_be_had_is_skipped_or_fails(monkeypatch):
    def nothing() -> None:
        raise BrokerError("java is not installed")

    kind = BrokerKind("pigeon", "X", "x:1", "P", KAFKA.probe, KAFKA.native_command, nothing)
    monkeypatch.setattr("tests.brokers.required._problems", {})
    monkeypatch.delenv("STREAMFLOW_REQUIRE_BROKERS", raising=False)
    with pytest.raises(pytest.skip.Exception, match="pigeon cannot be had: java is not installed"):
        need(kind)
    monkeypatch.setenv("STREAMFLOW_REQUIRE_BROKERS", "pigeon")
    with pytest.raises(pytest.fail.Exception, match="asks for it: java is not installed"):
        need(kind)


def test_without_java_the_broker_is_named(monkeypatch, tmp_path: Path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BrokerError, match="java is not installed"):
        software.kafka_home()
