"""Looking at what is stored: check, checkpoints and state change nothing."""

from __future__ import annotations

import json
import sqlite3

import pytest

from streamflow.state.views import are_ours
from tests.unit.cli.asserts import assert_refused


@pytest.fixture
def counted(project) -> str:
    module: str = project.words()
    assert project("run", module).exit_code == 0
    return module


def contents(project) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in project.folder.iterdir() if path.is_file()}


def test_check_finds_all_well_and_touches_nothing(project, counted):
    before = contents(project)
    result = project("check", counted)
    assert result.exit_code == 0, result.stdout
    assert "PROBLEM" not in result.stdout
    assert contents(project) == before


def test_check_of_a_flow_that_never_ran_makes_no_file(project):
    module = project.words()
    result = project("check", module, "--json")
    assert result.exit_code == 0
    data = json.loads(result.stdout)
    assert [(row["kind"], row["ok"]) for row in data["checks"]] == [("source", True), ("sink", True), ("state", True)]
    assert not project.path("words.db").exists()


def test_check_tells_a_connector_that_raises(project):
    module = project.write(
        "import streamflow as sf\n"
        "class Odd(sf.MemoryTopic):\n"
        "    def source(self): raise RuntimeError('odd')\n"
        "flow = sf.Flow('odd')\n"
        "flow.source(Odd('odd'), name='in').to(sf.MemoryTopic('out'), name='out')\n"
    )
    result = project("check", module)
    assert result.exit_code == 4
    assert "RuntimeError: odd" in result.stdout


def test_checkpoints_lists_the_epochs(project, counted):
    rows = json.loads(project("checkpoints", counted, "--json").stdout)
    assert [(row["epoch"], row["records"], row["entries"]) for row in rows] == [(1, 2, 3)]
    assert rows[0]["digest"] in project("checkpoints", counted, "--json").stdout
    text = project("checkpoints", counted, "--last", "1").stdout
    assert "epoch" in text and rows[0]["digest"][:16] in text


def test_checkpoints_without_a_state_file(project):
    assert_refused(project("checkpoints", project.words()), 5, "no state file words.db")


def test_state_lists_the_views(project, counted):
    text = project("state", counted).stdout
    assert "counts" in text
    data = json.loads(project("state", counted, "--json").stdout)
    assert data["tables"] == [{"step": "counts", "view": "counts", "kind": "value", "entries": 3}]
    assert data["epoch"] == 1


def test_state_answers_sql(project, counted):
    sql = "select key, value from counts order by key"
    rows = [{"key": "a", "value": "3"}, {"key": "b", "value": "1"}, {"key": "c", "value": "1"}]
    assert json.loads(project("state", counted, sql, "--json").stdout) == {"rows": rows, "cut": False}
    assert project("state", counted, sql).stdout.split()[-2:] == ["c", "1"]


def test_state_takes_parameters_and_a_limit(project, counted):
    rows = json.loads(project("state", counted, "select key from counts where key = ?", "b", "--json").stdout)["rows"]
    assert rows == [{"key": "b"}]
    cut = project("state", counted, "select key from counts", "--limit", "1")
    assert cut.exit_code == 0
    assert "only the first 1 rows" in cut.stderr
    assert json.loads(project("state", counted, "select key from counts", "--limit", "1", "--json").stdout)["cut"]


def test_a_backup_can_be_gone_back_to(project, counted):
    result = project("state", counted, "--backup", "copy.db")
    assert result.exit_code == 0, result.output
    assert_refused(project("state", counted, "--backup", "copy.db"), 5, "copy.db exists already")
    assert_refused(project("state", counted, "select 1", "--backup", "other.db"), 2, "no SQL")
    project.path("words.db").unlink()
    project.path("words.db.epoch").unlink()
    project.path("copy.db").rename(project.path("words.db"))
    assert_refused(project("run", counted), 5, "--accept-missing")
    assert project("run", counted, "--accept-missing").exit_code == 0


def test_a_view_that_somebody_changed_is_not_trusted(project, counted):
    with sqlite3.connect("words.db") as db:
        assert are_ours(db)
        db.executescript("DROP VIEW counts; CREATE VIEW counts AS SELECT json_extract('[1]', '$[0]') AS key")
        assert not are_ours(db)
    db.close()


def test_columns_of_one_name_stay_apart(project, counted):
    rows = json.loads(project("state", counted, "select 1 as x, 2 as x", "--json").stdout)["rows"]
    assert rows == [{"x": 1, "x_2": 2}]


def test_data_cannot_steer_the_terminal(project, counted):
    text = project("state", counted, "select char(27) || '[31mred' as \"a\x1bb\"").stdout
    assert "\x1b" not in text
    assert "\\x1b[31mred" in text


@pytest.mark.parametrize(
    "sql",
    [
        "delete from state",
        "drop table state",
        "pragma writable_schema = on",
        "attach 'other.db' as other",
        "create table t(x)",
        "select load_extension('x')",
        "vacuum into 'copy.db'",
        "begin; delete from state",
        "select * from nowhere",
        "not sql",
    ],
)
def test_state_only_reads(project, counted, sql):
    before = contents(project)
    assert_refused(project("state", counted, sql), 5)
    assert contents(project) == before


def test_an_endless_query_ends(project, counted):
    sql = "with recursive n(i) as (select 1 union all select i + 1 from n) select count(*) from n"
    assert_refused(project("state", counted, sql, "--seconds", "0.2"), 5, "longer than 0.2 s")
