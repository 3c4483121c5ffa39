"""The crash sweep: a quiet schedule of each cell, killed at every turn and crash point, and again in recovery."""

from __future__ import annotations

from itertools import islice

import pytest

from streamflow.points import POINTS
from tests.simulation.cells import CELLS
from tests.simulation.search import search, swept

LONG_EVERY = 2
SHORT_EVERY = 41
"""`make faults` plays every second kill of the sweep, `make test` one of so many."""


def sweep(every: int) -> int:
    found = search(trial for cell in CELLS for trial in islice(swept(cell), 0, None, every))
    assert not found.failures, found.report()
    assert found.labels["killed"] >= found.runs * 0.9, "kills behind the end kill nothing"
    assert found.labels["killed during recovery"] > found.runs / 20
    missed = [point for point in POINTS if not found.labels[f"killed at {point}"]]
    assert not missed or every > LONG_EVERY, f"never killed at {missed}"
    return found.runs


@pytest.mark.timeout(600)
def test_killed_here_and_there() -> None:
    assert sweep(SHORT_EVERY) > 300


@pytest.mark.long
@pytest.mark.timeout(600)
def test_killed_everywhere() -> None:
    assert sweep(LONG_EVERY) > 6000
