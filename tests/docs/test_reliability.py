"""The reliability page names tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tests.simulation.cells import CELLS
from tests.simulation.mutants import MUTANTS, REQUIRED

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/reliability.md"


def test_every_trap_has_its_tests() -> None:
    section = PAGE.read_text().split("## Traps")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ") and "---" not in line][1:]
    assert len(rows) >= 14
    for row in rows:
        file = ""
        named = re.findall(r"`(tests/[\w/]+\.py)?::(\w+)`", row)
        assert named, f"no test in: {row}"
        for path, name in named:
            file = path or file
            functions = {
                node.name
                for node in ast.walk(ast.parse((ROOT / file).read_text()))
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            }
            assert name in functions, f"{file} has no {name}"


def test_the_table_of_mutants_and_the_number_of_cells_are_those_of_the_simulation() -> None:
    text = PAGE.read_text()
    section = text.split("**Mutants.**")[1].split("**Determinism.**")[0]
    told = {tuple(line.strip("| ").split(" | ")[1:]) for line in section.splitlines() if re.match(r"\| \d", line)}
    assert told == {(MUTANTS[name][1] or "all cells", name) for name in REQUIRED}
    assert f"\n{len(CELLS)} cells (" in text
