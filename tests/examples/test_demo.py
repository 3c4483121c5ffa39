"""The demo in small: it really kills the flow, proves what it says, notices what is wrong, and leaves nothing."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import nats
import pytest

from examples.demo.audit import Audit
from examples.demo.kills import KillPlan
from examples.demo.results import StreamHole, read_stream
from tests.brokers import NatsServer

ROOT = Path(__file__).parents[2]
WORDS = 40_000


def demo(tmp_path: Path, *arguments: str) -> subprocess.Popen[str]:
    """Starts the demo with a folder for temporary files of its own, to see what is left there."""
    return subprocess.Popen(
        [sys.executable, "-m", "examples.demo", *arguments],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(tmp_path: Path, process: subprocess.Popen[str]) -> str:
    """Waits for its end and checks that nothing is left: no process, no file."""
    output, _ = process.communicate(timeout=60)
    assert not list(tmp_path.iterdir()), f"files are left behind\n{output}"
    assert not processes_that_name(tmp_path), f"processes are left behind\n{output}"
    return output


def processes_that_name(folder: Path) -> list[str]:
    """Returns the command lines that name a folder; NATS and flow name the one they work in."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = file.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            environment = file.with_name("environ").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if f"{folder}/" in command or f"DEMO_STATE={folder}/" in environment:
            found.append(command)
    return found


def test_counts_are_right_although_the_flow_is_killed(tmp_path: Path):
    process = demo(tmp_path, "--words", str(WORDS), "--kills", "3", "--seed", "7")
    output = finish(tmp_path, process)
    assert process.returncode == 0, output
    assert output.endswith("OK: nothing lost, nothing twice\n")
    places = [int(found.replace(",", "")) for found in re.findall(r"SIGKILL \d at \d+%: ([\d,]+) out", output)]
    total = int(re.findall(r"([\d,]+) results read back", output)[0].replace(",", ""))
    assert total >= WORDS
    assert len(places) == 3 and 0 < places[0] < places[1] < places[2] < total, output
    assert output.count("after the kill") == 3
    assert "\x1b" not in output


def test_it_runs_undisturbed(tmp_path: Path):
    process = demo(tmp_path, "--words", str(WORDS), "--no-kill")
    output = finish(tmp_path, process)
    assert process.returncode == 0, output
    assert "0 kills" in output and "SIGKILL 1" not in output


@pytest.fixture
def heeds_ctrl_c() -> Iterator[None]:
    """Whoever is started now heeds Ctrl-C, which a shell ignores in what it runs in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.usefixtures("heeds_ctrl_c")
def test_ctrl_c_ends_everything(tmp_path: Path):
    process = demo(tmp_path, "--kills", "0")
    deadline = time.monotonic() + 30
    while not any("examples.demo.flow" in line for line in processes_that_name(tmp_path)):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output = finish(tmp_path, process)
    assert process.returncode == 130, output
    assert output.endswith("interrupted; nothing is left running\n")


def results(*pairs: tuple[str, int]) -> list[bytes]:
    return [json.dumps(pair).encode() for pair in pairs]


@pytest.mark.parametrize(
    ("pairs", "problem"),
    [
        ([("a", 1), ("b", 1), ("a", 2)], None),
        ([("a", 1), ("b", 1)], "1 results are lost"),
        ([("a", 2), ("b", 1), ("a", 2)], "came twice or out of order"),
        ([("a", 1), ("a", 2), ("b", 1), ("b", 1)], "came twice or out of order"),
        ([("a", 2), ("a", 1), ("b", 1)], "came twice or out of order"),
        ([("a", 1), ("a", 2), ("b", 1), ("c", 1)], "'c': counted 1, in the files 0"),
        ([], "3 results are lost"),
    ],
)
def test_the_audit_notices_what_is_wrong(pairs: list[tuple[str, int]], problem: str | None):
    audit = Audit(Counter(a=2, b=1))
    audit.take(results(*pairs))
    problems = audit.problems(messages=len(pairs))
    assert problem is None or problem in "; ".join(problems)
    assert bool(problems) == (problem is not None)


def test_the_audit_compares_with_what_the_server_holds():
    audit = Audit(Counter(a=1))
    audit.take(results(("a", 1)))
    assert audit.problems(messages=2) == ["1 words, 2 messages in the stream, 1 read back"]


async def test_results_are_read_back_as_any_client_would():
    """The bare socket gives what nats-py gives, and notices a message that was taken out of the stream."""
    with NatsServer(sync="2m") as server:
        async with await nats.connect(server.url) as client:
            js = client.jetstream()
            await js.add_stream(name="RESULTS", subjects=["results"])
            for number in range(5000):
                await client.publish("results", b"%d\r\n" % number, headers={"n": "1"} if number % 3 else None)
            await client.flush()
            while (await js.stream_info("RESULTS")).state.messages < 5000:
                await asyncio.sleep(0.01)
            read = [payload async for payloads in read_stream(server.url, "RESULTS") for payload in payloads]
            subscription = await js.subscribe("results", ordered_consumer=True)
            assert read == [(await subscription.next_msg()).data for _ in range(5000)]
            await js.delete_consumer("RESULTS", "audit")
            await js.delete_msg("RESULTS", 2500)
            with pytest.raises(StreamHole, match="message 2500"):
                async for _ in read_stream(server.url, "RESULTS"):
                    pass


def test_kills_fall_into_the_middle_and_only_after_progress():
    for seed in range(50):
        plan = KillPlan(kills=5, total=1000, seed=seed)
        for published in range(1001):
            if plan.is_due(published):
                plan.done.append(published)
        assert len(plan.done) == 5
        assert plan.done[0] >= 100 and plan.done[-1] <= 901
    plan = KillPlan(kills=2, total=1000, seed=1)
    plan.done.append(950)
    assert not plan.is_due(950)
    assert plan.is_due(951)
