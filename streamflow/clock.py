"""Time: the only door through which the engine learns what time it is.

Intake reads the clock once per micro-batch; steps see that reading as ``ctx.now()``. Tests and simulation hand in
a `VirtualClock` that moves only when told.
"""

from __future__ import annotations

import asyncio
import datetime
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from streamflow.errors import SettingsError

Duration = str | datetime.timedelta
"""``"250ms"``, ``"5s"``, ``"1m"``, ``"2h"``, ``"7d"``, or a timedelta."""

_UNITS_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 7 * 86_400_000}
_DURATION = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)\s*", re.ASCII)


DURATION_MS_MAX: Final = datetime.timedelta.max // datetime.timedelta(milliseconds=1)
"""The longest duration, about 2.7 million years: added to any time it still fits 64 bits."""


def duration_ms(value: Duration) -> int:
    """Turns a duration into milliseconds.

    Raises:
        SettingsError: It is not one of the forms of `Duration`, is negative, too short to tell from none, or above
            `DURATION_MS_MAX`.
    """
    if isinstance(value, datetime.timedelta):
        exact = value / datetime.timedelta(milliseconds=1)
    elif isinstance(value, str) and (match := _DURATION.fullmatch(value)):
        exact = float(match[1]) * _UNITS_MS[match[2]]
    else:
        exact = -1.0
    milliseconds = round(exact) if exact <= DURATION_MS_MAX else -1
    # what is too short to tell must not become "at once" or "never" unseen
    if milliseconds >= 0 and (milliseconds > 0 or exact == 0):
        return milliseconds
    raise SettingsError(
        f"{value!r} is not a duration of whole milliseconds",
        hint='Write "250ms", "5s", "1m", "7d", or pass a timedelta.',
    )


def signed_ms(value: Duration) -> int:
    """`duration_ms` for durations that may lie behind: ``"-5m"``, or a negative timedelta.

    Raises:
        SettingsError: It is no duration.
    """
    if isinstance(value, datetime.timedelta) and value < datetime.timedelta():
        return -duration_ms(-value)
    if isinstance(value, str) and value.lstrip().startswith("-"):
        return -duration_ms(value.lstrip()[1:])
    return duration_ms(value)


class Cancellable(Protocol):
    """A call that was scheduled and can be taken back."""

    def cancel(self) -> None: ...


class Clock(Protocol):
    """Tells the time and calls at a time."""

    def now_ms(self) -> int:
        """Wall-clock time in milliseconds since 1970, UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back, for pacing and back-off."""
        ...

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Cancellable:
        """Calls on the running event loop once ``seconds`` have passed."""
        ...


async def sleep(clock: Clock, seconds: float) -> None:
    """Waits on a clock; cancellation takes the call back."""
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def wake() -> None:
        if not done.done():
            done.set_result(None)

    call = clock.call_later(seconds, wake)
    try:
        await done
    finally:
        call.cancel()


class SystemClock:
    """The machine's own clock."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    # the function itself: a frame of our own around it would double what a reading costs
    monotonic = staticmethod(time.monotonic)

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Cancellable:
        return asyncio.get_running_loop().call_later(seconds, callback)


class VirtualClock:
    """A clock that moves only when `advance_to` is called.

    Args:
        start_ms: The first reading; the default is 2026-01-01 00:00 UTC.
    """

    def __init__(self, start_ms: int = 1_767_225_600_000) -> None:
        self._now_us = start_ms * 1000
        self._calls: list[_Call] = []

    def now_ms(self) -> int:
        return self._now_us // 1000

    def monotonic(self) -> float:
        return self._now_us / 1e6

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Cancellable:
        call = _Call(self, self._now_us + max(0, round(seconds * 1e6)), callback)
        self._calls.append(call)
        return call

    def next_due_ms(self) -> int | None:
        """When the next call is due, rounded up to a millisecond; None if nobody waits."""
        return min((-(-call.due_us // 1000) for call in self._calls), default=None)

    def advance_to(self, now_ms: int) -> None:
        """Moves the clock, never back, and makes the calls that are due, earliest first."""
        self._now_us = max(self._now_us, now_ms * 1000)
        for call in sorted((call for call in self._calls if call.due_us <= self._now_us), key=lambda call: call.due_us):
            if call in self._calls:
                self._calls.remove(call)
                call.callback()


@dataclass(eq=False, slots=True)
class _Call:
    clock: VirtualClock
    due_us: int
    callback: Callable[[], object]

    def cancel(self) -> None:
        if self in self.clock._calls:
            self.clock._calls.remove(self)
