"""Replays one run of the simulation, or plays many: ``python -m tests.simulation SEED``."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable

from streamflow.testing.simulation import Kill
from tests.simulation.cells import BY_NAME, CELLS
from tests.simulation.search import Trial, search, seeded, swept


def main() -> int:
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("seed", type=int, nargs="?", help="replay this seed, with its traceback")
    parser.add_argument("--upto", type=int, help="play all seeds from SEED up to this one, on all cores")
    parser.add_argument("--cell", choices=sorted(BY_NAME), help="in this cell, whatever the seed says")
    parser.add_argument("--sweep", action="store_true", help="no seed: kill at every turn and crash point of each cell")
    parser.add_argument(
        "--kills", nargs="*", default=[], help="no seed: kill a quiet run at TURN or POINT:NTH, in turn"
    )
    parser.add_argument("--count", type=int, help="records of a quiet run; as in the sweep by default")
    options = parser.parse_args()
    cell = BY_NAME[options.cell] if options.cell else None
    if options.sweep:
        return _many(trial for one in ([cell] if cell else CELLS) for trial in swept(one))
    if options.seed is None:
        if cell is None:
            parser.error("name a seed, or a cell and kills")
        trial = Trial(cell.name, options.count or cell.swept_records, kills=tuple(map(_kill, options.kills)))
    elif options.upto is not None:
        return _many(seeded(seed, cell) for seed in range(options.seed, options.upto))
    else:
        trial = seeded(options.seed, cell)
    print(trial.cell, trial.count, "records", trial.schedule, sep="\n  ")
    run = trial.play()
    print(f"right: {run.loop.turns} turns, {len(run.lives)} lives")
    print(*(f"{count:6} {label}" for label, count in sorted(run.labels.items())), sep="\n")
    return 0


def _many(trials: Iterable[Trial]) -> int:
    started = time.perf_counter()
    found = search(trials)
    seconds = time.perf_counter() - started
    print(*(f"{count:7} {label}" for label, count in sorted(found.labels.items())), sep="\n")
    speed = found.runs / found.core_seconds
    print(f"{found.runs} runs in {seconds:.0f} s, {speed:.0f} per second of one core, {len(found.failures)} failed")
    if found.failures:
        print(found.report())
    return 1 if found.failures else 0


def _kill(text: str) -> Kill:
    point, _, nth = text.partition(":")
    return Kill(turn=int(text)) if text.isdigit() else Kill(point=point, nth=int(nth or 1))


if __name__ == "__main__":
    sys.exit(main())
