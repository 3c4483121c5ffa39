"""Whoever feeds a flow with numbered records, from outside."""

from __future__ import annotations

import asyncio
import json
import random
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Self

KEYS = 20
BURSTS = (1, 20, 150, 400, 1300)
"""How many records the feeder publishes at a time: single ones, and more than fit into one write or one batch."""
AHEAD_RECORDS_MAX = 3000
PAUSE_SECONDS = 0.08
"""Between two bursts: flows that are fed without a pause take the processors that brokers need to start."""


class Feeder(ABC):
    """Publishes records, per key numbered from 1, until its block ends.

    It keeps ahead of the flow's results, though not by more than `AHEAD_RECORDS_MAX`. What it has counted as sent is
    there once when `stop` returns, whatever happened to the broker meanwhile.
    """

    letter = "k"
    """Keys begin with it: feeders of one flow must not share keys."""
    behind: Callable[[], Awaitable[int]] | None = None
    """How many records have no result yet, where the results are at another broker, or those of several feeders."""

    def __init__(self, seed: int, bursts: Sequence[int]) -> None:
        self.sent: Counter[str] = Counter()
        self.total = 0
        self.acknowledged = 0
        self.paused = False
        self.taken_away = 0
        """How many results somebody has taken out of the stream."""
        self._rng, self._bursts = random.Random(seed), bursts
        self._stopping = False
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._feed())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Feeds no more; returns when the last record is acknowledged."""
        self._stopping = True
        assert self._task is not None
        await self._task

    @abstractmethod
    async def feed(self, count: int) -> None:
        """Publishes records now, instead of by itself while a block lasts."""

    @abstractmethod
    async def _feed(self) -> None:
        """Publishes until `stop` is called, and what is pending then."""

    async def _is_near(self, results: Callable[[], Awaitable[int]]) -> bool:
        """Whether the flow is not too far behind, and nobody has paused the feeder.

        Args:
            results: How many there are at the feeder's own broker; asked if nobody else counts.
        """
        if self.paused:
            return False
        behind = await self.behind() if self.behind is not None else self.total - await results()
        return behind < AHEAD_RECORDS_MAX

    def _burst(self) -> list[tuple[str, bytes]]:
        """The next few records."""
        return [self._record() for _ in range(self._rng.choice(self._bursts))]

    def _key(self, rng: random.Random) -> str:
        return f"{self.letter}{rng.randrange(KEYS)}"

    def _record(self) -> tuple[str, bytes]:
        """A name for the record, and its content."""
        key = self._key(self._rng)
        self.sent[key] += 1
        self.total += 1
        return f"{key}-{self.sent[key]}", json.dumps({"key": key, "n": self.sent[key]}).encode()
