"""Going: a coroutine whose first step was taken in one place goes on in another, in a context of its own."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Coroutine, Generator
from typing import Any, Protocol

from streamflow.clock import Clock


class Watched(Protocol):
    """Since when users' code has the event loop without a pause; 0 while it has not."""

    entered: float


class Going:
    """Goes on with a coroutine in another place than where its first step was taken.

    Args:
        coroutine: What was begun, or not yet.
        context: Its context variables: a task sees several calls through, and none may leave something to the next.
        waits_for: What its first step waits for; None if it has taken none, or waits for its next turn.
        clock: The time.
        watched: Told when the coroutine has the event loop.
        begun: Whether its first step was taken.
    """

    __slots__ = ("_begun", "_clock", "_context", "_coroutine", "_waits_for", "_watched", "interrupted")

    def __init__(
        self,
        coroutine: Coroutine[Any, Any, Any],
        context: contextvars.Context,
        waits_for: Any,
        clock: Clock,
        watched: Watched,
        *,
        begun: bool = True,
    ) -> None:
        self._coroutine = coroutine
        self._context = context
        self._waits_for = waits_for
        self._clock = clock
        self._watched = watched
        self._begun = begun
        self.interrupted = False

    def __await__(self) -> Generator[Any, Any, Any]:
        send, throw, run = self._coroutine.send, self._coroutine.throw, self._context.run
        now, watched = self._clock.monotonic, self._watched
        error: BaseException | None = asyncio.CancelledError() if self.interrupted else None
        waits = self._begun and error is None
        while True:
            sent = None
            if waits:
                try:
                    sent = yield self._waits_for
                except GeneratorExit:
                    self._coroutine.close()
                    raise
                except BaseException as thrown:
                    error = thrown
            watched.entered = now()
            try:
                self._waits_for = run(send, sent) if error is None else run(throw, error)
            except StopIteration as end:
                return end.value
            finally:
                watched.entered = 0.0
            error, waits = None, True
