"""The broker harness: ready when it says so, data survives kill -9, nothing is left running."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import nats
import pytest

from tests.brokers import NATS, BrokerError, NatsServer, NothingListensError, down, status, up, use_broker
from tests.brokers.__main__ import main
from tests.brokers.process import identity, stop_pid
from tests.brokers.server import free_port

ROOT = Path(__file__).parents[2]


async def wait_until_gone(pid: int, seconds: float = 5.0) -> bool:
    deadline = time.monotonic() + seconds
    while identity(pid) is not None:
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.02)
    return True


@pytest.fixture
def shared_elsewhere(tmp_path, monkeypatch) -> str:
    """Point the shared NATS at a free port and a folder of its own, and say that Docker is not there."""
    url = f"nats://127.0.0.1:{free_port()}"
    monkeypatch.setenv("STREAMFLOW_NATS_URL", url)
    monkeypatch.setenv("STREAMFLOW_BROKERS_DIR", str(tmp_path))
    monkeypatch.setattr("tests.brokers.shared.engine_answers", lambda: False)
    return url


async def test_acknowledged_messages_survive_kill_9_on_the_same_port(nats_server):
    url = nats_server.url
    client = await nats.connect(url)
    stream = client.jetstream()
    await stream.add_stream(name="KEEP", subjects=["keep"])
    for number in range(50):
        await stream.publish("keep", str(number).encode())
    await client.close()
    killed_pid = nats_server.pid

    await nats_server.kill_async()
    assert not nats_server.running
    assert await wait_until_gone(killed_pid)
    await nats_server.restart_async()

    assert nats_server.url == url
    assert nats_server.pid != killed_pid
    assert nats_server.starts == 2
    client = await nats.connect(url)
    assert (await client.jetstream().stream_info("KEEP")).state.messages == 50
    await client.close()


async def test_a_frozen_server_answers_only_when_it_goes_on(monkeypatch):
    monkeypatch.setattr("tests.brokers.nats.PROBE_SECONDS", 0.2)
    async with NatsServer() as server:
        server.freeze()
        with pytest.raises(BrokerError, match="does not answer"):
            await asyncio.to_thread(NATS.probe, server.url)
        server.thaw()
        assert "JetStream" in await asyncio.to_thread(NATS.probe, server.url)


def test_close_leaves_neither_process_nor_folder():
    with NatsServer() as server:
        pid, folder = server.pid, server.folder
        assert folder.exists()
    assert identity(pid) is None
    assert not folder.exists()
    with pytest.raises(BrokerError, match="does not run"):
        _ = server.pid


async def test_a_server_outlives_the_event_loop_that_started_it():
    server = NatsServer()
    try:
        await asyncio.to_thread(lambda: asyncio.run(server.start_async()))
        await asyncio.sleep(0.3)  # long enough for the kernel to act on the end of the thread
        assert server.running
    finally:
        await server.close_async()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ties a child to its parent")
@pytest.mark.parametrize("owner_end", ["kill", "exit"])
async def test_a_server_does_not_outlive_its_owner(owner_end):
    program = (
        "from tests.brokers import NatsServer\n"
        "server = NatsServer(); server.start(); print(server.pid, server.folder, flush=True); input()"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with owner:
        assert owner.stdout is not None
        said_pid, folder = (await asyncio.to_thread(owner.stdout.readline)).split()
        server_pid = int(said_pid)
        assert identity(server_pid) is not None
        if owner_end == "kill":
            owner.kill()
        else:
            owner.communicate("\n")
        assert await wait_until_gone(server_pid)
        assert Path(folder).exists() == (owner_end == "kill")  # nobody is left to remove it
        shutil.rmtree(folder, ignore_errors=True)


def test_extra_config_reaches_the_server():
    with NatsServer(extra_config='authorization { token: "s3cret" }') as server:

        async def connect(**login: str) -> None:
            client = await nats.connect(server.url, allow_reconnect=False, max_reconnect_attempts=0, **login)
            await client.close()

        asyncio.run(connect(token="s3cret"))


def test_a_server_that_cannot_start_shows_its_log():
    server = NatsServer(extra_config="jetstream { nonsense")
    with pytest.raises(BrokerError, match=r"nats-server ended with 1:\n.*Parse error"):
        server.start()
    server.close()


def test_a_fixed_port_that_is_taken_is_an_error():
    with NatsServer() as first:
        second = NatsServer(port=first.port)
        with pytest.raises(BrokerError, match="address already in use"):
            second.start()
        second.close()
        assert first.running


def test_up_starts_once_and_down_stops_it(shared_elsewhere):
    started = up(NATS)
    assert (started.how, started.started_now, started.url) == ("native", True, shared_elsewhere)
    assert started.log_path is not None
    assert "JetStream" in started.log_path.read_text()
    again = up(NATS)
    assert (again.how, again.started_now) == ("native", False)
    assert status(NATS)[0]
    assert down(NATS).startswith("stopped (pid")
    with pytest.raises(NothingListensError):
        NATS.probe(shared_elsewhere)
    assert down(NATS) == "not started from here, left alone"


def test_what_already_listens_is_used_and_left_alone(shared_elsewhere, monkeypatch):
    with NatsServer() as server:
        monkeypatch.setenv("STREAMFLOW_NATS_URL", server.url)
        with use_broker(NATS) as shared:
            assert (shared.how, shared.started_now, shared.url) == ("found", False, server.url)
        assert down(NATS) == "not started from here, left alone"
        assert server.running


def test_use_broker_stops_what_it_started(shared_elsewhere):
    with use_broker(NATS) as shared:
        assert shared.started_now
    assert not status(NATS)[0]


def test_something_else_on_the_port_is_named(shared_elsewhere, monkeypatch):
    monkeypatch.setattr("tests.brokers.nats.PROBE_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", int(shared_elsewhere.rpartition(":")[2]))) as stranger:
        stranger.settimeout(1)
        with pytest.raises(BrokerError, match="does not answer"):
            up(NATS)


def test_a_remote_broker_is_never_started(shared_elsewhere, monkeypatch):
    def nobody(url: str) -> str:
        raise NothingListensError("nothing listens at broker.example:4222")

    monkeypatch.setenv("STREAMFLOW_NATS_URL", "nats://broker.example:4222")
    remote = replace(NATS, probe=nobody)
    with pytest.raises(BrokerError, match="only on this machine"):
        up(remote)


def test_a_pid_that_now_belongs_to_another_process_is_left_alone():
    with subprocess.Popen(["sleep", "30"]) as bystander:
        assert not stop_pid(bystander.pid, "started 1")
        assert bystander.poll() is None
        os.kill(bystander.pid, signal.SIGKILL)


def test_command_line(shared_elsewhere, capsys):
    assert main(["status", "nats"]) == 1
    assert main(["up", "nats"]) == 0
    assert main(["status", "nats"]) == 0
    assert main(["down", "nats"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == ["nothing", "started:", f"{shared_elsewhere}:", "stopped"]
    with pytest.raises(SystemExit, match="2"):
        main(["up", "carrier-pigeon"])
