"""The RabbitMQ harness: ready when it says so, data survives kill -9, no process of it is left running."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

import pytest

from tests.brokers import RABBITMQ, BrokerError, NothingListensError, RabbitServer, down, status, up
from tests.brokers.process import identity
from tests.brokers.rabbitmq import STREAM_PORT_VARIABLE
from tests.brokers.rabbitmq_home import own_script
from tests.brokers.required import need
from tests.brokers.server import free_port


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def gone(pids: list[int], seconds: float = 5.0) -> bool:
    async with asyncio.timeout(seconds):
        while any(identity(pid) for pid in pids):
            await asyncio.sleep(0.02)
    return True


async def test_it_comes_back_on_the_same_ports_after_kill_9(lasting_rabbit):
    server = lasting_rabbit
    before, ports, pid = server.url, server.listeners, server.pid
    assert Path(f"/proc/{pid}/exe").resolve().name == "beam.smp"
    helpers = children(pid)
    assert any(b"epmd" in Path(f"/proc/{helper}/cmdline").read_bytes() for helper in helpers)

    await server.kill_async()
    assert not server.running
    assert await gone([pid, *helpers])  # epmd ends with it
    with pytest.raises(NothingListensError):
        RABBITMQ.probe(server.url)
    await server.restart_async()

    assert (server.url, server.listeners) == (before, ports)
    assert server.pid != pid


def test_every_port_is_on_the_loopback(lasting_rabbit):
    pid = lasting_rabbit.pid
    listed = subprocess.run(["ss", "-Hltnp"], capture_output=True, text=True, check=True).stdout
    family = [pid, *children(pid)]
    own = [line.split()[3] for line in listed.splitlines() if any(f"pid={each}," in line for each in family)]
    assert len(own) >= 4
    assert all(address.startswith(("127.0.0.1:", "[::1]:")) for address in own), own


def test_a_shared_one_is_started_and_stopped(tmp_path, monkeypatch):
    need(RABBITMQ)
    monkeypatch.setenv("STREAMFLOW_RABBITMQ_URL", f"amqp://127.0.0.1:{free_port()}")
    monkeypatch.setenv(STREAM_PORT_VARIABLE, str(free_port()))
    monkeypatch.setenv("STREAMFLOW_BROKERS_DIR", str(tmp_path))
    monkeypatch.setattr("tests.brokers.shared.engine_answers", lambda: False)
    started = up(RABBITMQ)
    try:
        assert (started.how, started.started_now) == ("native", True)
        assert "with streams" in status(RABBITMQ)[1]
    finally:
        assert down(RABBITMQ).startswith("stopped (pid")
    with pytest.raises(NothingListensError):
        RABBITMQ.probe(started.url)


@pytest.mark.long
def test_a_server_that_cannot_start_shows_its_log():
    need(RABBITMQ)
    server = RabbitServer(extra_config="listeners.tcp.2 = nonsense")
    with pytest.raises(BrokerError, match="RabbitMQ ended with"):
        server.start()
    server.close()


def test_something_else_on_the_port_is_named(nats_server):
    with pytest.raises(BrokerError, match="is no RabbitMQ server"):
        RABBITMQ.probe(f"amqp://127.0.0.1:{nats_server.port}")


def test_a_server_has_the_plugins_it_needs_and_no_others(lasting_rabbit):
    plugins = {path.name.rpartition("-")[0] for path in (lasting_rabbit.folder / "home/plugins").iterdir()}
    assert plugins >= {"rabbit", "rabbit_common", "rabbitmq_stream", "osiris", "ra"}
    assert not plugins & {"rabbitmq_management", "rabbitmq_mqtt", "cowboy"}


def test_one_that_is_laid_out_in_another_way_is_taken_as_it_is(tmp_path):
    script = tmp_path / "sbin" / "rabbitmq-server"
    script.parent.mkdir()
    script.touch()
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "rabbit-4.0.ez").touch()
    assert own_script(script, tmp_path / "own") == script
