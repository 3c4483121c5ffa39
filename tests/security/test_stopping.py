"""Stopping: the first signal drains, the second leaves at once, and a kill in the middle of a stop loses nothing."""

from __future__ import annotations

import json
import random
import signal
import time
from collections import Counter
from subprocess import Popen

import pytest

from tests.brokers import NatsServer
from tests.brokers.server import free_port
from tests.unit.cli.conftest import Project

COUNTED = """
import dataclasses, os, signal
import streamflow as sf
from streamflow.cli.signals import Stopper
from streamflow.state.sqlite import SqliteStore, StoreOptions

DIE_AT = os.environ.get("DIE_AT", "")
lines = 0
asked = False
handle = Stopper._on_signal

def note(stopper, number, frame):
    global asked
    asked = True
    handle(stopper, number, frame)

Stopper._on_signal = note

def point(name):
    if asked and name == DIE_AT:
        os.kill(os.getpid(), signal.SIGKILL)

class Counted(sf.Flow):
    # dies at a named point of its stop: the first one after the signal

    def job(self, *arguments, **more):
        job = super().job(*arguments, **more)
        store = SqliteStore(self.state_path, options=StoreOptions(point=point))
        return dataclasses.replace(job, store=store, point=point)

def word(line):
    global lines
    lines += 1
    if lines == 3000:
        print("taken", flush=True)
    return line.split()[1]

# an epoch that stays open until the stop, so that all of its life happens there
pace = "60s" if DIE_AT else "10ms"
flow = Counted("counted", state="counted.db", settings=sf.Settings(commit_min=pace, commit_max=pace))
flow.source(sf.lines("in.txt", follow=True), name="lines").key_by(word, name="by").count(name="counts").to(
    sf.jsonl("out.jsonl"), name="out"
)
"""
LINES = 3000


def fill(project: Project, count: int) -> None:
    with project.path("in.txt").open("a") as file:
        file.writelines(f"line w{at % 7}\n" for at in range(count))


def wait_until_running(process: Popen[str]) -> None:
    assert process.stdout is not None
    assert "the flow" in process.stdout.readline()


def assert_exactly_once(project: Project, total: int) -> None:
    """Every record counted once, in order per key; recomputed from what was read."""
    expected: Counter[str] = Counter()
    pairs = []
    for line in project.lines("in.txt"):
        word = line.split()[1]
        expected[word] += 1
        pairs.append([word, expected[word]])
    assert len(pairs) == total
    assert [json.loads(line) for line in project.lines("out.jsonl")] == pairs


def finish(project: Project, module: str, total: int) -> None:
    """A last run that nobody disturbs: until everything is there, then a clean stop."""
    process = project.start("run", module)
    wait_until_running(process)
    deadline = time.monotonic() + 30
    while not project.path("out.jsonl").exists() or len(project.lines("out.jsonl")) < total:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.terminate()
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, "")
    assert_exactly_once(project, total)


POINTS = ["barrier.formed", "stage.sealed", "commit.begun", "commit.written", "commit.done", "publish.begun",
          "publish.done", "stop.drained"]  # fmt: skip


OFTEN = ("commit.written", "publish.begun", "stop.drained")


@pytest.mark.parametrize("at", [pytest.param(at, marks=[] if at in OFTEN else [pytest.mark.long]) for at in POINTS])
def test_a_kill_at_each_point_of_a_stop_loses_nothing(
    project: Project, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    module = project.write(COUNTED)
    fill(project, LINES)
    monkeypatch.setenv("DIE_AT", at)
    process = project.start("run", module)
    assert process.stdout is not None
    while "taken" not in process.stdout.readline():
        assert process.poll() is None
    process.terminate()
    process.communicate(timeout=30)
    assert process.returncode == -signal.SIGKILL, f"it did not die at {at}"
    monkeypatch.delenv("DIE_AT")
    finish(project, module, LINES)


def test_kills_at_any_moment_of_a_stop_lose_nothing(project: Project, long_run: bool) -> None:
    """SIGTERM, and a SIGKILL a few milliseconds later, as a host does that is out of patience or memory."""
    module, rng, killed, total = project.write(COUNTED), random.Random(3), 0, 0
    for _ in range(15 if long_run else 3):
        fill(project, LINES)
        total += LINES
        process = project.start("run", module)
        wait_until_running(process)
        time.sleep(rng.random() * 0.1)
        process.terminate()
        time.sleep(rng.random() * 0.02)
        process.kill()
        process.communicate(timeout=30)
        killed += process.returncode == -signal.SIGKILL
    assert killed >= 1, "the kills came too late"
    finish(project, module, total)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (signal.SIGTERM, signal.SIGINT),
        pytest.param(signal.SIGINT, signal.SIGINT, marks=pytest.mark.long),
        pytest.param(signal.SIGINT, signal.SIGTERM, marks=pytest.mark.long),
    ],
)
def test_after_a_second_signal_the_next_run_goes_on(
    project: Project, first: signal.Signals, second: signal.Signals
) -> None:
    """The sink's broker is away, so the stop would take its time: the second signal ends it at once."""
    with NatsServer() as server:
        module = project.write(TO_NATS.format(url=server.url, timeout="30s"))
        run_to_nats(server, project)
        process = start_without_broker(project, module, server)
        process.send_signal(first)
        time.sleep(0.5)
        assert process.poll() is None, "it waits for the sink"
        started = time.monotonic()
        process.send_signal(second)
        process.communicate(timeout=10)
        assert process.returncode == 130
        assert time.monotonic() - started < 3
        server.restart()
        publish_the_rest(project, module, server)


def test_sigterm_while_a_sink_is_down(project: Project) -> None:
    """What is committed waits in the store; the exit code is 0, it is said how much, and the next run publishes it."""
    with NatsServer() as server:
        module = project.write(TO_NATS.format(url=server.url, timeout="500ms"))
        run_to_nats(server, project)
        process = start_without_broker(project, module, server)
        process.terminate()
        _, err = process.communicate(timeout=20)
        assert process.returncode == 0, err
        assert "sink 'out'" in err and "50 records committed and not published yet" in err
        server.restart()
        publish_the_rest(project, module, server)


TO_NATS = """
import streamflow as sf
from streamflow_nats import Nats

flow = sf.Flow("to-nats", state="to-nats.db", settings=sf.Settings(stop_timeout="{timeout}"))
flow.source(sf.lines("in.txt", follow=True), name="lines").to(
    Nats("{url}", timeout_seconds=1).stream("S", value=str), name="out"
)
"""
FIFTY = [f"line {at}" for at in range(50)]


def run_to_nats(server: NatsServer, project: Project) -> None:
    ask(server, "$JS.API.STREAM.CREATE.S", b'{"name":"S","subjects":["s"]}')
    project.path("in.txt").write_text("")


def start_without_broker(project: Project, module: str, server: NatsServer) -> Popen[str]:
    """A flow whose sink was there and went away, with fifty records committed since."""
    process = project.start("run", module)
    wait_until_running(process)
    server.kill()
    project.path("in.txt").write_text("".join(f"{line}\n" for line in FIFTY))
    deadline = time.monotonic() + 20
    while committed_frames(project) < 50:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    return process


def committed_frames(project: Project) -> int:
    from streamflow.errors import StateError
    from streamflow.state.reader import describe

    try:
        sinks = describe(project.path("to-nats.db")).sinks
    except StateError:
        return 0
    return sum(sink.frames for sink in sinks.values())


def publish_the_rest(project: Project, module: str, server: NatsServer) -> None:
    process = project.start("run", module)
    deadline = time.monotonic() + 20
    while len(messages(server)) < 50:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    process.terminate()
    process.communicate(timeout=30)
    assert process.returncode == 0
    assert messages(server) == FIFTY


def messages(server: NatsServer) -> list[str]:
    import asyncio

    import nats

    async def read() -> list[str]:
        client = await nats.connect(server.url)
        try:
            stream = client.jetstream()
            last = (await stream.stream_info("S")).state.last_seq
            found = [await stream.get_msg("S", seq) for seq in range(1, last + 1)]
            return [(message.data or b"").decode() for message in found]
        finally:
            await client.close()

    return asyncio.run(read())


def ask(server: NatsServer, subject: str, payload: bytes) -> None:
    import asyncio

    import nats

    async def go() -> None:
        client = await nats.connect(server.url)
        try:
            answer = await client.request(subject, payload, timeout=5)
            assert b'"error"' not in answer.data
        finally:
            await client.close()

    asyncio.run(go())


def test_sigterm_while_a_sink_was_never_there(project: Project) -> None:
    port = free_port()
    module = project.write(TO_NATS.format(url=f"nats://127.0.0.1:{port}", timeout="300ms"))
    project.path("in.txt").write_text("a\n")
    process = project.start("run", module, "--wait")
    wait_until_running(process)
    process.terminate()
    process.communicate(timeout=40)
    assert process.returncode == 0
