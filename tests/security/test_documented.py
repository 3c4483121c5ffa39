"""The table of bad input in the documents: every row from S1 to S16, every test that it names."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs/reliability.md"


def rows() -> dict[str, str]:
    """Row name -> its line; other tables of the page, which have fewer columns, name theirs so too."""
    line = r"^\| (S\d+) \|.*\|.*\|.*\|$"
    return {match[1]: match[0] for match in re.finditer(line, DOCUMENT.read_text(), re.MULTILINE)}


def test_no_row_is_missing() -> None:
    assert list(rows()) == [f"S{number}" for number in range(1, 17)]


def test_every_test_that_a_row_names_exists() -> None:
    named = 0
    for row, line in rows().items():
        tests = re.findall(r"`([\w/]+\.py)::(test_\w+)`", line)
        assert tests or row == "S9", f"{row} names no test"
        for file, test in tests:
            path = ROOT / file if "/" in file else ROOT / "tests/security" / file
            assert re.search(rf"^(async )?def {test}\(", path.read_text(), re.MULTILINE), f"{row}: {file}::{test}"
            named += 1
    assert named > 40
