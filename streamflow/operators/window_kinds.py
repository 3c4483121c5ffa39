"""Kinds of windows, as data: which windows hold a record of a given time. All times are microseconds since 1970.

Windows that are aligned are aligned to 1970-01-01 00:00 UTC plus an offset, never to when a process started. A window
holds its start and does not hold its end.
"""

from __future__ import annotations

import datetime
import zoneinfo
from dataclasses import dataclass, field
from functools import lru_cache
from math import gcd
from typing import ClassVar

from streamflow.clock import Duration, duration_ms
from streamflow.errors import DefinitionError

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_MICROSECOND = datetime.timedelta(microseconds=1)
_DAY_US = 86_400_000_000
_ZONES_MAX = 1024
"""More than there are."""


@dataclass(frozen=True, slots=True)
class Tumbling:
    """Windows of one size, side by side."""

    size_us: int
    offset_us: int = 0
    timed: ClassVar[bool] = True

    def __str__(self) -> str:
        return f"tumbling {span(self.size_us)}" + (f" offset {span(self.offset_us)}" if self.offset_us else "")

    def start_of(self, time_us: int) -> int:
        """Start of the window that holds a time."""
        return time_us - (time_us - self.offset_us) % self.size_us

    def end_of(self, start_us: int) -> int:
        """End of the window that starts then."""
        return start_us + self.size_us

    def last_end(self, time_us: int) -> int:
        """End of the last window that can hold a record of that time."""
        return self.end_of(self.start_of(time_us))

    def closes(self, time_us: int) -> int:
        """The watermark at which no window that can hold such a record is open any more."""
        return self.last_end(time_us)


@dataclass(frozen=True, slots=True)
class Calendar:
    """Windows of whole days in a time zone: they are 23 or 25 hours long when clocks are changed.

    A day lasts from the first moment of its date to the first moment of the next, also where clocks jump at midnight.
    """

    days: int
    zone: str
    offset_days: int = 0
    timed: ClassVar[bool] = True

    def __str__(self) -> str:
        offset = f" offset {self.offset_days}d" if self.offset_days else ""
        return f"tumbling {self.days}d{offset} in {self.zone}"

    def start_of(self, time_us: int) -> int:
        """Start of the window that holds a time."""
        first = self._first_day(time_us)
        end_us = _midnight(self.zone, first + self.days)
        # where clocks are set back over midnight, some moments have the date of the day before for a second time
        return _midnight(self.zone, first) if time_us < end_us else end_us

    def end_of(self, start_us: int) -> int:
        """End of the window that starts then."""
        return _midnight(self.zone, self._first_day(start_us) + self.days)

    def _first_day(self, time_us: int) -> int:
        """The first day of the window that holds the date of a time."""
        day = (_EPOCH + time_us * _MICROSECOND).astimezone(_zone(self.zone)).date().toordinal()
        return day - (day - _EPOCH.toordinal() - self.offset_days) % self.days

    def last_end(self, time_us: int) -> int:
        """End of the last window that can hold a record of that time."""
        return self.end_of(self.start_of(time_us))

    def closes(self, time_us: int) -> int:
        """The watermark at which no window that can hold such a record is open any more."""
        return self.last_end(time_us)


@dataclass(frozen=True, slots=True)
class Sliding:
    """Windows of one size that start every so often; they share panes, so a record costs the same however many."""

    size_us: int
    every_us: int
    offset_us: int = 0
    pane_us: int = field(init=False)
    """Size of the panes that every window is made of."""
    timed: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "pane_us", gcd(self.size_us, self.every_us))

    def __str__(self) -> str:
        offset = f" offset {span(self.offset_us)}" if self.offset_us else ""
        return f"sliding {span(self.size_us)} every {span(self.every_us)}{offset}"

    def pane_of(self, time_us: int) -> int:
        """Start of the pane that holds a time."""
        return time_us - (time_us - self.offset_us) % self.pane_us

    def first_end(self, pane_us: int) -> int:
        """End of the first window that holds a pane."""
        earliest = pane_us + self.pane_us - self.size_us - self.offset_us
        return -(-earliest // self.every_us) * self.every_us + self.offset_us + self.size_us

    def last_end(self, time_us: int) -> int:
        """End of the last window that can hold a record of that time."""
        return time_us - (time_us - self.offset_us) % self.every_us + self.size_us

    def ends_at(self, time_us: int) -> bool:
        """Whether a window ends then."""
        return (time_us - self.offset_us - self.size_us) % self.every_us == 0

    def end_behind(self, time_us: int) -> int:
        """The first end of a window behind a time."""
        past = time_us - self.offset_us - self.size_us
        return (past // self.every_us + 1) * self.every_us + self.offset_us + self.size_us

    def closes(self, time_us: int) -> int:
        """The watermark at which no window that can hold such a record is open any more."""
        return self.last_end(time_us)


@dataclass(frozen=True, slots=True)
class Session:
    """Records that are no further apart than a gap; a session ends a gap behind its last record."""

    gap_us: int
    timed: ClassVar[bool] = True

    def __str__(self) -> str:
        return f"session gap {span(self.gap_us)}"

    def last_end(self, time_us: int) -> int:
        """End of the last window that can hold a record of that time."""
        return time_us + self.gap_us

    def closes(self, time_us: int) -> int:
        """The watermark at which no window that can hold such a record is open any more."""
        # a record exactly a gap later still belongs to it
        return time_us + self.gap_us + 1


@dataclass(frozen=True, slots=True)
class CountWindow:
    """The last ``size`` records of a key, every so many of them; event time plays no part."""

    size: int
    every: int
    timed: ClassVar[bool] = False

    def __str__(self) -> str:
        return f"{self.size} records every {self.every}"

    @property
    def pane(self) -> int:
        """Records in each of the panes that every window is made of."""
        return gcd(self.size, self.every)


@dataclass(frozen=True, slots=True)
class GlobalWindow:
    """One window per key that never ends; it needs a trigger."""

    timed: ClassVar[bool] = False

    def __str__(self) -> str:
        return "global window"


def span(us: int) -> str:
    """A length of time for people."""
    for unit, size in (("d", _DAY_US), ("h", 3_600_000_000), ("m", 60_000_000), ("s", 1_000_000)):
        if us >= size and us % size == 0:
            return f"{us // size}{unit}"
    return f"{us // 1000}ms"


WindowKind = Tumbling | Calendar | Sliding | Session | CountWindow | GlobalWindow


@lru_cache(maxsize=_ZONES_MAX)
def _zone(name: str) -> zoneinfo.ZoneInfo:
    # kept: zoneinfo itself keeps eight, and would read the file of a ninth again, on the event loop
    return zoneinfo.ZoneInfo(name)


@lru_cache(maxsize=4096)
def _midnight(zone: str, ordinal: int) -> int:
    """When a day begins in a zone: where there is no midnight, since clocks jump over it, at the jump."""
    day = datetime.date.fromordinal(ordinal)
    midnight = datetime.datetime(day.year, day.month, day.day, tzinfo=_zone(zone))
    return (midnight.astimezone(datetime.UTC) - _EPOCH) // _MICROSECOND


def _size_us(what: str, duration: Duration) -> int:
    size_us = duration_ms(duration) * 1000
    if size_us <= 0:
        raise DefinitionError(f"{what} is {duration!r}", hint="Give a duration above 0.")
    return size_us


def tumbling(size: Duration, *, offset: Duration = "0s", tz: str | None = None) -> WindowKind:
    """Windows of one size, side by side: ``[start, start + size)``.

    Args:
        size: How long a window is; with ``tz`` a whole number of days.
        offset: Moves the windows' starts from 1970-01-01 00:00, a Thursday: weeks that begin on Monday are
            ``tumbling("7d", offset="4d")``. With ``tz`` a whole number of days.
        tz: Name of a time zone, such as ``"Europe/Berlin"``: windows are calendar days there, from midnight to
            midnight, 23 or 25 hours long when clocks are changed. Needs the zone on this machine, or ``tzdata``.
    """
    size_us, offset_us = _size_us("the size of a tumbling window", size), duration_ms(offset) * 1000
    if tz is None:
        return Tumbling(size_us, offset_us % size_us)
    if size_us % _DAY_US or offset_us % _DAY_US:
        raise DefinitionError(
            "windows of a time zone are whole days, moved by whole days: parts of days of 23 and 25 hours have no "
            "length of their own",
            hint='Write "1d" or "7d"; for hours leave tz= out: they are the same in all zones, but for an offset=.',
        )
    try:
        _zone(tz)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError) as error:
        raise DefinitionError(
            f"{tz!r} is no time zone here: {error}", hint="Install tzdata, or mend the name."
        ) from None
    days = size_us // _DAY_US
    return Calendar(days, tz, offset_us // _DAY_US % days)


def sliding(size: Duration, every: Duration, *, offset: Duration = "0s") -> WindowKind:
    """Windows of one size, one starting every so often: a record is in ``size / every`` of them.

    Args:
        size: How long a window is.
        every: How far apart their starts are; not above the size.
        offset: Moves the windows' starts from 1970-01-01 00:00 UTC.
    """
    size_us, every_us = _size_us("the size of a sliding window", size), _size_us("every= of a sliding window", every)
    if every_us > size_us:
        raise DefinitionError(
            f"sliding windows of {size} every {every} leave out what lies between them",
            hint="Give an every= that is not above the size.",
        )
    return Sliding(size_us, every_us, duration_ms(offset) * 1000 % every_us)


def session(gap: Duration) -> WindowKind:
    """Windows that last as long as a key's records are no further apart than ``gap``."""
    return Session(_size_us("the gap of a session window", gap))


def count_window(size: int, every: int | None = None) -> WindowKind:
    """The last ``size`` records of a key, given at every ``every``-th record; by default side by side."""
    step = size if every is None else every
    if type(size) is not int or type(step) is not int or not 0 < step <= size:
        raise DefinitionError(f"count_window({size!r}, {every!r}) is no window", hint="Give 0 < every <= size.")
    return CountWindow(size, step)


def global_window() -> WindowKind:
    """One window per key that never ends: give `KeyedStream.window` an ``early=``, or ``emit="updates"``."""
    return GlobalWindow()
