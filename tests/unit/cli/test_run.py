"""Running a flow from the command line: its end, its signals, what it prints."""

from __future__ import annotations

import json
import signal
import time

import pytest

from streamflow.cli.progress import Progress
from streamflow.errors import Unavailable

FOLLOWED = """
import streamflow as sf
flow = sf.Flow("followed", state="followed.db")
flow.source(sf.lines("in.txt", follow=True), name="lines").map(str.upper, name="up").to(sf.lines("out.txt"), name="out")
"""
STUCK = """
import time
import streamflow as sf
flow = sf.Flow("stuck", state="stuck.db")

def never(line):
    print("in the step", flush=True)
    while True:
        time.sleep(0.01)

flow.source(sf.lines("in.txt"), name="lines").map(never).to(sf.lines("out.txt"), name="out")
"""


def test_a_flow_runs_until_its_sources_end(project):
    module = project.words()
    result = project("run", module)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    assert "the flow runs from the beginning" in result.stdout
    assert "2 records" in result.stdout
    assert len(project.lines("out.jsonl")) == 5
    assert json.loads(project.lines("out.jsonl")[-1]) == {"word": "a", "count": 3}


def test_the_next_run_goes_on_where_the_last_one_was(project):
    module = project.words()
    assert project("run", module).exit_code == 0
    with project.path("in.txt").open("a") as file:
        file.write("a\n")
    result = project("run", module, "--loop", "asyncio")
    assert "the flow runs from epoch 1" in result.stdout
    assert [json.loads(line) for line in project.lines("out.jsonl")[5:]] == [{"word": "a", "count": 4}]


def test_quiet_prints_nothing(project):
    result = project("run", project.words(), "--quiet")
    assert (result.exit_code, result.output) == (0, "")


def test_json_prints_one_object_per_line(project):
    result = project("run", project.words(), "--json")
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert [event["event"] for event in events] == ["started", "stopped"]
    assert events[-1]["records"] == 2
    assert events[-1]["restarts"] == 0


def test_records_left_out_are_told_and_counted(project):
    module = project.words()
    text = project.path(f"{module}.py").read_text()
    project.path(f"{module}.py").write_text(text.replace('name="split"', 'name="split", on_error=sf.skip'))
    text = project.path(f"{module}.py").read_text()
    project.path(f"{module}.py").write_text(text.replace("line.split()", "[1 / 0]"))
    process = project.start("run", module)
    stdout, stderr = process.communicate()
    assert process.returncode == 0
    assert "2 left out" in stdout
    assert "step 'split' left out a record" in stderr
    assert len(stderr.splitlines()) == 1, "what repeats is told once a second, and by one voice"


def test_a_missing_witness_is_accepted_on_request(project):
    module = project.words()
    assert project("run", module).exit_code == 0
    project.path("words.db.epoch").unlink()
    assert project("run", module).exit_code == 5
    assert project("run", module, "--accept-missing").exit_code == 0
    assert project("run", module).exit_code == 0


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_stops_the_flow_cleanly(project, loop, number):
    if loop == "uvloop":
        pytest.importorskip("uvloop")
    project.path("in.txt").write_text("".join(f"line {n}\n" for n in range(1000)))
    process = project.start("run", project.write(FOLLOWED), "--loop", loop)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, "")
    taken = int(out.split(" record")[0].rpartition(" ")[2].replace(",", ""))
    published = project.lines("out.txt") if taken else []
    assert published == [f"LINE {n}" for n in range(taken)], "what was taken is published"
    again = project.start("run", project.write(FOLLOWED), "--loop", loop)
    wait_for_lines(project, 1000)
    again.terminate()
    assert again.wait(30) == 0
    again.communicate()
    assert project.lines("out.txt") == [f"LINE {n}" for n in range(1000)]


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_second_signal_ends_at_once(project, loop, number):
    if loop == "uvloop":
        pytest.importorskip("uvloop")
    project.path("in.txt").write_text("a\n")
    process = project.start("run", project.write(STUCK), "--loop", loop)
    assert process.stdout is not None
    while "in the step" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(number)
    time.sleep(0.3)
    assert process.poll() is None, "the first signal waits for the step"
    process.send_signal(number)
    process.communicate(timeout=10)
    assert process.returncode == 130


def wait_for_lines(project, count: int) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if project.path("out.txt").exists() and len(project.lines("out.txt")) == count:
            return
        time.sleep(0.02)
    raise AssertionError(f"{len(project.lines('out.txt'))} of {count} lines")


class Heard:
    """A voice that remembers."""

    live = False

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, event, text, facts):
        self.lines.append(text)

    def warn(self, event, text, facts):
        self.lines.append(f"warning: {text}")

    def show(self, text, facts):
        self.lines.append(text)


def test_each_attempt_of_a_connector_is_one_line_with_the_way_out():
    heard = Heard()
    progress = Progress(heard, {("sink", "out"): "nats stream OUT"})
    progress.connector_failed("sink", "out", Unavailable("no\nanswer from nats://bob:pw@host", hint="Start it."), 0.5)
    assert heard.lines == [
        "warning: sink 'out' (nats stream OUT) failed: no answer from nats://***@host; trying again in 0.5 s. Start it."
    ]


def test_restarts_and_stalls_are_told():
    heard = Heard()
    progress = Progress(heard, {})
    progress.started(0, 1)
    progress.restarting(Unavailable("gone"), 1.0)
    progress.started(7, 2)
    progress.stalled("the outbox of sink 'x' is full")
    progress.stalled("the outbox of sink 'x' is full")
    progress.finished({"x": 3})
    assert heard.lines == [
        "the flow runs from the beginning",
        "warning: back to the checkpoint in 1 s: gone.",
        "the flow goes on from epoch 7",
        "warning: no record is taken: the outbox of sink 'x' is full",
        "stopped at epoch 7: 0 records, 0 epochs, 1 restart",
        "warning: sink 'x': 3 records committed and not published yet; the next run publishes them.",
    ]
