"""What the SQLite store costs: commit, fold, load, and a commit beside a saturated loop."""

from __future__ import annotations

import asyncio
import gc
import random
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from streamflow.state.sqlite import SqliteStore
from streamflow.state.store import Delta, Entry, Epoch, Manifest, TableShape

SIZES: Final = (100_000, 1_000_000)
"""Keys of state."""
DIRTY: Final = 10_000
SLICE: Final = 250
ROUNDS: Final = 20
MANIFEST: Final = Manifest("bench", "1", tables={"accounts": TableShape("value", "Account", "str")})


def entry(key: int, epoch: int) -> bytes:
    return b'["user-%07d","",{"spent":%d,"orders":%d,"name":"somebody"},null]' % (key, key * epoch, epoch)


def deltas(keys: Sequence[int], epoch: int) -> list[Delta]:
    parts = [entry(key, epoch) for key in keys]
    slices = [parts[start : start + SLICE] for start in range(0, len(parts), SLICE)]
    return [Delta("accounts", (0, 255), len(part), b"[" + b",".join(part) + b"]") for part in slices]


def epoch_of(keys: Sequence[int], number: int) -> Epoch:
    return Epoch(number, number, number, deltas=deltas(keys, number), started=time.perf_counter())


async def timed(work: Awaitable[object]) -> float:
    started = time.perf_counter()
    await work
    return 1000 * (time.perf_counter() - started)


async def saturated(yield_seconds: float, call: Callable[[], Awaitable[object]]) -> float:
    """Milliseconds that a call takes while the loop computes, giving the GIL away once a millisecond."""
    task = asyncio.ensure_future(timed(call()))
    slept = time.perf_counter()
    while not task.done():
        while time.perf_counter() - slept < 0.001:
            sum(range(200))
        if yield_seconds:
            time.sleep(yield_seconds)  # noqa: ASYNC251  as the engine does, to give the GIL away
        slept = time.perf_counter()
        await asyncio.sleep(0)
    return task.result()


def shown(name: str, milliseconds: Sequence[float]) -> None:
    ordered = sorted(milliseconds)
    print(f"  {name:<46} p50 {statistics.median(ordered):7.1f} ms   max {ordered[-1]:7.1f} ms")


async def measure(size: int, folder: Path) -> None:
    print(f"{size:,} keys, {DIRTY:,} dirty per epoch")
    store = SqliteStore(folder / f"{size}.db")
    await store.open(MANIFEST)
    number = 0
    for start in range(0, size, 50_000):
        number += 1
        await store.commit(epoch_of(range(start, min(start + 50_000, size)), number))
    started, slices = time.perf_counter(), []
    while (took := await timed(store.fold())) and store.fold_debt_bytes:
        slices.append(took)
    print(f"  first fold: {1e6 * (time.perf_counter() - started) / size:.1f} us per key")
    shown("slice of the first fold", slices or [took])
    chosen = random.Random(1)
    commits, folds, per_key = [], [], []
    for _ in range(ROUNDS):
        number += 1
        epoch = epoch_of(chosen.sample(range(size), DIRTY), number)
        commits.append(await timed(store.commit(epoch)))
        begun = time.perf_counter()
        while store.fold_debt_bytes:
            folds.append(await timed(store.fold()))
        per_key.append(1e6 * (time.perf_counter() - begun) / DIRTY)
    shown("commit", commits)
    shown("slice of a fold", folds)
    print(f"  fold after each epoch: {statistics.median(per_key):.1f} us per key")
    for pause in (50e-6, 0.0):
        times = []
        for _ in range(ROUNDS if pause else 3):
            number += 1
            epoch = epoch_of(chosen.sample(range(size), DIRTY), number)
            times.append(await saturated(pause, partial(store.commit, epoch)))
        shown(f"commit, loop saturated, {'yielding 50 us' if pause else 'not yielding'}", times)
    folds = []
    while store.fold_debt_bytes:
        folds.append(await saturated(50e-6, store.fold))
    shown("slice of a fold, loop saturated, yielding 50 us", folds)
    number += 1
    await store.commit(epoch_of(chosen.sample(range(size), DIRTY), number))
    shown("get, 0.7 MB unfolded", [await timed(store.get("accounts", b'"user-%07d"' % key)) for key in range(50)])
    await store.close()
    await load(folder / f"{size}.db")


async def load(path: Path) -> None:
    store = SqliteStore(path)
    print(f"  open: {await timed(store.open(MANIFEST)):.0f} ms")
    for collecting in (True, False):
        kept: dict[bytes, bytes | None] = {}
        count = 0

        def install(table: str, entries: Sequence[Entry]) -> None:
            nonlocal count
            count += len(entries)
            kept.update([(entry.key, entry.value) for entry in entries])  # noqa: B023

        (gc.enable if collecting else gc.disable)()
        seconds = await timed(store.load(install)) / 1000
        gc.enable()
        print(f"  load, gc {'on ' if collecting else 'off'}: {count / seconds / 1000:,.0f} k entries/s")
    await store.close()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for size in SIZES:
            asyncio.run(measure(size, Path(folder)))


if __name__ == "__main__":
    main()
