"""An event loop that knows how long its turns take: from waking up to waiting again, and what others wait for."""

from __future__ import annotations

import asyncio
import selectors
import time
from typing import Any, NamedTuple


class Turn(NamedTuple):
    """One turn of the loop, during which nothing else on it could run, in seconds.

    Args:
        wall: By the clock. On a shared machine other processes are in it.
        own: What all threads of this process computed meanwhile: the loop's own work, and that of a thread which may
            have kept the interpreter from it. The most that can be this process's doing.
        cpu: What the loop's own thread computed.
    """

    wall: float
    own: float
    cpu: float


class _Selector(selectors.DefaultSelector):
    """Notes when waiting ended. A look that waits for nothing is part of the turn: it may wait for the interpreter."""

    def __init__(self) -> None:
        super().__init__()
        self.woke = (0.0, 0.0, 0.0)

    def select(self, timeout: float | None = None) -> Any:
        before = _clocks()
        found = super().select(timeout)
        self.woke = before if timeout is not None and timeout <= 0 else _clocks()
        return found


class TurnLoop(asyncio.SelectorEventLoop):
    """Keeps every turn above `shortest` seconds in `turns`."""

    def __init__(self, shortest: float = 0.001) -> None:
        self.turns: list[Turn] = []
        self._shortest = shortest
        self._watched = _Selector()
        super().__init__(self._watched)

    def _run_once(self) -> None:
        super()._run_once()  # type: ignore[misc]
        wall, own, cpu = (now - before for now, before in zip(_clocks(), self._watched.woke, strict=True))
        if wall > self._shortest:
            self.turns.append(Turn(wall, min(wall, own), cpu))


def _clocks() -> tuple[float, float, float]:
    return time.perf_counter(), time.process_time(), time.thread_time()
