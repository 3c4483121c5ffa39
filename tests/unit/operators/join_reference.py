"""What joins must give, from their definitions alone: every record is held against every other, in no order."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

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


def marks(records: Sequence[Record], lateness: int) -> Iterator[tuple[Record, float]]:
    """Each record with the watermark of its own partition just before it."""
    latest: dict[tuple[int, str], float] = defaultdict(lambda: float("-inf"))
    for record in records:
        place = record.side, record.partition
        yield record, latest[place] - lateness
        latest[place] = max(latest[place], record.at)


def by_side(side: int, mine: int | None, other: int | None) -> tuple[int | None, int | None]:
    return (mine, other) if side == LEFT else (other, mine)


def interval(
    records: Sequence[Record], lateness: int, within: tuple[int, int], how: str
) -> tuple[list[Pair], list[list[int]]]:
    """An interval join: what it gives, in any order, and the numbers of the late records of each side."""
    before, after = within
    # what is behind its last match when it comes is alone from its own time on
    certain = max(0, after), max(0, before)
    taken: list[Record] = []
    late: list[list[int]] = [[], []]
    matched: set[int] = set()
    rows: list[Pair] = []
    for record, mark in marks(records, lateness):
        if record.at < mark:
            late[record.side].append(record.number)
            continue
        for other in taken:
            if other.key != record.key or other.side == record.side:
                continue
            left, right = (record, other) if record.side == LEFT else (other, record)
            if -before <= right.at - left.at <= after:
                rows.append((record.key, left.number, right.number, max(left.at, right.at)))
                matched |= {left.number, right.number}
        taken.append(record)
    alone = (record for record in taken if record.side in KEPT[how] and record.number not in matched)
    rows += [(one.key, *by_side(one.side, one.number, None), one.at + certain[one.side]) for one in alone]
    return rows, late


def in_windows(
    records: Sequence[Record], lateness: int, window: tuple[int, int, int], how: str
) -> tuple[list[PairInWindow], list[list[int]]]:
    """A window join: what it gives, by (end, key, left, right), and the numbers of the late records of each side."""
    size, every, offset = window
    held: dict[tuple[int, str, int], list[list[tuple[int, int]]]] = defaultdict(lambda: [[], []])
    late: list[list[int]] = [[], []]
    for record, mark in marks(records, lateness):
        starts = [start for start in range(record.at - size + 1, record.at + 1) if (start - offset) % every == 0]
        taken = [start for start in starts if start + size > mark]
        for start in taken:
            held[start + size, record.key, start][record.side].append((record.at, record.number))
        if not taken:
            late[record.side].append(record.number)
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
    records: Sequence[Record], lateness: int, gap: int, how: str
) -> tuple[list[PairInWindow], list[list[int]]]:
    """A session join: what it gives, by (end, key, left, right), and the numbers of the late records of each side."""
    late: list[list[int]] = [[], []]
    held: dict[str, list[tuple[int, int, Record]]] = defaultdict(list)
    for at, (record, mark) in enumerate(marks(records, lateness)):
        if record.at < mark:
            late[record.side].append(record.number)
        else:
            held[record.key].append((record.at, at, record))
    sessions: list[list[Record]] = []
    for one_key in held.values():
        before: int | None = None
        for at, _, record in sorted(one_key, key=lambda found: found[:2]):
            if before is None or at - before > gap:
                sessions.append([])
            sessions[-1].append(record)
            before = at
    rows: list[PairInWindow] = []
    for session in sorted(sessions, key=lambda session: (session[-1].at, session[0].key)):
        bounds = session[0].key, session[0].at, session[-1].at + gap
        lefts, rights = ([one.number for one in session if one.side == side] for side in (LEFT, RIGHT))
        if not rights and LEFT in KEPT[how]:
            rows += [(*bounds, left, None) for left in lefts]
        if not lefts and RIGHT in KEPT[how]:
            rows += [(*bounds, None, right) for right in rights]
        rows += [(*bounds, left, right) for left in lefts for right in rights]
    return rows, late
