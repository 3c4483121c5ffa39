"""The committer by itself: what becomes of the store's work when its caller is gone."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from streamflow.errors import CheckpointError
from streamflow.runtime.epoch import Committer, Gate, Parts
from streamflow.runtime.taps import Taps


class FailingLate:
    """A store whose note fails when it is told to."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.fail = asyncio.Event()

    async def note(self, taken: Any, progress: Any) -> None:
        self.begun.set()
        await self.fail.wait()
        raise CheckpointError("the disk refused", hint="Check it.")


def committer_on(store: Any) -> Committer:
    nothing: Any = None
    return Committer(store, Gate(1), nothing, nothing, Parts([], [], {}, Taps(), b""), world=nothing)


async def test_a_failure_reaches_the_caller():
    store = FailingLate()
    store.fail.set()
    with pytest.raises(CheckpointError, match="refused"):
        await committer_on(store).pin("orders", {})


async def test_a_failure_that_nobody_waits_for_any_more_is_not_printed():
    told: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: told.append(context))
    store = FailingLate()
    pinning = asyncio.create_task(committer_on(store).pin("orders", {}))
    await store.begun.wait()
    pinning.cancel()
    with pytest.raises(asyncio.CancelledError):
        await pinning
    store.fail.set()
    await asyncio.sleep(0.01)
    del pinning
    gc.collect()
    assert not told
