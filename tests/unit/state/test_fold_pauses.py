"""What the fold does for the loop: small rows of deltas, the interpreter given away, nothing for the collector."""

from __future__ import annotations

import gc
import itertools
import sqlite3
from collections.abc import Iterator

from streamflow.state import fold
from streamflow.state.commit import DELTA_BYTES_MAX
from streamflow.state.fold import Folder
from streamflow.state.store import Delta
from tests.unit.state.given import MANIFEST, delta, epoch, fold_all, loaded, new_store

KEYS, SLICE = 20_000, 250


def slices() -> Iterator[Delta]:
    for start in range(0, KEYS, SLICE):
        yield delta("accounts", *((f"user-{n}", "", {"spent": n}) for n in range(start, start + SLICE)))


async def test_a_large_epoch_is_many_small_rows(tmp_path):
    store = new_store(tmp_path / "orders.db")
    await store.open(MANIFEST)
    await store.commit(epoch(1, deltas=list(slices())))
    connection = sqlite3.connect(tmp_path / "orders.db")
    sizes = [size for (size,) in connection.execute("SELECT bytes FROM state_delta")]
    connection.close()
    assert sum(sizes) > 5 * DELTA_BYTES_MAX
    assert max(sizes) <= DELTA_BYTES_MAX
    await store.close()


async def test_a_fold_gives_the_interpreter_away_as_it_works(tmp_path, monkeypatch):
    pauses: list[float] = []
    monkeypatch.setattr(fold, "give_way", pauses.append)
    store = new_store(tmp_path / "orders.db")
    await store.open(MANIFEST)
    # a clock by which each look takes a tenth of a millisecond
    ticks = itertools.count()
    store._folder = Folder(store._ledger, lambda: next(ticks) * 1e-4)
    await store.commit(epoch(1, deltas=list(slices())))
    await fold_all(store)
    pieces = 2 * (KEYS // 128 + 1) + KEYS // 250  # read, made entries of, written
    assert pieces // 10 < len(pauses) <= pieces
    assert set(pauses) == {fold.PAUSE_SECONDS}
    assert len((await loaded(store)).plain("accounts")) == KEYS
    await store.close()


async def test_a_fold_that_takes_no_time_does_not_pause(tmp_path, monkeypatch):
    pauses: list[float] = []
    monkeypatch.setattr(fold, "give_way", pauses.append)
    store = new_store(tmp_path / "orders.db")
    await store.open(MANIFEST)
    store._folder = Folder(store._ledger, lambda: 0.0)
    await store.commit(epoch(1, deltas=list(slices())))
    await fold_all(store)
    assert pauses == []
    await store.close()


async def test_a_fold_holds_nothing_that_the_garbage_collector_looks_at(tmp_path):
    """What survives young collections brings about full ones, and these stop the loop."""
    store = new_store(tmp_path / "orders.db")
    await store.open(MANIFEST)
    ticks = itertools.count()
    store._folder = Folder(store._ledger, lambda: next(ticks) * 1e-4)
    for number in (1, 2):
        await store.commit(epoch(number, deltas=list(slices())))
    gc.collect()
    before, slices_done, most = len(gc.get_objects()), 0, 0
    while await store.fold():
        gc.collect(1)
        slices_done += 1
        most = max(most, len(gc.get_objects()) - before)
    assert slices_done > 4  # with all the keys in memory in between
    assert most < KEYS / 10
    await store.close()
