"""Kills committing processes with SIGKILL, over and over, and holds the file to what they said was committed.

Run as ``python -m tests.unit.state.kill_driver <folder> <trials> <seed> <inline|thread>``; prints what was reached as
JSON. It forks before any thread exists, so a trial takes milliseconds.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path

from streamflow.state.sqlite import StoreOptions
from tests.unit.state.given import MANIFEST, expected_accounts, full_epoch, loaded, new_store

LATEST_SECONDS = 0.15
POINTS = ("commit.begun", "commit.written", "commit.done", "fold.written")


async def write_until_killed(path: Path, told: int, kind: str, stop_at: str) -> None:
    """Commits and folds; tells each epoch before (``b``) and after (``e``) its commit, one fixed-size line each."""

    def point(name: str) -> None:
        os.write(told, f"{name}\n".encode())
        if name == stop_at and random.random() < 0.2:
            os.kill(os.getpid(), signal.SIGKILL)

    store = new_store(path, kind, StoreOptions(point=point))
    checkpoint = await store.open(MANIFEST)
    os.write(told, b"opened\n")
    number = checkpoint.epoch
    while True:
        number += 1
        await store.commit(full_epoch(number))
        os.write(told, f"epoch {number}\n".encode())
        if number % 3 == 0:
            while await store.fold():
                pass


def run_child(path: Path, told: int, kind: str, stop_at: str) -> None:
    try:
        asyncio.run(write_until_killed(path, told, kind, stop_at))
    except BaseException as error:
        os.write(told, f"error {error!r}\n".encode())
    os._exit(1)


def kill_one(path: Path, chosen: random.Random, kind: str) -> list[str]:
    """Runs a child, kills it at a random instant or lets it kill itself at a point; returns what it told."""
    reading, writing = os.pipe()
    stop_at = chosen.choice([*POINTS, "", "", "", ""])
    child = os.fork()
    if child == 0:
        os.close(reading)
        random.seed(chosen.random())
        run_child(path, writing, kind, stop_at)
    os.close(writing)
    time.sleep(chosen.uniform(0, LATEST_SECONDS))
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), f"the child was not killed: {status}"
    with os.fdopen(reading) as pipe:
        return pipe.read().splitlines()


async def verify(path: Path, least: int) -> int:
    """Opens the file as the next process and checks that it holds one epoch exactly; returns which."""
    store = new_store(path)
    checkpoint = await store.open(MANIFEST)
    held = await loaded(store)
    epoch = checkpoint.epoch
    assert epoch in (least, least + 1), f"told {least}, found {epoch}"
    if epoch:
        whole = full_epoch(epoch)
        assert held.plain("accounts") == expected_accounts(epoch)
        assert held.plain("panes") == {("ann", f"w{epoch}"): epoch}
        assert checkpoint.taken["orders"].positions == whole.taken["orders"].positions
        assert len(checkpoint.taken["queue"].ids) == 3 * epoch
        assert checkpoint.pending["alerts"] == list(whole.chunks)
        assert checkpoint.progress == whole.progress
        assert checkpoint.digest == whole.digest()
    store.abandon()
    return epoch


def main() -> None:
    folder, trials, seed, kind = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    chosen = random.Random(seed)
    reached: Counter[str] = Counter()
    path, epoch = folder / "orders.db", 0
    for trial in range(trials):
        if trial % 25 == 0:
            path, epoch = folder / f"orders{trial}.db", 0
        told = kill_one(path, chosen, kind)
        errors = [line for line in told if line.startswith("error")]
        assert not errors, errors
        committed = [int(line.split()[1]) for line in told if line.startswith("epoch")]
        least = max(committed, default=epoch)
        found = asyncio.run(verify(path, least))
        reached["kills"] += 1
        reached["epochs"] += found - epoch
        reached["committed, never told"] += found > least
        reached[f"last seen: {told[-1].split()[0] if told else 'nothing'}"] += 1
        epoch = found
    print(json.dumps(reached))


if __name__ == "__main__":
    main()
