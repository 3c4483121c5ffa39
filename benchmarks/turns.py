"""An event loop that knows how long its turns take: from waking up to waiting again, and what others wait for."""

from __future__ import annotations

import asyncio
import selectors
import time
from typing import Any, NamedTuple


class Turn(NamedTuple):
    """One turn: when it ended, how long nothing else could run, and how much of that this thread computed."""

    ended: float
    wall: float
    cpu: float


class _Selector(selectors.DefaultSelector):
    """Notes when waiting ended. A look that waits for nothing is part of the turn: it may wait for the interpreter."""

    def __init__(self) -> None:
        super().__init__()
        self.woke = (0.0, 0.0)

    def select(self, timeout: float | None = None) -> Any:
        before = (time.perf_counter(), time.thread_time())
        found = super().select(timeout)
        self.woke = before if timeout is not None and timeout <= 0 else (time.perf_counter(), time.thread_time())
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
        ended = time.perf_counter()
        wall = ended - self._watched.woke[0]
        if wall > self._shortest:
            self.turns.append(Turn(ended, wall, time.thread_time() - self._watched.woke[1]))
