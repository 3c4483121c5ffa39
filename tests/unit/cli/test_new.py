"""The scaffold: it runs, its test passes, and nothing is overwritten."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.unit.cli.asserts import assert_refused


def test_a_new_project_runs_and_its_test_passes(project):
    result = project("new", "my-words")
    assert result.exit_code == 0, result.output
    folder = project.path("my-words")
    made = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert made == {
        ".gitignore",
        "README.md",
        "input.txt",
        "my_words.py",
        "pyproject.toml",
        "tests/test_my_words.py",
    }
    readme = (folder / "README.md").read_text()
    commands = [line.strip() for line in readme.splitlines() if line.startswith("    ")]
    assert commands == ["streamflow run my_words", "python -m pytest"]
    run = [sys.executable, "-c", "from streamflow.cli import main; main()", "run", "my_words"]
    subprocess.run(run, cwd=folder, check=True, capture_output=True, timeout=60)
    counts = [json.loads(line) for line in (folder / "counts.jsonl").read_text().splitlines()]
    assert {"word": "be", "count": 2} in counts
    test = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    passed = subprocess.run(test, check=False, cwd=folder, capture_output=True, text=True, timeout=60)
    assert passed.returncode == 0, passed.stdout
    assert "1 passed" in passed.stdout


def test_nothing_is_overwritten(project):
    project.path("mine").mkdir()
    assert_refused(project("new", "mine"), 2, "exists already")
    assert not list(project.path("mine").iterdir())


@pytest.mark.parametrize("name", ["../up", "1st", "a b", "", "x" * 65, "class", "json", "streamflow", "tests", "a/b"])
def test_names_are_checked(project, name):
    assert_refused(project("new", "--", name), 2)
    assert not [path for path in project.folder.iterdir() if path.name != "__pycache__"]


def test_the_scaffold_is_well_formed(project):
    project("new", "tidy")
    ruff = [sys.executable, "-m", "ruff", "check", "--isolated", "--line-length", "120", "--select", "E,F,I,UP", "tidy"]
    checked = subprocess.run(ruff, check=False, cwd=project.folder, capture_output=True, text=True, timeout=60)
    assert checked.returncode == 0, checked.stdout
