"""The failure matrix says what is tested: every cell is filled, and every test that it names exists."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reliability.md"
ROWS, COLUMNS = 17, 8
TRIALS = [ROOT / "tests" / "faults" / broker for broker in ("nats", "kafka")]


def rows_of(text: str) -> list[list[str]]:
    """The cells of every line of every table."""
    lines = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| ---")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def section() -> list[list[str]]:
    return rows_of(PAGE.read_text().partition("### The failure matrix")[2])


def named_tests() -> dict[str, tuple[Path, str]]:
    """What the list of tests says: file and function by short name."""
    found: dict[str, tuple[Path, str]] = {}
    for short, test, *_ in (row for row in section() if len(row) == 3 and row[0]):
        link = re.fullmatch(r"\[[\w.]+\]\(([\w./]+)\)::(\w+)", test)
        assert link is not None, test
        assert short not in found, short
        found[short] = ((PAGE.parent / link[1]).resolve(), link[2])
    return found


def test_every_cell_names_a_test_or_a_reason() -> None:
    matrix = [row for row in section() if re.match(r"\d+ ", row[0])]
    assert [int(row[0].split()[0]) for row in matrix] == list(range(1, ROWS + 1))
    known = {*named_tests(), *(row[0] for row in section() if len(row) == 2 and row[0])}
    used = set()
    for title, *cells in matrix:
        assert len(cells) == COLUMNS, title
        for cell in cells:
            assert cell, title
            used |= set(cell.split())
    assert used == known


def test_the_tests_that_are_named_exist() -> None:
    for path, function in named_tests().values():
        assert re.search(rf"^(async )?def {function}\(", path.read_text(), re.MULTILINE), f"{path.name}::{function}"


def test_no_trial_is_left_out() -> None:
    there = {
        (path, function)
        for folder in TRIALS
        for path in folder.glob("test_*.py")
        for function in re.findall(r"^async def (test_\w+)\(", path.read_text(), re.MULTILINE)
    }
    assert len(there) > 40
    assert there <= set(named_tests().values())
