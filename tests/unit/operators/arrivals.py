"""What arrives when: partitions that fall silent and come back, and where event time is then, from the documents alone.

All property tests of what goes by event time draw from here. A partition that gives nothing for `IDLE` seconds is not
waited for; it may return late or in time. Pauses are of processing time, in which nobody gives anything; the process
may die, after which silence counts anew.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from hypothesis import strategies as st

IDLE = 30
TICK = 1e-6
"""A microsecond: event time inside is whole ones."""

R = TypeVar("R")


@dataclass(frozen=True)
class Pause:
    """Nothing comes for so many seconds."""

    seconds: int


@dataclass(frozen=True)
class Death:
    """The process dies and starts again."""


@st.composite
def arrivals(
    draw: st.DrawFn,
    places: Sequence[Hashable],
    record: Callable[[Any, int, int, int], R],
    begin: int = 30,
    keys: int = 3,
    bound: int = 10,
) -> list[R | Pause | Death]:
    """Draws records in the order of arrival, with disorder and equal times, from some of the partitions at a time.

    Between two pauses only those partitions give records that are not silent then; so each may miss several pauses in
    a row, long ones and short ones, and come back with what others have left behind, or with what is new.

    Args:
        draw: Hypothesis.
        places: The partitions.
        record: Makes a record of its partition, event time in seconds, number, and a choice of key.
        begin: When event time begins.
        keys: How many keys there are.
        bound: Most records between two pauses.
    """
    one = st.tuples(st.integers(0, 4), st.integers(-25, 3), st.integers(0, len(places) - 1), st.integers(0, keys - 1))
    spell = st.tuples(
        st.sets(st.sampled_from(list(places)), min_size=1),
        st.lists(one, max_size=bound),
        st.sampled_from([0, 4, 13, 20, 29, 30, 31, 45]),
        st.integers(0, 5),
    )
    now, number, found = begin, 0, list[R | Pause | Death]()
    for heard, records, seconds, luck in draw(st.lists(spell, max_size=7)):
        giving = [place for place in places if place in heard]
        for step, back, turn, key in records:
            now += step
            found.append(record(giving[turn % len(giving)], now + back, number, key))
            number += 1
        found += [Death()] if luck == 0 else []
        found += [Pause(seconds)] if seconds else []
    return [*found, Pause(IDLE + 1)]


class EventTime:
    """Where event time is, in seconds, when each record is in a number of its own.

    The watermark of a partition is its latest event time minus the lateness; that of a step is the lowest of all that
    are waited for, and never goes back. When nobody is waited for, what can hold the latest record is closed.

    Args:
        places: The partitions of all sources upstream.
        lateness: What is waited for.
        closes: For each clock of interest: from the latest record to when nothing that holds it is open any more.
    """

    def __init__(self, places: Iterable[Hashable], lateness: int, *closes: Callable[[float], float]) -> None:
        self.latest = dict.fromkeys(places, float("-inf"))
        self.lateness = lateness
        self.now = 0.0
        self.silent: set[Hashable] = set()
        self.clocks = [float("-inf")] * len(closes)
        self._closes = closes
        self._since = dict.fromkeys(self.latest, 0.0)

    @property
    def clock(self) -> float:
        return self.clocks[0]

    def mark(self, place: Hashable) -> float:
        """The watermark of one partition."""
        return self.latest[place] - self.lateness

    def heard(self, place: Hashable, at: float) -> None:
        """A record came."""
        self.latest[place] = max(self.latest[place], at)
        self._since[place] = self.now
        self.silent.discard(place)
        self._move()

    def passes(self, event: Pause | Death, moved: Callable[[], None] = lambda: None) -> None:
        """Nobody gives anything; tells of each instant at which the clocks may have moved."""
        if isinstance(event, Death):
            self._since = dict.fromkeys(self._since, self.now)
            return
        until = self.now + event.seconds
        while True:
            waited = {place: since + IDLE for place, since in self._since.items() if place not in self.silent}
            self.now = min([until, *waited.values()])
            gone = {place for place, due in waited.items() if due <= self.now}
            if not gone:
                return
            self.silent |= gone
            self._move()
            moved()

    def _move(self) -> None:
        waited = [self.mark(place) for place in self.latest if place not in self.silent]
        latest = max(self.latest.values())
        if latest == float("-inf"):
            return
        for at, closes in enumerate(self._closes):
            to = min(waited) if waited else max(latest - self.lateness, closes(latest))
            self.clocks[at] = max(self.clocks[at], to)
