"""A trial: a flow between two places of a real broker, fed from outside, and the check of every single result."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from tests.faults.feeder import BURSTS, Feeder
from tests.faults.flow import Setup, Trap
from tests.faults.oracle import check
from tests.faults.process import FlowProcess


class Reader(Protocol):
    """Somebody outside who reads the results with the broker's plain client."""

    async def count(self, name: str, /) -> int: ...
    async def results(self, name: str, /) -> list[dict[str, Any]]: ...


class FlowTrial(ABC):
    """What the trials on every broker share. ``source`` and ``sink`` name where the flow reads and writes."""

    source: str
    sink: str
    folder: Path
    flow: FlowProcess

    @abstractmethod
    def setup(self, **other: Any) -> Setup:
        """The flow of this trial."""

    @abstractmethod
    def outsider(self) -> AbstractAsyncContextManager[Reader]:
        """A client of the broker."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.flow.stop()

    @abstractmethod
    def feeder(self, seed: int = 7, bursts: Sequence[int] = BURSTS) -> Feeder:
        """Who publishes to the source."""

    async def wait_for(self, feeder: Feeder, seconds: float = 30) -> None:
        """Waits until everything that was fed has come out, or long enough."""
        async with self.outsider() as outsider:
            for _ in range(int(seconds * 20)):
                if await outsider.count(self.sink) >= feeder.total - feeder.taken_away or not self.flow.alive:
                    break
                await asyncio.sleep(0.05)
            assert self.flow.alive, f"the flow ended by itself: {self.flow.account()}"

    async def check(self, feeder: Feeder, since: Counter[str] | None = None) -> None:
        """Waits for the last result, and a moment longer; then every record must be there once, and in order.

        Args:
            feeder: Knows what was sent.
            since: What had been sent when the results before it were taken away.
        """
        await self.wait_for(feeder)
        await asyncio.sleep(0.3)
        check(feeder.sent, await self.results(), f"{self}: {self.flow.log}", since)
        assert feeder.total > 0

    async def results(self) -> list[dict[str, Any]]:
        async with self.outsider() as outsider:
            return await outsider.results(self.sink)

    async def begin(self) -> None:
        """A first short life: from then on an interest stream has somebody to keep messages for."""
        trap = Trap("source.opened")
        self.flow.start(trap)
        await self.flow.killed(trap)

    async def run_through(self, feeder: Feeder, **changed: Any) -> None:
        """Starts the flow, and ends it cleanly when everything that was fed has come out."""
        self.flow.start(**changed)
        await self.wait_for(feeder)
        await self.flow.stop_cleanly()
