"""A store that was let go while its thread works on: it neither misleads its successor nor takes the file from it."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from streamflow.state import claim, content
from streamflow.state.sqlite import StoreOptions
from tests.unit.state.given import MANIFEST, full_epoch, new_store

SECONDS = 5.0


@pytest.fixture
def path(tmp_path):
    return tmp_path / "orders.db"


class Stop:
    """A place at which a store's thread waits."""

    def __init__(self) -> None:
        self._reached, self._go = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    def wait(self) -> None:
        self._thread = threading.current_thread()
        self._reached.set()
        assert self._go.wait(SECONDS)

    async def reached(self) -> None:
        assert await asyncio.to_thread(self._reached.wait, SECONDS)

    def pass_on(self) -> None:
        """Lets the thread go on, to its end."""
        assert self._thread is not None
        self._go.set()
        self._thread.join(SECONDS)
        assert not self._thread.is_alive()


async def let_go(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()


async def test_a_cancelled_opening_claims_nothing_behind_its_successor(path, monkeypatch):
    stop = Stop()

    def slowly(*place: Any, **options: Any) -> None:
        claim.verify(*place, **options)
        stop.wait()

    monkeypatch.setattr("streamflow.state.sqlite.verify", slowly)
    first = new_store(path, "thread")
    opening = asyncio.create_task(first.open(MANIFEST))
    await stop.reached()
    await let_go(opening)
    monkeypatch.undo()
    second = new_store(path)
    await second.open(MANIFEST)
    stop.pass_on()
    await second.commit(full_epoch(1))
    await second.close()


async def test_a_commit_that_ends_while_its_successor_verifies_is_no_damage(path, monkeypatch):
    stop = Stop()

    def held(name: str) -> None:
        if name == "commit.written":
            stop.wait()

    store = new_store(path)
    await store.open(MANIFEST)
    await store.commit(full_epoch(1))
    await store.close()
    first = new_store(path, "thread", StoreOptions(point=held))
    await first.open(MANIFEST)
    committing = asyncio.create_task(first.commit(full_epoch(2)))
    await stop.reached()
    first.abandon()
    await let_go(committing)
    counted = []

    def count(connection: Any) -> Any:
        stop.pass_on()
        counted.append(whole(connection))
        return counted[-1]

    whole = content.count
    monkeypatch.setattr(content, "count", count)
    second = new_store(path)
    checkpoint = await second.open(MANIFEST)
    assert counted, "nothing was counted"
    assert checkpoint.epoch == 2
    await second.commit(full_epoch(3))
    await second.close()
