"""Dead letters from the command line: list, show, requeue with and without a fix, drop, export."""

from __future__ import annotations

import base64
import json

import pytest

from tests.unit.cli.asserts import assert_refused

POISON = """
import streamflow as sf

flow = sf.Flow("poison", state="poison.db")
lines = flow.source(sf.lines("in.txt"), name="lines")


@lines.map(on_error=sf.dead_letter)
def number(line: str) -> int:
    return int(line)


number.to(sf.jsonl("out.jsonl"), name="out")


def mend(payload: bytes) -> bytes:
    return payload.replace(b"o", b"0")


def spoil(payload: bytes) -> str:
    return "text"
"""


@pytest.fixture
def poisoned(project):
    """A project whose flow has run over two good and two bad lines."""
    project.path("in.txt").write_text("1\n1oo\n2\nbad\x1b[31m\n")
    module = project.write(POISON)
    assert project("run", module).exit_code == 0
    assert project.lines("out.jsonl") == ["1", "2"]
    return module


def test_what_there_is(project, poisoned):
    result = project("dead", poisoned)
    assert result.exit_code == 0
    assert result.stdout == project("dead", poisoned, "list").stdout
    assert "step number" in result.stdout
    assert "ValueError: invalid literal for int() with base 10: '1oo'" in result.stdout
    assert "\x1b" not in result.stdout
    data = json.loads(project("dead", poisoned, "list", "--json").stdout)
    assert [base64.b64decode(one["payload"]) for one in data] == [b"1oo", b"bad\x1b[31m"]
    assert [(one["letter"], one["source"], one["name"]) for one in data] == [
        (1, "lines", "number"),
        (2, "lines", "number"),
    ]
    assert len(json.loads(project("dead", poisoned, "list", "--json", "--limit", "1").stdout)) == 1


def test_one_letter_whole(project, poisoned):
    shown = project("dead", poisoned, "show", "1").stdout
    assert "1oo" in shown
    assert "return int(line)" in shown
    assert "by step number, epoch" in shown
    assert "\x1b" not in project("dead", poisoned, "show", "2").stdout
    assert json.loads(project("dead", poisoned, "show", "2", "--json").stdout)["letter"] == 2


def test_requeued_with_a_fix_the_next_run_takes_it_in_and_the_letter_is_gone(project, poisoned):
    result = project("dead", poisoned, "requeue", "1", "--fix", f"{poisoned}:mend")
    assert result.stdout.startswith("1 record will be taken in again by the next run of poison")
    assert "1*" in project("dead", poisoned).stdout
    assert project("run", poisoned).exit_code == 0
    assert project.lines("out.jsonl") == ["1", "2", "100"]
    assert [one["letter"] for one in json.loads(project("dead", poisoned, "--json").stdout)] == [2]
    assert project("run", poisoned).exit_code == 0
    assert project.lines("out.jsonl") == ["1", "2", "100"]


def test_requeued_as_they_are_they_come_back(project, poisoned):
    assert project("dead", poisoned, "requeue", "--all").exit_code == 0
    assert project("run", poisoned).exit_code == 0
    data = json.loads(project("dead", poisoned, "--json").stdout)
    assert [base64.b64decode(one["payload"]) for one in data] == [b"1oo", b"bad\x1b[31m"]
    assert all(one["letter"] > 2 for one in data)


def test_what_went_elsewhere_too_is_requeued_only_if_that_is_said(project):
    project.path("in.txt").write_text("1oo\n")
    beside = 'lines.to(sf.jsonl("beside.jsonl"), name="beside")\n'
    module = project.write(POISON + beside)
    assert project("run", module).exit_code == 0
    mend = ["--fix", f"{module}:mend"]
    result = project("dead", module, "requeue", "1", *mend)
    assert_refused(result, 5, "what source 'lines' gives also goes to 'beside'")
    assert "--everywhere" in result.stderr
    assert project("dead", module, "requeue", "1", *mend, "--everywhere").exit_code == 0
    assert project("run", module).exit_code == 0
    assert project.lines("out.jsonl") == ["100"]
    assert project.lines("beside.jsonl") == ['"1oo"', '"100"']


def test_what_cannot_be_taken_in_is_refused_at_once_and_not_by_the_next_run(project, poisoned):
    spoilt = 'def spoilt(payload: bytes) -> bytes:\n    return b"\\xff"\n'
    project.path("spoilt.py").write_text(spoilt)
    assert_refused(project("dead", poisoned, "requeue", "1", "--fix", "spoilt:spoilt"), 1, "letter 1 cannot be decoded")
    assert project("run", poisoned).exit_code == 0
    assert len(json.loads(project("dead", poisoned, "--json").stdout)) == 2


def test_dropped_and_exported(project, poisoned):
    assert project("dead", poisoned, "export", "letters.jsonl").stdout == "2 dead letters written to letters.jsonl\n"
    assert [json.loads(line)["letter"] for line in project.lines("letters.jsonl")] == [1, 2]
    assert_refused(project("dead", poisoned, "export", "letters.jsonl"), 3, "cannot be written")
    assert project("dead", poisoned, "drop", "1").stdout == "1 dead letter dropped\n"
    assert project("dead", poisoned, "drop", "--all").exit_code == 0
    assert json.loads(project("dead", poisoned, "--json").stdout) == []
    assert project("run", poisoned).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["show"], 2, "takes one thing more"),
        (["show", "x"], 2, "is no number"),
        (["show", "17"], 5, "no dead letter 17"),
        (["drop"], 2, "needs numbers, or --all"),
        (["drop", "1", "--all"], 2, "needs numbers, or --all"),
        (["drop", "17"], 5, "no dead letter 17"),
        (["drop", "1", "--fix", "m:f"], 2, "--fix belongs to requeue"),
        (["drop", "1", "--everywhere"], 2, "--everywhere belongs to requeue"),
        (["requeue", "17"], 5, "no dead letter 17"),
        (["requeue", "1", "--fix", "nothing:there"], 2, "no module"),
        (["list", "1"], 2, "takes nothing more"),
    ],
)
def test_what_is_refused(project, poisoned, arguments, code, said):
    assert_refused(project("dead", poisoned, *arguments), code, said)
    assert len(json.loads(project("dead", poisoned, "--json").stdout)) == 2


def test_a_fix_must_give_bytes(project, poisoned):
    assert_refused(project("dead", poisoned, "requeue", "1", "--fix", f"{poisoned}:spoil"), 2, "must give bytes")


def test_while_the_flow_runs_it_can_be_read_and_not_changed(project, poisoned):
    from pathlib import Path

    from streamflow.state.lock import FileLock

    lock = FileLock(Path(project.path("poison.db.lock")))
    lock.acquire()
    try:
        assert project("dead", poisoned).exit_code == 0
        assert_refused(project("dead", poisoned, "drop", "1"), 5, "needs the flow to rest")
    finally:
        lock.release()
