"""Pacing: when the next barrier may go."""

from __future__ import annotations

from collections.abc import Callable

from streamflow.clock import Clock, duration_ms
from streamflow.runtime.settings import Settings


class Pacer:
    """Natural group commit: a barrier goes when the last commit is done and something waits for the next.

    Not sooner than ``commit_min`` after the last barrier; under load not before sealing and committing would stay
    within ``checkpoint_share`` of the elapsed time; but once the first pending record has waited ``commit_max``, as
    soon as the last commit is done. A full epoch or outbox does not wait either.
    """

    def __init__(self, settings: Settings, clock: Clock, full: Callable[[], bool]) -> None:
        self._min = duration_ms(settings.commit_min) / 1000
        self._max = duration_ms(settings.commit_max) / 1000
        self._share = settings.checkpoint_share
        self._clock = clock
        self._full = full
        self._last = float("-inf")
        self._first_pending: float | None = None
        self._cost_seconds = 0.0
        self.idle = True

    def pending(self) -> None:
        """Something was taken that no barrier covers yet."""
        if self._first_pending is None:
            self._first_pending = self._clock.monotonic()

    def barrier(self) -> None:
        """A barrier goes now."""
        assert self.idle, "a barrier before the last commit was done"
        self._last = self._clock.monotonic()
        self._first_pending = None
        self.idle = False

    def committed(self, cost_seconds: float) -> None:
        """The last barrier's epoch is durable.

        Args:
            cost_seconds: What sealing, encoding and giving way to the store's thread took from the loop.
        """
        self._cost_seconds = cost_seconds
        self.idle = True

    def due_at(self, *, pending: bool, closing: bool) -> float | None:
        """When the next barrier may go, on the clock's monotonic scale; None while there is no reason or no room."""
        if not pending or not self.idle:
            return None
        if closing or self._full():
            return self._clock.monotonic()
        earliest = self._last + max(self._min, self._cost_seconds / self._share)
        if self._first_pending is None:
            return earliest
        return min(earliest, max(self._last + self._min, self._first_pending + self._max))
