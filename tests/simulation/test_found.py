"""Schedules that found a defect once: they stay."""

from __future__ import annotations

import dataclasses
from collections import Counter

from streamflow.runtime.settings import Settings
from streamflow.testing.simulation import Faults, Order, Schedule, quiet
from tests.simulation.cells import BY_NAME


def test_outputs_spill_while_the_commit_before_is_under_way() -> None:
    settings = Settings(commit_min="0ms", epoch_bytes_max=1, chunk_bytes=1, epoch_records_max=1, fragment_rows_max=2)
    labels: Counter[str] = Counter()
    BY_NAME["linear"].run(30, dataclasses.replace(quiet(settings=settings), store_seconds=0.02), labels)
    assert labels["spilled"] > 3


def play_pushes(seed: int, schedule: Schedule, labels: Counter[str]) -> None:
    """Pushes while a queue is lost again and again, which restarts the engine."""
    settings = Settings(commit_min="0ms", checkpoint_share=1.0)
    order = Order(shuffled=True)
    schedule = dataclasses.replace(schedule, seed=seed, order=order, faults=Faults(read=0.2), settings=settings)
    BY_NAME["pushes"].run(30, schedule, labels)


def test_a_push_between_two_lives_of_the_engine_is_answered() -> None:
    labels: Counter[str] = Counter()
    for seed in range(20):
        play_pushes(seed, Schedule(feed_seconds=1.0), labels)
    assert labels["restarted in the process: Unavailable"] > 20


def test_a_push_whose_commit_outlives_its_engine_is_not_fed_again() -> None:
    """The store's thread still commits when the engine ends: the restart must know the outcome."""
    labels: Counter[str] = Counter()
    for seed in range(40):
        play_pushes(seed, Schedule(store_seconds=0.02, feed_seconds=1.0), labels)
    assert labels["push fed again"] > 5
