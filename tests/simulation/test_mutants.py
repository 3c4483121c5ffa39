"""Every planted bug is found by the schedules, and the right code passes the very same ones."""

from __future__ import annotations

import logging
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor

import pytest

from tests.simulation.cells import BY_NAME
from tests.simulation.mutants import EQUIVALENT, MUTANTS, REQUIRED, planted
from tests.simulation.search import Trial, collect_rarely, play_all, seeded

SEEDS_MAX = 600
EQUIVALENT_SEEDS = 100


def trials(name: str, seeds: int) -> list[Trial]:
    cell = BY_NAME.get(MUTANTS[name][1])
    return [seeded(seed, cell) for seed in range(seeds)]


def seeds_until_found(name: str) -> int | None:
    """How many seeds it takes to find a mutant; None if ``SEEDS_MAX`` are not enough."""
    logging.disable(logging.CRITICAL)
    with planted(name):
        for seeds, trial in enumerate(trials(name, SEEDS_MAX), start=1):
            try:
                trial.play()
            except BaseException:  # however it shows
                return seeds
    return None


def failures_of_the_right_code(job: tuple[str, int]) -> list[str]:
    """Plays the seeds that a mutant needed without it."""
    return play_all(trials(*job)).failures


def failures_of_an_equivalent(name: str) -> list[str]:
    """Plays a mutant that changes nothing that can be seen."""
    with planted(name):
        return play_all(trials(name, EQUIVALENT_SEEDS)).failures


@pytest.mark.timeout(600)
def test_every_mutant_is_found_and_the_right_code_is_not() -> None:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), mp_context=context, initializer=collect_rarely) as pool:
        found = dict(zip(REQUIRED, pool.map(seeds_until_found, REQUIRED), strict=True))
        for name, seeds in found.items():
            print(f"{seeds if seeds is not None else 'never':>6} {MUTANTS[name][1] or 'all cells':14} {name}")
        assert len(found) >= 39
        assert None not in found.values(), [name for name, seeds in found.items() if seeds is None]
        played = [(name, seeds) for name, seeds in found.items() if seeds is not None]
        wrong = [failure for failures in pool.map(failures_of_the_right_code, played) for failure in failures]
        assert not wrong, "\n".join(wrong[:3])


def test_what_is_called_equivalent_changes_nothing() -> None:
    assert {name: failures_of_an_equivalent(name) for name in EQUIVALENT} == {name: [] for name in EQUIVALENT}
