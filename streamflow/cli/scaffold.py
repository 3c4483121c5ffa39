"""The files of a new project, as text."""

from __future__ import annotations

from string import Template
from typing import Final

_PROJECT: Final = """\
[project]
name = "$name"
version = "0.1.0"
requires-python = ">=3.11"
dependencies = ["streamflow-asyncio"]

[dependency-groups]
dev = ["pytest"]

[tool.pytest.ini_options]
pythonpath = ["."]
testpaths = ["tests"]
"""

_FLOW: Final = '''\
"""Counts the words of a text, exactly once whatever happens on the way."""

import re
from dataclasses import dataclass

import streamflow as sf


@dataclass(frozen=True)
class WordCount:
    word: str
    count: int


flow = sf.Flow("$name")  # its state is kept in $name.db

lines = flow.source(sf.lines("input.txt"), name="lines")  # follow=True waits for more, as tail -f does


@lines.flat_map
def words(line: str) -> list[str]:
    return re.findall(r"\\w+", line.lower())


def by_word(word: str) -> str:
    return word


counts = words.key_by(by_word).count(name="counts")  # query it: streamflow state $module "select * from counts"


@counts.map
def results(pair: tuple[str, int]) -> WordCount:
    return WordCount(*pair)


results.to(sf.jsonl("counts.jsonl", value=WordCount), name="counts")
'''

_TEST: Final = '''\
"""The flow on the real engine and a real state file, with memory in place of files, and a virtual clock."""

import asyncio

from $module import WordCount, flow, lines, results


def test_words_are_counted_once_across_a_crash() -> None:
    async def scenario() -> None:
        async with flow.test() as t:
            await t.send(lines, "to be or not")
            await t.crash()
            await t.send(lines, "to be")
            assert t.out(results) == [
                WordCount("to", 1),
                WordCount("be", 1),
                WordCount("or", 1),
                WordCount("not", 1),
                WordCount("to", 2),
                WordCount("be", 2),
            ]

    asyncio.run(scenario())
'''

_README: Final = """\
# $name

Counts the words of `input.txt` into `counts.jsonl`, with [streamflow](https://pypi.org/project/streamflow-asyncio/).

    streamflow run $module
    python -m pytest

Run it as often as you like, and kill it when you like: each line is counted once. Append lines to `input.txt` and
run it again to see it go on. `streamflow explain $module` shows the flow, `streamflow state $module
"select key, value from counts order by value desc limit 5"` asks its state, `streamflow reset $module` begins anew.
"""

_INPUT: Final = """\
To be, or not to be, that is the question:
Whether 'tis nobler in the mind to suffer
The slings and arrows of outrageous fortune,
Or to take arms against a sea of troubles
And by opposing end them.
"""

_IGNORED: Final = "__pycache__/\n.venv/\n*.db\n*.db-*\n*.db.*\ncounts.jsonl\n"


def files(name: str, module: str) -> dict[str, str]:
    """Path -> text of each file of a new project.

    Args:
        name: Name of the project and its flow.
        module: Its import name.
    """
    templates = {
        "pyproject.toml": _PROJECT,
        f"{module}.py": _FLOW,
        f"tests/test_{module}.py": _TEST,
        "README.md": _README,
    }
    made = {path: Template(text).substitute(name=name, module=module) for path, text in templates.items()}
    return {**made, "input.txt": _INPUT, ".gitignore": _IGNORED}
