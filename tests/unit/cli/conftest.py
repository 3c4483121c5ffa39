"""A project folder with flows to run, and the command line to run them with, in this process or in one of its own."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from streamflow.cli import main

_numbers = itertools.count(1)

WORDS = """
import streamflow as sf

flow = sf.Flow("words", state="words.db")
lines = flow.source(sf.lines("in.txt"), name="lines")
words = lines.flat_map(lambda line: line.split(), name="split")


def by_word(word: str) -> str:
    return word


counts = words.key_by(by_word).count(name="counts")
counts.map(lambda pair: {"word": pair[0], "count": pair[1]}, name="row").to(sf.jsonl("out.jsonl"), name="out")
"""


class Project:
    """A folder of its own, which is the working directory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._started: list[subprocess.Popen[str]] = []

    def write(self, text: str, name: str | None = None) -> str:
        """Writes a module that no other test has; returns its name."""
        module = name or f"cli_flow_{next(_numbers)}"
        (self.folder / f"{module}.py").write_text(text)
        return module

    def words(self, text: str = "a b a\nc a\n") -> str:
        """Writes a flow that counts the words of ``in.txt`` into ``out.jsonl``; returns its module."""
        (self.folder / "in.txt").write_text(text)
        return self.write(WORDS)

    def path(self, name: str) -> Path:
        return self.folder / name

    def lines(self, name: str) -> list[str]:
        return self.path(name).read_text().splitlines()

    def __call__(self, *arguments: str, input: str | None = None) -> Result:
        """Runs a command in this process."""
        return CliRunner().invoke(main, list(arguments), input=input)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Starts a command in a process of its own."""
        command = [sys.executable, "-c", "from streamflow.cli import main; main()", *arguments]
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, cwd=self.folder, text=True, stdout=pipe, stderr=pipe)
        self._started.append(process)
        return process

    def end(self) -> None:
        """Kills what a failed test left running."""
        for process in self._started:
            if process.returncode is None:
                process.kill()
                process.communicate()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    """The folder; modules that tests import from it are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr("streamflow.cli.run._own_the_process", lambda: None)
    before = set(sys.modules)
    made = Project(tmp_path)
    yield made
    made.end()
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None)
        if file is not None and Path(file).is_relative_to(tmp_path):
            del sys.modules[name]
