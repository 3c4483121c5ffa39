"""Tally: a broker that checks what it gets and keeps nothing of it, so that a million records cost no memory."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from streamflow.batch import Chunk, Fragment, Progress
from streamflow.connect.contracts import Frames, Guarantee, Level, Probe, SinkContext, SinkOptions
from streamflow.connect.recovery import progress_at, unpublished
from streamflow.errors import Unavailable


class Tally:
    """A sink that knows what must come: exactly that, once, in order.

    Args:
        name: Its name.
        expected: Makes the frames that must come, in their order.
    """

    def __init__(self, name: str, expected: Callable[[], Iterator[bytes]]) -> None:
        self.name = self.target = name
        self.sink_guarantee = Guarantee(Level.EXACTLY_ONCE, "it keeps the next sequence number")
        self.count = 0
        self.wrong: list[tuple[int, bytes, bytes]] = []
        self.away = False
        self.publishes = 0
        self._expected = expected()

    def accepts(self, value: Any, /) -> None:
        """Takes bytes."""

    def describe(self) -> str:
        return f"tally {self.name}"

    def sink(self, options: SinkOptions) -> TallySink:
        return TallySink(self)

    def take(self, frames: Sequence[bytes]) -> None:
        for frame, wanted in zip(frames, itertools.islice(self._expected, len(frames)), strict=True):
            self.count += 1
            if frame != wanted and len(self.wrong) < 10:
                self.wrong.append((self.count, frame[:40], wanted[:40]))


class TallySink:
    """One opening of a `Tally`."""

    def __init__(self, tally: Tally) -> None:
        self.guarantee = tally.sink_guarantee
        self._tally = tally

    async def probe(self) -> Probe:
        return Probe(True)

    async def open(self, ctx: SinkContext) -> None:
        self._check()

    def _check(self) -> None:
        if self._tally.away:
            raise Unavailable(f"tally {self._tally.name} is away")

    async def recover(self, stored: Progress | None, pending: Sequence[Chunk]) -> Progress:
        return progress_at(self._tally.count + 1, stored, pending)

    def encode(self, records: Fragment) -> Frames:
        return list(records.values)

    async def publish(self, chunks: Sequence[Chunk], at: Progress) -> Progress:
        self._check()
        self._tally.publishes += 1
        assert at.next_seq == self._tally.count + 1
        # the broker's own work is not the loop's
        await asyncio.to_thread(self._take, chunks, at.next_seq)
        return progress_at(self._tally.count + 1, at, chunks)

    def _take(self, chunks: Sequence[Chunk], next_seq: int) -> None:
        for chunk in chunks:
            self._tally.take(unpublished([chunk], next_seq))

    async def close(self) -> None:
        """Nothing is held."""
