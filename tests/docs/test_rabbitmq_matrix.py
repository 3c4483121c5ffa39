"""The failure matrix of RabbitMQ queues says what is tested: every cell is filled, every test that it names exists."""

from __future__ import annotations

import re
from pathlib import Path

from tests.docs.test_failure_matrix import PAGE, ROOT, rows_of

ROWS, COLUMNS = 17, 3
TRIALS = ("test_kills.py", "test_points.py", "test_zombies.py", "test_lines.py", "test_trouble.py")


def section() -> list[list[str]]:
    text = PAGE.read_text().partition("### RabbitMQ queues and exchanges")[2]
    return rows_of(re.split(r"^###? ", text, flags=re.MULTILINE)[0])


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
        assert len(cells) == COLUMNS and all(cells), title
        used |= {each for cell in cells for each in cell.split()}
    assert used == known


def test_the_tests_that_are_named_exist() -> None:
    for path, function in named_tests().values():
        assert re.search(rf"^(async )?def {function}\(", path.read_text(), re.MULTILINE), f"{path.name}::{function}"


def test_no_trial_is_left_out() -> None:
    folder = ROOT / "tests" / "faults" / "rabbitmq"
    there = {
        (folder / name, function)
        for name in TRIALS
        for function in re.findall(r"^async def (test_\w+)\(", (folder / name).read_text(), re.MULTILINE)
    }
    assert len(there) >= 12
    assert there <= set(named_tests().values())
