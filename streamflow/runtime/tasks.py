"""Tasks: everything that runs at once in a shard; one that fails ends them all."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Final

CANCEL_AGAIN_SECONDS: Final = 5.0
"""Tasks of a shard that ends are cancelled again after this time; closing a connector takes less."""


class Tasks:
    """The tasks of a shard.

    GUARANTEE: whoever watches hears of each that ends; after `end` none is left.

    Args:
        flow: Name of the flow, for the names of tasks.
    """

    def __init__(self, flow: str) -> None:
        self._flow = flow
        self._names: dict[asyncio.Task[None], str] = {}
        self._endless: set[asyncio.Task[None]] = set()
        self._ended: asyncio.Queue[asyncio.Task[None]] = asyncio.Queue()

    def __len__(self) -> int:
        return len(self._names)

    def spawn(self, work: Coroutine[Any, Any, None], name: str, *, may_end: bool = False) -> asyncio.Task[None]:
        """Starts a task.

        Args:
            work: What it does.
            name: Says what that is.
            may_end: Whether it may end before the shard does.
        """
        task = asyncio.create_task(work, name=f"{self._flow}: {name}")
        self._names[task] = name
        if not may_end:
            self._endless.add(task)
        task.add_done_callback(self._ended.put_nowait)
        return task

    async def watch(self, main: asyncio.Task[None]) -> None:
        """Waits for the end of one task; raises what another one raised before.

        Raises:
            asyncio.CancelledError: One was cancelled.
        """
        while True:
            task = await self._ended.get()
            name = self._names.pop(task)
            if task.cancelled():
                raise asyncio.CancelledError(f"{name} was cancelled")
            if (error := task.exception()) is not None:
                raise error
            if task is main:
                return
            assert task not in self._endless, f"{name} ended"

    def cancel(self) -> None:
        """Cancels all of them, and waits for none."""
        for task in self._names:
            task.cancel()

    async def end(self) -> None:
        """Cancels all of them, in the order in which they began, and waits until they have ended."""
        # a set of tasks has the order of their addresses, and the end of a shard would be another one in each run
        tasks = list(self._names)
        while tasks:
            for task in tasks:
                task.cancel()
            # a client library may swallow a cancellation: one that it did not hear of is told again
            await asyncio.wait(tasks, timeout=CANCEL_AGAIN_SECONDS)
            tasks = [task for task in tasks if not task.done()]
        await asyncio.gather(*self._names, return_exceptions=True)
        self._names.clear()
        self._endless.clear()
