"""The disk in memory: what outlives a simulated process is the last COMMIT, whole, and its witness."""

from __future__ import annotations

from dataclasses import replace

import pytest

from streamflow.batch import Chunk, Progress, pack_frames
from streamflow.errors import EpochWentBack, Fenced, StateError, StateLockedError
from streamflow.state.executor import InlineExecutor
from streamflow.state.memory import MemoryDisk, MemoryPlace
from streamflow.state.sqlite import SqliteStore, StoreOptions
from tests.unit.state.given import MANIFEST, epoch, full_epoch


class Opened:
    """A store on a disk in memory, and its place."""

    def __init__(self, disk: MemoryDisk) -> None:
        self.places: list[MemoryPlace] = []

        def place(*args) -> MemoryPlace:
            self.places.append(disk.place(*args))
            return self.places[-1]

        self.store = SqliteStore("memory.db", executor=InlineExecutor(), options=StoreOptions(place=place))

    def die(self) -> None:
        self.places[0].detach()


async def test_what_was_committed_is_found() -> None:
    disk = MemoryDisk()
    first = Opened(disk)
    await first.store.open(MANIFEST)
    await first.store.commit(epoch(1))
    first.die()
    second = Opened(disk)
    assert (await second.store.open(MANIFEST)).epoch == 1
    await second.store.close()


async def test_the_dead_commit_nothing() -> None:
    disk = MemoryDisk()
    first = Opened(disk)
    await first.store.open(MANIFEST)
    first.die()
    await first.store.commit(epoch(1))
    second = Opened(disk)
    assert (await second.store.open(MANIFEST)).epoch == 0


async def test_two_on_one_disk() -> None:
    disk = MemoryDisk()
    first, second = Opened(disk), Opened(disk)
    await first.store.open(MANIFEST)
    with pytest.raises(StateLockedError):
        await second.store.open(MANIFEST)
    disk.lose_lock()
    third = Opened(disk)
    await third.store.open(MANIFEST)
    with pytest.raises(Fenced):
        await first.store.commit(epoch(1))
    await third.store.commit(epoch(1))


async def test_a_copy_goes_its_own_way_and_an_old_image_is_refused() -> None:
    disk = MemoryDisk()
    first = Opened(disk)
    await first.store.open(MANIFEST)
    await first.store.commit(epoch(1))
    copy = disk.copy()
    await first.store.commit(epoch(2))
    other = Opened(copy)
    assert (await other.store.open(MANIFEST)).epoch == 1
    other.die()
    copy.seen = disk.seen
    with pytest.raises(EpochWentBack):
        await Opened(copy).store.open(MANIFEST)
    copy.image = None
    with pytest.raises(StateError):
        await Opened(copy).store.open(replace(MANIFEST))


async def test_who_was_replaced_hears_so_when_outputs_at_rest_are_gone() -> None:
    disk = MemoryDisk()
    first, second = Opened(disk), Opened(disk)
    await first.store.open(MANIFEST)
    chunk = Chunk("alerts", 1, 0, 1, 1, pack_frames([b"1"]))
    await first.store.commit(replace(epoch(1), chunks=[chunk]))
    assert list(await first.store.chunks("alerts", 1, 1)) == [chunk]
    disk.lose_lock()
    await second.store.open(MANIFEST)
    await second.store.note({}, {"alerts": Progress(1, 2)})
    with pytest.raises(Fenced):
        await first.store.chunks("alerts", 1, 1)


async def test_who_was_replaced_before_it_has_loaded_hears_so() -> None:
    disk = MemoryDisk()
    first, second = Opened(disk), Opened(disk)
    await first.store.open(MANIFEST)
    disk.lose_lock()
    await second.store.open(MANIFEST)
    await second.store.commit(full_epoch(1))
    with pytest.raises(Fenced):
        await first.store.load(lambda table, entries: None)
