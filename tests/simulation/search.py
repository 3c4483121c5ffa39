"""Playing many schedules, on all cores; what fails comes with the one command that replays it."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import random
import time
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice

from streamflow.runtime.settings import Settings
from streamflow.testing.simulation import Kill, Schedule, SimulatedRun, draw, quiet
from tests.simulation.cell import Cell
from tests.simulation.cells import BY_NAME, CELLS

FILES_EVERY = 61
"""One of so many seeds keeps its store in real files."""
CHUNK = 25
"""Runs handed to a process at once."""
FAILURES_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Trial:
    """One run to play: a seed, or kills in a quiet schedule.

    Args:
        cell: Name of the cell.
        count: Number of records.
        seed: The seed of its schedule; None for the quiet one.
        kills: How its first lives end, in the quiet one.
    """

    cell: str
    count: int
    seed: int | None = None
    kills: tuple[Kill, ...] = ()

    @property
    def schedule(self) -> Schedule:
        if self.seed is None:
            return replace(quiet(*self.kills, settings=BUSY), store_seconds=1e-4)
        return replace(draw(self.seed), files=self.seed % FILES_EVERY == FILES_EVERY - 1)

    @property
    def command(self) -> str:
        """Replays it."""
        if self.seed is not None:
            return f".venv/bin/python -m tests.simulation {self.seed}"
        kills = " ".join(f"{kill.point}:{kill.nth}" if kill.point else str(kill.turn) for kill in self.kills)
        return f".venv/bin/python -m tests.simulation --cell {self.cell} --kills {kills}"

    def play(self, labels: Counter[str] | None = None) -> SimulatedRun:
        """Plays it; raises what is wrong."""
        return BY_NAME[self.cell].run(self.count, self.schedule, labels)


BUSY = Settings(
    commit_min="0ms",
    checkpoint_share=1.0,
    fragment_rows_max=4,
    epoch_records_max=4,
    chunk_bytes=64,
    epoch_bytes_max=96,
)
"""Several epochs, chunks and spills out of few records: what a sweep kills its way through."""


def seeded(seed: int, cell: Cell | None = None) -> Trial:
    """The trial of a seed."""
    cell = cell or CELLS[seed % len(CELLS)]
    return Trial(cell.name, random.Random(f"count {seed}").choice((2, 10, 30, 60)), seed)


def swept(cell: Cell, every: int = 1, again_every: int = 1) -> Iterator[Trial]:
    """A quiet schedule killed at every turn and crash point, and killed again all through the recoveries.

    Args:
        cell: What runs.
        every: Of the first kills one in so many is played.
        again_every: Of those in recoveries, which are three times as many.
    """
    count = cell.swept_records
    run = Trial(cell.name, count).play()
    (life,) = run.lives
    points = [Kill(point=name, nth=nth) for name, times in life.passed.items() for nth in range(1, times + 1)]
    kills = (*(Kill(turn=turn) for turn in range(1, life.host.turns + 1)), *points)
    for kill in islice(kills, 0, None, every):
        yield Trial(cell.name, count, kills=(kill,))
    firsts = [kill for kill in points if kill.nth == 1 or kill.nth == life.passed[kill.point]]
    yield from islice(_killed_again(cell, firsts[:: max(1, len(firsts) // 6)]), 0, None, again_every)


def _killed_again(cell: Cell, firsts: Iterable[Kill]) -> Iterator[Trial]:
    for first in firsts:
        again = Trial(cell.name, cell.swept_records, kills=(first,)).play().lives[-1]
        opening = [Kill(point=name) for name in again.passed]
        for second in (*(Kill(turn=turn) for turn in range(1, again.host.turns, 2)), *opening):
            yield Trial(cell.name, cell.swept_records, kills=(first, second))
            if second.point:
                # twice in a row at the same place
                yield Trial(cell.name, cell.swept_records, kills=(first, second, second))


@dataclass(slots=True)
class Found:
    """What trials gave.

    Args:
        runs: Number of runs.
        labels: How often each named situation came up.
        failures: Command and traceback of what failed.
        core_seconds: What it took of a core.
    """

    runs: int
    labels: Counter[str]
    failures: list[str]
    core_seconds: float = 0.0

    def report(self) -> str:
        """The first failures, for people."""
        return f"{len(self.failures)} of {self.runs} runs failed:\n\n" + "\n\n".join(self.failures[:FAILURES_SHOWN])


def play_all(trials: Sequence[Trial]) -> Found:
    """Plays trials in this process."""
    logging.disable(logging.CRITICAL)
    found = Found(0, Counter(), [])
    started = time.process_time()
    try:
        for trial in trials:
            found.runs += 1
            try:
                trial.play(found.labels)
            except BaseException:  # whatever it is, it is a finding
                found.failures.append(f"{trial.command}\n{traceback.format_exc(limit=-6)}")
    finally:
        logging.disable(logging.NOTSET)
    found.core_seconds = time.process_time() - started
    return found


def collect_rarely() -> None:
    """For processes that only play: what was imported is no garbage, and a run is short; saves one part in seven."""
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def search(trials: Iterable[Trial]) -> Found:
    """Plays trials on all cores."""
    processes = os.cpu_count() or 1
    context = multiprocessing.get_context("spawn")
    total = Found(0, Counter(), [])
    with ProcessPoolExecutor(processes, mp_context=context, initializer=collect_rarely) as pool:
        for found in pool.map(play_all, _chunks(trials)):
            total.runs += found.runs
            total.labels += found.labels
            total.failures += found.failures
            total.core_seconds += found.core_seconds
    return total


def _chunks(trials: Iterable[Trial]) -> Iterator[list[Trial]]:
    iterator = iter(trials)
    while chunk := list(islice(iterator, CHUNK)):
        yield chunk
