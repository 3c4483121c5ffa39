"""Bad input: two or three lines that name what, where and the way out, and the exit code of its kind."""

from __future__ import annotations

import socket
import time

import pytest

from tests.unit.cli.asserts import assert_refused, assert_told
from tests.unit.cli.conftest import WORDS

STATEFUL = """
import dataclasses
import streamflow as sf

@dataclasses.dataclass
class Account:
    spent: {kind} = 0

flow = sf.Flow("bank", state="bank.db")

def user(line: str) -> str:
    return line

accounts = flow.source(sf.lines("in.txt"), name="lines").key_by(user)

@accounts.process(state=Account, name="{name}")
def step(ctx, line):
    ctx.state.spent += 1
    yield line

step.to(sf.jsonl("out.jsonl"), name="out")
"""


def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def test_a_duplicate_step_name(project):
    module = project.write(WORDS + '\nwords.map(str.upper, name="row")\n')
    project.path("in.txt").write_text("")
    line = len(WORDS.splitlines()) + 2
    assert_refused(project("run", module), 3, "two steps called 'row'", f"{module}.py, line {line}", 'name="..."')


def test_a_path_that_cannot_keep_what_is_asked(project):
    module = project.words()
    with project.path(f"{module}.py").open("a") as file:
        file.write('words.to(sf.MemoryTopic("blind", blind=True), name="blind")\n')
    assert_refused(project("run", module), 3, "lines -> blind gives at_least_once, not exactly_once", "guarantee=")


def test_a_missing_file(project):
    module = project.words()
    project.path("in.txt").unlink()
    assert_refused(project("run", module), 4, "source 'lines'", "in.txt", "--wait")
    assert not project.path("words.db").exists()


NATS = """
import streamflow as sf
from streamflow_nats import Nats

nats = Nats("{url}", timeout_seconds=2)
flow = sf.Flow("far", state="far.db")
flow.source(nats.stream("ORDERS", value=str), name="orders").to(sf.jsonl("out.jsonl"), name="out")
"""


def test_a_broker_that_is_down(project):
    pytest.importorskip("streamflow_nats")
    port = closed_port()
    module = project.write(NATS.format(url=f"nats://bob:s3cr3t@127.0.0.1:{port}"))
    result = project("run", module)
    assert_refused(result, 4, "source 'orders'", f"nats://127.0.0.1:{port}", "refused", "--wait")
    assert "s3cr3t" not in result.output
    checked = project("check", module)
    assert checked.exit_code == 4
    assert "s3cr3t" not in checked.output
    assert not project.path("far.db").exists()


def test_a_broker_that_is_down_is_waited_for_on_request(project):
    pytest.importorskip("streamflow_nats")
    port = closed_port()
    module = project.write(NATS.format(url=f"nats://bob:s3cr3t@127.0.0.1:{port}"))
    process = project.start("run", module, "--wait")
    assert process.stdout is not None and process.stderr is not None
    assert "the flow runs" in process.stdout.readline()
    told = process.stderr.readline()
    for part in ("source 'orders'", "nats stream ORDERS", f"127.0.0.1:{port}", "trying again in", "Start it"):
        assert part in told
    process.terminate()
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert "s3cr3t" not in out + err + told


def test_a_missing_stream(project, nats_url):
    pytest.importorskip("streamflow_nats")
    module = project.write(NATS.format(url=nats_url).replace("ORDERS", "NOBODY_MADE_THIS_STREAM"))
    assert_refused(project("run", module), 4, "source 'orders'", "NOBODY_MADE_THIS_STREAM", nats_url)
    checked = project("check", module, "--json")
    assert checked.exit_code == 4


def test_undecodable_bytes(project):
    module = project.words()
    project.path("in.txt").write_bytes(b"good\n\xff\xfe bad\n")
    assert_refused(project("run", module), 1, "source 'lines'", "cannot decode", "position 12", "on_error=sf.skip")


def test_a_step_that_raises(project):
    module = project.words()
    text = project.path(f"{module}.py").read_text()
    project.path(f"{module}.py").write_text(text.replace("line.split()", "[1 / 0]"))
    assert_refused(project("run", module), 1, "step 'split'", "ZeroDivisionError", f"{module}.py, line 6")


def test_a_lambda_in_state(project):
    text = STATEFUL.format(kind="object", name="accounts").replace(
        "ctx.state.spent += 1", "ctx.state.spent = lambda: 1"
    )
    project.path("in.txt").write_text("ann\n")
    said = ("state of step 'accounts'", "key 'ann'", "Keep plain values in state")
    assert_refused(project("run", project.write(text)), 1, *said)


def test_a_changed_graph(project):
    module = project.words()
    assert project("run", module).exit_code == 0
    text = project.path(f"{module}.py").read_text()
    renamed = project.write(text.replace('count(name="counts")', 'count(name="totals")'))
    said = ("stateful step 'counts'", "not in the flow", 'drop=["counts"]', "renamed=")
    assert_refused(project("run", renamed), 5, *said)
    checked = project("check", renamed)
    assert checked.exit_code == 5
    assert "stateful step 'counts'" in checked.stdout


def test_a_retyped_state(project):
    project.path("in.txt").write_text("a\n")
    module = project.write(STATEFUL.format(kind="int", name="accounts"))
    assert project("run", module).exit_code == 0
    retyped = project.write(STATEFUL.format(kind="str", name="accounts").replace("+= 1", '= "x"'))
    assert_refused(project("run", retyped), 5, "'accounts' changed", "spent: int", "spent: str", "migrate=")
    assert project("check", retyped).exit_code == 5
    assert project("check", module).exit_code == 0


def test_a_state_file_of_another_flow(project):
    module = project.words()
    assert project("run", module).exit_code == 0
    text = project.path(f"{module}.py").read_text()
    other = project.write(text.replace('Flow("words"', 'Flow("others"'))
    assert_refused(project("run", other), 5, "belongs to flow 'words'", "a state file of its own")
    assert project("check", other).exit_code == 5
    for more in ((), ("--offline",)):
        assert_refused(project("reset", other, "--yes", *more), 5, "belongs to flow 'words'")
    assert project.path("words.db").exists()


def test_a_state_file_that_is_none(project):
    module = project.words()
    project.path("words.db").write_text("this is not a database" * 100)
    assert_refused(project("run", module), 5, "words.db")
    assert project("check", module).exit_code == 5
    assert_refused(project("state", module), 5, "words.db")


def test_a_state_file_that_is_gone(project):
    module = project.words()
    assert project("run", module).exit_code == 0
    project.path("words.db").unlink()
    assert_refused(project("run", module), 5, "words.db is gone", "streamflow reset")
    assert project("check", module).exit_code == 5
    assert_refused(project("reset", module, "--yes"), 5, "not known which sinks to fence", "--offline")
    assert project("reset", module, "--yes", "--offline").exit_code == 0
    project.path("out.jsonl").unlink()
    assert project("run", module).exit_code == 0


def test_a_second_process_on_one_state_file(project):
    module = project.words()
    text = project.path(f"{module}.py").read_text()
    project.path(f"{module}.py").write_text(text.replace('lines("in.txt")', 'lines("in.txt", follow=True)'))
    first = project.start("run", module)
    assert first.stdout is not None
    assert "the flow runs" in first.stdout.readline()
    for command in (
        ["run", module],
        ["reset", module, "--yes"],
        ["reset", module, "--yes", "--sink", "out", "--accept-head"],
    ):
        second = project.start(*command)
        _, told = second.communicate(timeout=30)
        assert second.returncode == 5
        assert_told(told, "words.db is in use by process", str(first.pid), "Stop that process")
    deadline = time.monotonic() + 10
    while not project.path("out.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert project("check", module).exit_code == 0, "looking at a flow that runs is fine"
    first.terminate()
    _, told = first.communicate(timeout=30)
    assert (first.returncode, told) == (0, "")
