"""The failure matrices say what is tested: every cell is filled, and every test that they name exists."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reliability.md"
ROWS = 17


@dataclass(frozen=True)
class Matrix:
    """One section of the page.

    Args:
        heading: Of the section.
        columns: Kinds of source and sink.
        trials: Patterns of files below ``tests/faults`` of which no test may be left out.
        least: So many tests there are at least.
    """

    heading: str
    columns: int
    trials: tuple[str, ...]
    least: int

    def __str__(self) -> str:
        return self.heading

    def rows(self) -> list[list[str]]:
        """The cells of every line of every table."""
        text = PAGE.read_text().partition(f"### {self.heading}\n")[2]
        lines = re.split(r"^###? ", text, flags=re.MULTILINE)[0].splitlines()
        tables = [line for line in lines if line.startswith("| ") and not line.startswith("| ---")]
        return [[cell.strip() for cell in line.strip("|").split("|")] for line in tables]

    def named_tests(self) -> dict[str, tuple[Path, str]]:
        """What the list of tests says: file and function by short name."""
        found: dict[str, tuple[Path, str]] = {}
        for short, test, *_ in (row for row in self.rows() if len(row) in (2, 3) and row[1].startswith("[")):
            link = re.fullmatch(r"\[[\w.]+\]\(([\w./]+)\)::(\w+)", test)
            assert link is not None, test
            assert short not in found, short
            found[short] = ((PAGE.parent / link[1]).resolve(), link[2])
        return found


MATRICES = (
    Matrix("The failure matrix", 8, ("nats/test_*.py", "kafka/test_*.py"), 41),
    Matrix(
        "RabbitMQ queues and exchanges",
        3,
        tuple(
            f"rabbitmq/test_{name}.py"
            for name in ("broker_kills", "kills", "lines", "order", "points", "poison", "trouble", "zombies")
        ),
        14,
    ),
    Matrix(
        "RabbitMQ streams: the failure matrix", 2, ("rabbitmq/test_stream_*.py", "rabbitmq/test_broker_kills.py"), 11
    ),
)
every_matrix = pytest.mark.parametrize("matrix", MATRICES, ids=str)


@every_matrix
def test_every_cell_names_a_test_or_a_reason(matrix: Matrix) -> None:
    lines = [row for row in matrix.rows() if re.match(r"\d+ ", row[0])]
    assert [int(row[0].split()[0]) for row in lines] == list(range(1, ROWS + 1))
    reasons = {row[0] for row in matrix.rows() if len(row) == 2 and row[0] and not row[1].startswith("[")}
    used = set()
    for title, *cells in lines:
        assert len(cells) == matrix.columns and all(cells), title
        used |= {each for cell in cells for each in cell.split()}
    assert used == {*matrix.named_tests(), *reasons}


@every_matrix
def test_the_tests_that_are_named_exist(matrix: Matrix) -> None:
    for path, function in matrix.named_tests().values():
        assert re.search(rf"^ *(async )?def {function}\(", path.read_text(), re.MULTILINE), f"{path.name}::{function}"


@every_matrix
def test_no_trial_is_left_out(matrix: Matrix) -> None:
    there = {
        (path, function)
        for pattern in matrix.trials
        for path in (ROOT / "tests" / "faults").glob(pattern)
        for function in re.findall(r"^async def (test_\w+)\(", path.read_text(), re.MULTILINE)
    }
    assert len(there) >= matrix.least
    assert there <= set(matrix.named_tests().values())
