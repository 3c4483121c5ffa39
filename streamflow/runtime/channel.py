"""Channel: an edge at run time, a bounded queue between exactly two tasks."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass

from streamflow.batch import Fragment


@dataclass(frozen=True, slots=True)
class ChannelStatistics:
    """What a channel has seen.

    Args:
        fragments: Number of fragments put.
        rows: Number of rows in them.
        waiting: Fragments in it now.
        put_seconds: Time its writer spent waiting for room (backpressured).
        get_seconds: Time its reader spent waiting for a fragment (idle).
    """

    fragments: int
    rows: int
    waiting: int
    put_seconds: float
    get_seconds: float


class Channel:
    """A queue of fragments with one writer and one reader.

    GUARANTEE: every number passes once, in order, as one or more fragments of which the last is marked (asserted).
    BOUND: ``capacity`` fragments.

    Args:
        capacity: Most fragments in it.
        number: The last number that passed before it was made.
    """

    def __init__(self, capacity: int, number: int) -> None:
        assert capacity > 0
        self.capacity = capacity
        self.number = number
        self._open = False
        self._items: deque[Fragment] = deque()
        self._getter: asyncio.Future[None] | None = None
        self._putter: asyncio.Future[None] | None = None
        self._fragments = self._rows = 0
        self._put_seconds = self._get_seconds = 0.0

    async def put(self, part: Fragment) -> None:
        """Adds a fragment; waits while the channel is full."""
        number = part.batch.number
        assert number == self.number + (not self._open), f"number {number} behind {self.number}"
        self.number = number
        self._open = not part.last
        if len(self._items) >= self.capacity:
            assert self._putter is None, "a channel has one writer"
            started = time.perf_counter()
            while len(self._items) >= self.capacity:
                self._putter = asyncio.get_running_loop().create_future()
                try:
                    await self._putter
                finally:
                    self._putter = None
            self._put_seconds += time.perf_counter() - started
        self._items.append(part)
        self._fragments += 1
        self._rows += len(part.values)
        if self._getter is not None and not self._getter.done():
            self._getter.set_result(None)

    async def get(self) -> Fragment:
        """Takes the next fragment; waits while there is none."""
        if not self._items:
            assert self._getter is None, "a channel has one reader"
            started = time.perf_counter()
            while not self._items:
                self._getter = asyncio.get_running_loop().create_future()
                try:
                    await self._getter
                finally:
                    self._getter = None
            self._get_seconds += time.perf_counter() - started
        part = self._items.popleft()
        if self._putter is not None and not self._putter.done():
            self._putter.set_result(None)
        return part

    def statistics(self) -> ChannelStatistics:
        return ChannelStatistics(self._fragments, self._rows, len(self._items), self._put_seconds, self._get_seconds)
