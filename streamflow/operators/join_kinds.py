"""Kinds of joins, as data: which records match, and what is kept of those that wait for a match."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Final, Generic, TypeVar

import msgspec

from streamflow.batch import TIME_MIN
from streamflow.operators.window_kinds import Calendar, Session, Sliding, Tumbling, span

L = TypeVar("L")
R = TypeVar("R")

PRESERVED: Final = {"inner": (False, False), "left": (True, False), "right": (False, True), "outer": (True, True)}
"""By kind of join: whether left and whether right records come out that nothing matched."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A left and a right record match if the right one is no more than so much earlier, or later, than the left one.

    Both ends are part of it. All times are microseconds. One of them may be below 0: then the right record is at least
    so much later, or earlier; together they are not.
    """

    before_us: int
    after_us: int
    timed: ClassVar[bool] = True

    def __str__(self) -> str:
        if self.before_us == self.after_us:
            return f"within {span(self.before_us)}"
        if self.after_us < 0:
            return f"{span(self.before_us)} to {span(-self.after_us)} before"
        if self.before_us < 0:
            return f"{span(-self.before_us)} to {span(self.after_us)} after"
        return f"within {span(self.before_us)} before and {span(self.after_us)} after"

    @property
    def reaches_us(self) -> tuple[int, int]:
        """How much later than a record its last match can be: of a left one, and of a right one; below 0 earlier."""
        return self.after_us, self.before_us

    @property
    def stays_us(self) -> tuple[int, int]:
        """How much later than a record it is certain that nothing matches it: of a left one, and of a right one."""
        return max(0, self.after_us), max(0, self.before_us)

    def last_end(self, time_us: int) -> int:
        """The watermark at which no record of that time can match anything any more."""
        return time_us + max(self.stays_us) + 1


@dataclass(frozen=True, slots=True)
class AsOf:
    """A left record matches the latest right one that is not later than it. All times are microseconds.

    Args:
        within_us: It is no more than so much earlier; None is as early as it may be.
        allowed_us: So late a left record may be.
    """

    within_us: int | None = None
    allowed_us: int = 0
    timed: ClassVar[bool] = True

    def __str__(self) -> str:
        within = "" if self.within_us is None else f", no more than {span(self.within_us)} old"
        return f"as of its time{within}" + (f", allowed lateness {span(self.allowed_us)}" if self.allowed_us else "")

    def closes(self, time_us: int) -> int:
        """The watermark at which a left record of that time finds its version."""
        return time_us + 1

    def last_end(self, time_us: int) -> int:
        """The moment behind the time that a record of that time has when it comes out."""
        return time_us + 1


JoinKind = Interval | AsOf | Tumbling | Calendar | Sliding | Session


class Held(msgspec.Struct, Generic[L, R], omit_defaults=True):
    """A record that may still match others, as the side that it came by."""

    left: L | None = None
    right: R | None = None


class Told(Held[L, R], Generic[L, R], omit_defaults=True):
    """One of a join that also gives what nothing matched: whether something did."""

    matched: bool = False


class Placed(Held[L, R], Generic[L, R], omit_defaults=True):
    """One of a window join: the end of the first window that it counts in, where it was late for those before."""

    since_us: int = TIME_MIN


class Dated(Held[L, R], Generic[L, R], omit_defaults=True):
    """One of an as-of join: when it happened, where it counts only from later on."""

    at_us: int | None = None


def held_type(kind: JoinKind, how: str, left: Any, right: Any) -> Any:
    """The type of a join's entries."""
    if isinstance(kind, AsOf):
        return Dated[left, right]
    if not isinstance(kind, Interval):
        return Placed[left, right]
    return Held[left, right] if how == "inner" else Told[left, right]
