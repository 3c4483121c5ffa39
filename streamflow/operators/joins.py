"""Joins: what all joins of two streams have in common. Records wait as entries of the step's table.

An entry's sub-key is (side, event time, ordinal among equal ones). What is kept besides - each key's records in the
order of time, and when to look at them - is derived from the entries, again after a restart.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from streamflow.batch import TIME_MAX, Watermark
from streamflow.graph import Step
from streamflow.keys import Key
from streamflow.operators.step_clock import SideClocks, StepClock
from streamflow.operators.windows import LATE, Fired
from streamflow.state.key_check import KeyCheck
from streamflow.state.keyed import Table

LEFT: Final = 0
RIGHT: Final = 1

Take = Callable[[Key, Any, Any, Any], Any]
"""Takes a record of one side: key, value, event time, watermark of its partition just before it."""


class Waiting:
    """The waiting records of one key, by side and in the order of (event time, arrival).

    BOUND: what the join holds for the key; see `Join`.
    """

    __slots__ = ("armed_us", "held", "times")

    def __init__(self) -> None:
        self.times: tuple[list[int], list[int]] = ([], [])
        self.held: tuple[list[Any], list[Any]] = ([], [])
        self.armed_us = TIME_MAX
        """When to look at them next."""

    def insert(self, side: int, time_us: int, held: Any) -> int:
        """Puts a record behind all that are not later; returns its ordinal among those of the same time."""
        times = self.times[side]
        at = bisect_right(times, time_us)
        times.insert(at, time_us)
        self.held[side].insert(at, held)
        return at - bisect_left(times, time_us, 0, at)

    def address(self, side: int, at: int) -> tuple[int, int, int]:
        """The sub-key of a record: side, time, ordinal among those of the same time."""
        times = self.times[side]
        return side, times[at], at - bisect_left(times, times[at], 0, at)


class Join(ABC):
    """One join step at run time.

    GUARANTEE: which records match depends on their event times and on how far each one's own partition was, not on
    where numbers end; records that are equal in time match in the order of their arrival. A record that can match
    nothing more has no entry.
    BOUND: the records whose last possible match the watermark has not passed, and ``max_keys``.

    Args:
        step: The step.
        table: Its table.
        clock: How far event time is there.
    """

    def __init__(self, step: Step, table: Table[Any], clock: StepClock | SideClocks) -> None:
        self.step = step
        self.clock = clock
        self.table = table
        self.waiting: dict[Key, Waiting] = {}
        self.late = 0
        table.indexes = False
        self._check = KeyCheck(step.name, step.options["key_type"])

    # -- what loops call --------------------------------------------------------------------------

    @abstractmethod
    def taker(self, side: int) -> Take:
        """What takes the records of one side: gives what they match, None for nothing, or `LATE`."""

    def advance(self, watermarks: Sequence[Watermark]) -> bool:
        """Moves the step's clock to what a number says at its end; says whether it moved."""
        return self.clock.advance(watermarks)

    @abstractmethod
    def closing(self) -> Iterator[Fired | None]:
        """Gives what the clock has decided and frees what can match nothing more; None is a place to pause at."""

    def careful_taker(self, side: int) -> Take:
        """`taker` under a policy other than stop: what cannot be stored is refused before anything has changed."""
        take, table, held_of = self.taker(side), self.table, self.holder(side)

        def attempt(key: Key, value: Any, time_us: Any, mark_us: Any) -> Any:
            address = (key, (side, time_us, 0))
            table.address(address)
            table.encoded(address, held_of(value))
            return take(key, value, time_us, mark_us)

        return attempt

    def installed(self) -> None:
        """Ends loading: finds each key's records, and when to look at them."""
        index = self.table.index
        for key in list(index)[:1]:
            self._check.check(key)
        for key, subs in index.items():
            waiting = self.waiting[key] = Waiting()
            for sub in sorted(subs):
                waiting.times[sub[0]].append(sub[1])
                waiting.held[sub[0]].append(self.table.peek((key, sub)))
            self.arm(key, waiting)
        index.clear()

    @abstractmethod
    def arm(self, key: Key, waiting: Waiting) -> None:
        """Finds out when to look at a key's records next."""

    # -- for the kinds ----------------------------------------------------------------------------

    @abstractmethod
    def holder(self, side: int) -> Callable[[Any], Any]:
        """Makes entries of one side's records."""

    def is_late(self) -> Any:
        """Counts a record that is too late to match anything."""
        self.late += 1
        return LATE

    def open(self, key: Key) -> Waiting:
        """Begins to keep records of a key.

        Raises:
            TypeError: The key is of another type than those before.
            StateFull: It would be one key more than ``max_keys`` allows.
        """
        self.check(key)
        if self.table.bound is not None:
            self.table.bound.admit(key)
        waiting = self.waiting[key] = Waiting()
        return waiting

    def check(self, key: Key) -> None:
        """Refuses a key of another type than those before.

        Raises:
            TypeError: It is.
        """
        if key.__class__ is not self._check.kind:
            self._check.check(key)

    def keep(self, side: int, key: Key, waiting: Waiting, time_us: int, held: Any) -> None:
        """Lets a record wait."""
        times = waiting.times[side]
        if not times or time_us > times[-1]:
            times.append(time_us)
            waiting.held[side].append(held)
            ordinal = 0
        else:
            ordinal = waiting.insert(side, time_us, held)
        if self.table.undo is None:
            # an entry that is new for certain: what was deleted under this time cannot come again, it would be late
            self.table.hot[key, (side, time_us, ordinal)] = held
        else:
            self.table.put((key, (side, time_us, ordinal)), held)

    def drop(self, side: int, key: Key, waiting: Waiting, count: int) -> None:
        """Forgets a key's first records on one side, all of the same time together."""
        times, forget = waiting.times[side], self.table.forget
        if count == 1:
            forget((key, (side, times.pop(0), 0)))
            waiting.held[side].pop(0)
            return
        before, ordinal = None, 0
        for time_us in times[:count]:
            ordinal = ordinal + 1 if time_us == before else 0
            before = time_us
            forget((key, (side, time_us, ordinal)))
        del times[:count], waiting.held[side][:count]

    def closed(self, key: Key, waiting: Waiting) -> bool:
        """Forgets a key that has no records any more; says whether it has none."""
        lefts, rights = waiting.times
        if lefts or rights:
            return False
        del self.waiting[key]
        if self.table.bound is not None:
            self.table.bound.known.discard(key)
        return True
