"""Beginning anew, and adopting what a sink's broker holds."""

from __future__ import annotations

import json
import sys

import pytest

from tests.unit.cli.asserts import assert_refused


@pytest.fixture
def counted(project) -> str:
    module: str = project.words()
    assert project("run", module).exit_code == 0
    return module


def test_reset_fences_and_deletes(project, counted):
    result = project("reset", counted, "--yes", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == {"flow": "words", "deleted": "words.db", "fenced": ["out"]}
    assert not list(project.folder.glob("words.db*"))
    assert project("run", counted).exit_code == 0
    assert len(project.lines("out.jsonl")) == 10, "a new run publishes its results again"


def test_reset_asks_first(project, counted):
    assert_refused(project("reset", counted), 2, "--yes")
    assert project.path("words.db").exists()


NOTED = """
OPENED = []

class Noted(sf.MemoryTopic):
    def sink(self, options):
        sink = super().sink(options)
        inner = sink.open

        async def open(ctx):
            OPENED.append((ctx.fence, ctx.generation))
            await inner(ctx)

        sink.open = open
        return sink

words.to(Noted("noted"), name="noted")
"""


def test_reset_opens_each_sink_as_a_newer_instance_of_the_old_name(project):
    module = project.words()
    with project.path(f"{module}.py").open("a") as file:
        file.write(NOTED)
    assert project("run", module).exit_code == 0
    assert project("reset", module, "--yes").exit_code == 0
    (first, one), (second, two) = sys.modules[module].OPENED
    assert first == second
    assert two > one


def test_reset_names_a_sink_that_cannot_be_fenced(project, counted):
    text = project.path(f"{counted}.py").read_text()
    gone = project.write(text.replace('"out.jsonl"), name="out"', '"out.jsonl"), name="other"'))
    assert_refused(project("reset", gone, "--yes"), 4, "sink 'out'", "not in the flow", "--offline")
    assert project.path("words.db").exists()
    away = project.write(text.replace('"out.jsonl"', '"nowhere/out.jsonl"'))
    assert_refused(project("reset", away, "--yes"), 4, "sink 'out' could not be fenced", "nowhere", "--offline")
    assert project.path("words.db").exists()
    loud = project("reset", away, "--yes", "--offline")
    assert loud.exit_code == 0
    assert "nothing was fenced" in loud.stderr
    assert not project.path("words.db").exists()


def test_reset_where_nothing_is(project):
    module = project.words()
    result = project("reset", module, "--yes")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "nothing to reset" in result.stdout
    assert not list(project.folder.glob("words.db*"))


def test_options_that_do_not_belong_together(project, counted):
    assert_refused(project("reset", counted, "--sink", "out"), 2, "--accept-head")
    assert_refused(project("reset", counted, "--accept-head"), 2, "--sink")
    assert_refused(project("reset", counted, "--sink", "out", "--accept-head", "--offline"), 2, "--offline")
    assert_refused(project("reset", counted, "--sink", "oot", "--accept-head", "--yes"), 2, "no sink 'oot'", "out")


def test_accepting_a_head_that_agrees_changes_nothing(project, counted):
    result = project("reset", counted, "--sink", "out", "--accept-head", "--yes", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["changed"] is False


def test_a_foreign_line_is_accepted(project, counted):
    with project.path("out.jsonl").open("a") as file:
        file.write('"foreign"\n')
    with project.path("in.txt").open("a") as file:
        file.write("a\n")
    assert_refused(project("run", counted), 5, "--accept-head")
    result = project("reset", counted, "--sink", "out", "--accept-head", "--yes", "--json")
    outcome = json.loads(result.stdout)
    assert outcome["changed"] is True
    assert outcome["next_seq"] == 6 + outcome["dropped"]
    assert "out.jsonl" in outcome["refusal"]
    assert project("run", counted).exit_code == 0
    lines = [json.loads(line) for line in project.lines("out.jsonl")]
    assert lines[5] == "foreign"
    assert len(lines) == 6 + 1 - outcome["dropped"], "what was dropped is told, what was not is published"


def test_a_file_that_lost_lines_is_accepted(project, counted):
    project.path("out.jsonl").write_text("")
    assert_refused(project("run", counted), 5, "were published", "--accept-head")
    result = project("reset", counted, "--sink", "out", "--accept-head", "--yes")
    assert result.exit_code == 0
    assert "goes on behind its broker's head" in result.stdout
    assert "no record dropped" in result.stdout
    assert project("run", counted).exit_code == 0


def test_a_head_that_the_connector_cannot_adopt_changes_nothing(project):
    module = project.words()
    text = project.path(f"{module}.py").read_text()
    # a memory topic that another process filled: it says that it holds more than this store ever published
    ahead = text + (
        "topic = sf.MemoryTopic('ahead')\n"
        "class Ahead(sf.MemoryTopic):\n"
        "    def sink(self, options):\n"
        "        from streamflow.errors import SinkAhead\n"
        "        sink = super().sink(options)\n"
        "        async def recover(stored, pending): raise SinkAhead('ahead by far', hint='-')\n"
        "        if BROKEN: sink.recover = recover\n"
        "        return sink\n"
        "words.to(Ahead('ahead'), name='ahead')\n"
    )
    assert project("run", project.write(ahead.replace("BROKEN", "False"))).exit_code == 0
    before = project.path("words.db").read_bytes()
    broken = project.write(ahead.replace("BROKEN", "True"))
    result = project("reset", broken, "--sink", "ahead", "--accept-head", "--yes")
    assert_refused(result, 4, "does not let its head be adopted", "ahead by far", "newest copy")
    assert len(before) > 0
