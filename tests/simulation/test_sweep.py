"""The crash sweep: a quiet schedule of each cell, killed at every turn and crash point, and again in recovery."""

from __future__ import annotations

import pytest

from streamflow.points import POINTS
from tests.simulation.cells import CELLS
from tests.simulation.search import search, swept


def sweep(every: int, again_every: int) -> int:
    found = search(trial for cell in CELLS for trial in swept(cell, every, again_every))
    assert not found.failures, found.report()
    assert found.labels["killed"] >= found.runs * 0.9, "kills behind the end kill nothing"
    assert found.labels["killed during recovery"] > found.runs / 20
    missed = [point for point in POINTS if not found.labels[f"killed at {point}"]]
    assert not missed or every > 1, f"never killed at {missed}"
    return found.runs


@pytest.mark.timeout(600)
def test_killed_here_and_there() -> None:
    assert sweep(41, 41) > 300


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_killed_everywhere() -> None:
    """Every step and every crash point; of the kills on the way back, which `--sweep` plays all, one in twelve."""
    assert sweep(1, 12) > 8000
