"""Thousands of seeded schedules over all cells: the outputs are exact in each, and each named situation came up."""

from __future__ import annotations

import os
from collections.abc import Iterable

import pytest

from streamflow.points import POINTS
from tests.simulation.cells import CELLS
from tests.simulation.search import search, seeded

SEEDS = 2000
SEEDS_LONG = int(os.environ.get("STREAMFLOW_SCHEDULES", "12000"))
"""`make faults-long` plays more."""

SITUATIONS = (
    "ack arrived, its answer lost",
    "committed, unpublished",
    "fenced at the broker",
    "fenced in the store",
    "frozen",
    "killed during recovery",
    "killed inside COMMIT",
    "lost ack",
    "outbox full stalls intake",
    "part of a publish arrived",
    "progress noted when idle",
    "publish arrived, its answer lost",
    "publish refused",
    "push fed again",
    "recover arrived, its answer lost",
    "restarted in the process: Fenced",
    "restarted in the process: Unavailable",
    "sink open arrived, its answer lost",
    "sink opened again",
    "source lost while reading",
    "source opened again",
    "spilled",
    "started again behind its end",
    "timer fired after restart",
    "zombie ended: SinkAhead",
    "zombie ended: StateLockedError",
    *(f"killed at {point}" for point in POINTS),
)
"""What the seeds must have got into; a schedule that never meets a danger proves nothing about it."""


def play(seeds: Iterable[int]) -> None:
    seeds = list(seeds)
    found = search(map(seeded, seeds))
    assert not found.failures, found.report()
    assert found.runs == len(seeds)
    missed = [situation for situation in SITUATIONS if not found.labels[situation]]
    assert not missed, f"{found.runs} runs never got into: {missed}"


def test_there_are_cells_enough() -> None:
    assert len(CELLS) >= 12


@pytest.mark.timeout(600)
def test_schedules() -> None:
    play(range(SEEDS))


@pytest.mark.long
@pytest.mark.timeout(max(600, SEEDS_LONG // 10))
def test_many_schedules() -> None:
    play(range(SEEDS, SEEDS + SEEDS_LONG))
