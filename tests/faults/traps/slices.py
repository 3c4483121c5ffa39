"""Slices: how long each turn of the event loop keeps the processor, and how much memory the process has."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

PAGE_BYTES = 4096


class Slices:
    """Processor time of the loop's thread per call that the loop makes: what a host's own tasks must wait for.

    Time in which other processes had the processor does not count.
    """

    def __init__(self) -> None:
        self.milliseconds: list[float] = []
        self.total_seconds = 0.0

    @property
    def worst(self) -> float:
        return max(self.milliseconds, default=0.0)

    def over(self, milliseconds: float) -> list[float]:
        return [round(each, 1) for each in self.milliseconds if each > milliseconds]


@contextmanager
def measured() -> Iterator[Slices]:
    """Measures every call of the loop, with Python's garbage collector out of the way: it belongs to the host."""
    slices, run, clock = Slices(), asyncio.events.Handle._run, time.thread_time

    def timed(handle: asyncio.events.Handle) -> Any:
        began = clock()
        result: Any = run(handle)
        spent = clock() - began
        slices.total_seconds += spent
        if spent > 0.001:
            slices.milliseconds.append(spent * 1000)
        return result

    gc.collect()
    gc.disable()
    try:
        with patch.object(asyncio.events.Handle, "_run", timed):
            yield slices
    finally:
        gc.enable()


def resident_bytes() -> int:
    """Memory of this process that is in use now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES


class Memory:
    """The most memory the process had while a task looked on."""

    def __init__(self) -> None:
        gc.collect()
        self.before = self.most = resident_bytes()

    @property
    def grown_mib(self) -> float:
        return (self.most - self.before) / (1 << 20)

    async def watch(self) -> None:
        """Looks again and again, until cancelled."""
        while True:
            self.most = max(self.most, resident_bytes())
            await asyncio.sleep(0.005)
