"""What joins must give, from their definitions alone: every record is held against every other, in no order."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tests.unit.operators.arrivals import TICK, Death, EventTime, Pause

LEFT, RIGHT = 0, 1


@dataclass(frozen=True)
class Record:
    """One record: side, partition, key, event time in whole seconds, and a number that is its own."""

    side: int
    partition: str
    key: str
    at: int
    number: int


Pair = tuple[str, int | None, int | None, int]
"""Key, number of the left and of the right record, time."""

PairInWindow = tuple[str, int, int, int | None, int | None]
"""Key, start and end of the window, number of the left and of the right record."""

KEPT = {"inner": (), "left": (LEFT,), "right": (RIGHT,), "outer": (LEFT, RIGHT)}


Events = Sequence[Any]
"""Records, pauses and deaths; without the latter two all records may be in numbers of any size."""


def by_side(side: int, mine: int | None, other: int | None) -> tuple[int | None, int | None]:
    return (mine, other) if side == LEFT else (other, mine)


def interval(
    events: Events, places: Sequence[tuple[int, str]], lateness: int, within: tuple[int, int], how: str
) -> tuple[list[Pair], list[list[int]]]:
    """An interval join: what it gives, in any order, and the numbers of the late records of each side.

    Each side is closed as far as the watermark is behind the last match that its records could have, and, when nobody
    is waited for, behind that of its latest record.
    """
    before, after = within
    reach = (after, before)
    # a match happens at the later of the two: the last one that a record can have is not before the record itself
    last = max(0, after), max(0, before)
    time = EventTime(places, lateness, lambda at: at + last[LEFT] + TICK, lambda at: at + last[RIGHT] + TICK)
    taken: list[Record] = []
    late: list[list[int]] = [[], []]
    matched: set[int] = set()
    rows: list[Pair] = []
    for record in events:
        if isinstance(record, Pause | Death):
            time.passes(record)
            continue
        place = record.side, record.partition
        if record.at < time.mark(place) or record.at + last[record.side] < time.clocks[record.side]:
            late[record.side].append(record.number)
            time.heard(place, record.at)
            continue
        for other in taken:
            closed = other.at + reach[other.side] < time.clocks[other.side]
            if other.key != record.key or other.side == record.side or closed:
                continue
            left, right = (record, other) if record.side == LEFT else (other, record)
            if -before <= right.at - left.at <= after:
                rows.append((record.key, left.number, right.number, max(left.at, right.at)))
                matched |= {left.number, right.number}
        taken.append(record)
        time.heard(place, record.at)
    alone = (record for record in taken if record.side in KEPT[how] and record.number not in matched)
    rows += [(one.key, *by_side(one.side, one.number, None), one.at + last[one.side]) for one in alone]
    return rows, late


def in_windows(
    events: Events, places: Sequence[tuple[int, str]], lateness: int, window: tuple[int, int, int], how: str
) -> tuple[list[PairInWindow], list[list[int]]]:
    """A window join: what it gives, by (end, key, left, right), and the numbers of the late records of each side."""
    size, every, offset = window
    time = EventTime(places, lateness, lambda at: (at - offset) // every * every + offset + size)
    held: dict[tuple[int, str, int], list[list[tuple[int, int]]]] = defaultdict(lambda: [[], []])
    late: list[list[int]] = [[], []]
    for record in events:
        if isinstance(record, Pause | Death):
            time.passes(record)
            continue
        place = record.side, record.partition
        bound = max(time.clock, time.mark(place))
        starts = [start for start in range(record.at - size + 1, record.at + 1) if (start - offset) % every == 0]
        taken = [start for start in starts if start + size > bound]
        for start in taken:
            held[start + size, record.key, start][record.side].append((record.at, record.number))
        if not taken:
            late[record.side].append(record.number)
        time.heard(place, record.at)
    rows: list[PairInWindow] = []
    for (end, key, start), sides in sorted(held.items()):
        lefts, rights = ([number for _, number in sorted(side)] for side in sides)
        if lefts and rights:
            rows += [(key, start, end, left, right) for left in lefts for right in rights]
        elif lefts and LEFT in KEPT[how]:
            rows += [(key, start, end, left, None) for left in lefts]
        elif rights and RIGHT in KEPT[how]:
            rows += [(key, start, end, None, right) for right in rights]
    return rows, late


def in_sessions(
    events: Events, places: Sequence[tuple[int, str]], lateness: int, gap: int, how: str
) -> tuple[list[PairInWindow], list[list[int]]]:
    """A session join: what it gives, by (end, key, left, right), and the numbers of the late records of each side.

    A session is over when the watermark is further than the gap behind its last record: nothing joins it then. A record
    is late if a session that it alone made would be over.
    """
    time = EventTime(places, lateness, lambda at: at + gap + TICK)
    held: dict[str, list[Record]] = defaultdict(list)
    late: list[list[int]] = [[], []]
    over: list[list[Record]] = []

    def moved() -> None:
        for key, records in held.items():
            sessions = _sessions(records, gap)
            ended = [session for session in sessions if session[-1].at + gap < time.clock]
            over.extend(ended)
            held[key] = [record for record in records if not any(record in session for session in ended)]

    for record in events:
        if isinstance(record, Pause | Death):
            time.passes(record, moved)
            continue
        place = record.side, record.partition
        if record.at < time.mark(place) or record.at + gap < time.clock:
            late[record.side].append(record.number)
        else:
            held[record.key].append(record)
        time.heard(place, record.at)
        moved()
    over += [session for records in held.values() for session in _sessions(records, gap)]
    rows: list[PairInWindow] = []
    for session in sorted(over, key=lambda session: (session[-1].at, session[0].key)):
        bounds = session[0].key, session[0].at, session[-1].at + gap
        lefts, rights = ([one.number for one in session if one.side == side] for side in (LEFT, RIGHT))
        if not rights and LEFT in KEPT[how]:
            rows += [(*bounds, left, None) for left in lefts]
        if not lefts and RIGHT in KEPT[how]:
            rows += [(*bounds, None, right) for right in rights]
        rows += [(*bounds, left, right) for left in lefts for right in rights]
    return rows, late


def _sessions(records: Sequence[Record], gap: int) -> list[list[Record]]:
    """Records of one key, in the order of arrival, by session and time: each no further than the gap from another."""
    found: list[list[Record]] = []
    for record in sorted(records, key=lambda record: record.at):
        if not found or record.at - found[-1][-1].at > gap:
            found.append([])
        found[-1].append(record)
    return found
