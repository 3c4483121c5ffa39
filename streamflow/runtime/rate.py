"""Rate limits: how many records of a source may be taken now."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

BURST_SECONDS: Final = 0.01
"""What a source did not use of its rate is kept for so long, and for one record at least."""

WAIT_SECONDS_MIN: Final = 0.001
"""No clock is asked to wait for less."""


@dataclass(frozen=True, slots=True)
class RateLimit:
    """So many records in so much time."""

    records: int
    per_ms: int


class Allowance:
    """What one source may still give.

    GUARANTEE: in any span of time no more than its rate allows for that span, and a burst of `BURST_SECONDS` or one
    record.

    Args:
        limit: The rate.
        monotonic: Seconds that never go back.
    """

    def __init__(self, limit: RateLimit, monotonic: Callable[[], float]) -> None:
        self._rate = limit.records * 1000 / limit.per_ms
        self._burst = max(1.0, self._rate * BURST_SECONDS)
        self._left = self._burst
        self._monotonic = monotonic
        self._at = monotonic()

    @property
    def room(self) -> int:
        """Records that may be taken now."""
        now = self._monotonic()
        self._left = min(self._burst, self._left + (now - self._at) * self._rate)
        self._at = now
        return int(self._left)

    def spend(self, records: int) -> None:
        """So many were taken."""
        self._left -= records

    @property
    def wait_seconds(self) -> float:
        """How long until one record may be taken."""
        return 0.0 if self.room else max(WAIT_SECONDS_MIN, (1 - self._left) / self._rate)
