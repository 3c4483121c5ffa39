"""The failure matrix of RabbitMQ streams says what is tested: every cell is filled, every test it names exists."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reliability.md"
TRIALS = ROOT / "tests" / "faults" / "rabbitmq"


def rows() -> list[list[str]]:
    section = PAGE.read_text().partition("### RabbitMQ streams: the failure matrix")[2].partition("\n### ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ") and not line.startswith("| ---")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def named_tests() -> dict[str, tuple[Path, str]]:
    found = {}
    for short, test in (row for row in rows() if len(row) == 2 and row[1].startswith("[")):
        link = re.fullmatch(r"\[[\w.]+\]\(([\w./]+)\)::(\w+)", test)
        assert link is not None, test
        found[short] = ((PAGE.parent / link[1]).resolve(), link[2])
    return found


def test_every_cell_names_a_test_or_a_reason() -> None:
    matrix = [row for row in rows() if re.match(r"\d+ ", row[0])]
    assert [int(row[0].split()[0]) for row in matrix] == list(range(1, 18))
    assert all(len(row) == 3 and all(row) for row in matrix)
    known = {row[0] for row in rows() if len(row) == 2 and row[0]}
    assert {word for row in matrix for cell in row[1:] for word in cell.split()} == known


def test_the_tests_that_are_named_exist() -> None:
    for path, function in named_tests().values():
        assert re.search(rf"^ *(async )?def {function}\(", path.read_text(), re.MULTILINE), f"{path.name}::{function}"


def test_no_trial_is_left_out() -> None:
    there = {
        (path, function)
        for path in TRIALS.glob("test_stream_*.py")
        for function in re.findall(r"^async def (test_\w+)\(", path.read_text(), re.MULTILINE)
    }
    assert len(there) >= 12
    assert there <= set(named_tests().values())
