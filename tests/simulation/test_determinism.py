"""The same input gives the same output: in every grouping, under every order of tasks, in every process."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from streamflow.runtime.settings import Settings
from streamflow.testing.simulation import Schedule, SimulatedRun, draw, quiet
from tests.simulation.cell import Cell
from tests.simulation.cells import BY_NAME, CELLS
from tests.simulation.search import seeded

RECORDS = 24
SCHEDULES = 200
HASH_SEEDS = ("0", "1", "4711")
ONE_ORDER = [
    cell
    for cell in CELLS
    if len(cell.sources) == len(cell.partitions) == 1 and cell.ordered and not cell.timed and not cell.cut_matters
] + [BY_NAME["ordered"]]
"""Where two sources or partitions meet, their order is a fact of the run, kept in the journal, unless event time
decides it; oracles hold all."""

REPLAYED = [cell for cell in CELLS if cell.name != "queue" and cell.ordered]
"""In which order calls end is no function of the journal; a step that keeps no order shows it."""

COMMITS = {
    # records that arrive one by one, each committed before the next
    "every record": replace(quiet(), feed_seconds=3.0),
    "as fast as it goes": quiet(settings=Settings(commit_min="0ms", checkpoint_share=1.0, epoch_records_max=1)),
    "every ten": quiet(settings=Settings(commit_min="1h", commit_max="2h", epoch_records_max=10)),
    # the first record does not wait, all others do
    "at the end": quiet(settings=Settings(commit_min="1h", commit_max="2h")),
}


CORNERS = ((1, 1), (1, 512), (2, 7), (64, 1), (64, 512))
"""Sizes of channels and batches that `make test` plays; `make faults` plays them all."""


def grid(*, full: bool) -> Iterator[Schedule]:
    sizes = list(product((1, 2, 64), (1, 7, 512)))
    for schedule, (channel, batch) in product(COMMITS.values(), sizes if full else CORNERS):
        yield replace(schedule, settings=replace(schedule.settings, channel_fragments=channel, fragment_rows_max=batch))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
def test_outputs_do_not_depend_on_channels_batches_and_commits(cell: Cell, long_run: bool) -> None:
    found = []
    for schedule in grid(full=long_run):
        run = cell.run(RECORDS, schedule)
        found.append({sink: run.outputs(sink) for sink in cell.model.sinks})
    assert len(found) == (36 if long_run else 20)
    if cell in ONE_ORDER:
        assert all(outputs == found[0] for outputs in found)


def test_commits_are_as_many_as_the_settings_say() -> None:
    """The grid is one: its corners commit differently indeed."""
    epochs = {}
    for name, schedule in COMMITS.items():
        settings = replace(schedule.settings, fragment_rows_max=1)
        epochs[name] = BY_NAME["counting"].run(RECORDS, replace(schedule, settings=settings)).recorder.epoch
    assert epochs == {"every record": 24, "as fast as it goes": 3, "every ten": 3, "at the end": 2}


# -- one journal, many orders --------------------------------------------------------------------------


def recorded(cell: Cell) -> SimulatedRun:
    """A run whose journal the others cut by: several epochs, times and groupings."""
    schedule = Schedule(
        seed=7,
        settings=Settings(commit_min="1ms", checkpoint_share=1.0, fragment_rows_max=3, epoch_records_max=9),
        feed_seconds=0.2,
        store_seconds=0.005,
        closes=not cell.timed,
    )
    return cell.run(RECORDS, schedule)


def again(cell: Cell, first: SimulatedRun, seed: int) -> SimulatedRun:
    """The same journal under the schedule of a seed, with its kills and faults."""
    schedule = replace(draw(seed), feed_seconds=0.0, closes=not cell.timed, again=False)
    kills = tuple(replace(kill, zombie=False, copy=False) for kill in schedule.kills)
    # the journal cuts numbers as they were cut, however large they may be here
    settings = replace(schedule.settings, restarts_max=100, fragment_rows_max=512, intake_records_max=8192)
    schedule = replace(schedule, kills=kills, settings=settings)
    arrivals = [arrival for arrival in cell.arrivals(RECORDS) if not arrival.pushed]
    run = SimulatedRun(cell.model, arrivals, schedule)
    run.journal = first.recorder.journal
    run.play()
    return run


@pytest.mark.timeout(600)
@pytest.mark.parametrize("cell", REPLAYED, ids=lambda cell: cell.name)
def test_one_journal_gives_one_digest_per_epoch(cell: Cell, long_run: bool) -> None:
    """I6: state and outputs are a function of journal, records and steps."""
    first = recorded(cell)
    assert len(first.recorder.digests) >= 3
    assert len(set(first.recorder.digests)) == len(first.recorder.digests)
    outputs = {sink: first.outputs(sink) for sink in cell.model.sinks if sink not in cell.blind}
    lives = 0
    orders = SCHEDULES // len(CELLS) + 1 if long_run else 3
    for seed in range(orders):
        run = again(cell, first, seed)
        assert run.recorder.digests == first.recorder.digests, f"seed {seed}"
        assert {sink: run.outputs(sink) for sink in outputs} == outputs, f"seed {seed}"
        lives += len(run.lives)
    assert lives > orders, "nobody was killed"


@pytest.mark.timeout(600)
def test_one_journal_under_two_hundred_orders() -> None:
    cell = BY_NAME["two-by-two"]
    first = recorded(cell)
    for seed in range(SCHEDULES):
        assert again(cell, first, seed).recorder.digests == first.recorder.digests, f"seed {seed}"


# -- one seed, many processes --------------------------------------------------------------------------


def digest_of(seed: int) -> str:
    """A line for a seed: a digest of everything that it does, turns, epochs, outputs."""
    trial = seeded(seed)
    run = trial.play()
    outputs = {sink: run.outputs(sink) for sink in run.model.sinks}
    done = repr((run.loop.turns, run.recorder.digests, outputs, sorted(run.labels.items())))
    return f"seed {seed} ({trial.cell}): {run.loop.turns} turns, {hashlib.blake2b(done.encode()).hexdigest()}"


def digests_of_seeds() -> str:
    return "\n".join(map(digest_of, range(2 * len(CELLS))))


def test_a_seed_is_one_run_however_often_it_is_played() -> None:
    """What a run leaves behind, and where its objects lie in memory, changes nothing in the next one."""
    assert [lines for seed in range(2 * len(CELLS)) if len(lines := {digest_of(seed) for _ in range(3)}) > 1] == []


def test_a_seed_is_one_run_in_every_process() -> None:
    runs = []
    for hash_seed in HASH_SEEDS:
        done = subprocess.run(
            [sys.executable, "-c", "from tests.simulation.test_determinism import *; print(digests_of_seeds())"],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=True,
        )
        runs.append(done.stdout.splitlines())
    assert len(runs[0]) == 2 * len(CELLS)
    assert [lines for lines in zip(*runs, strict=True) if len(set(lines)) > 1] == []
