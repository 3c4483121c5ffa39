"""What windows must give, from their definitions alone: no panes, no state, no watermark but a running maximum."""

from __future__ import annotations

import datetime
import zoneinfo
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from tests.unit.operators.arrivals import EventTime


@dataclass(frozen=True)
class Record:
    """One record: partition, key, event time in whole seconds, and a number that is its own."""

    partition: str
    key: str
    at: int
    number: int


Found = list[tuple[str, int, int, list[int]]]
"""Key, start, end, numbers of the records: in the order of (end, key)."""


def before(records: Sequence[Record], lateness: int) -> Iterator[tuple[Record, float]]:
    """Each record with the watermark of its own partition just before it."""
    latest: dict[str, float] = defaultdict(lambda: float("-inf"))
    for record in records:
        yield record, latest[record.partition] - lateness
        latest[record.partition] = max(latest[record.partition], record.at)


def before_silences(
    events: Sequence[Any], lateness: int, partitions: Sequence[str], closes: Callable[[float], float]
) -> list[float]:
    """The same where partitions fall silent and return: up to when windows are closed for each record.

    Then the clock of the step counts too: it goes by the partitions that are not silent.

    Args:
        events: Records, each in a number of its own, pauses and deaths.
        lateness: What is waited for.
        partitions: Those that there are.
        closes: From the latest record to when nothing that holds it is open any more.
    """
    time, found = EventTime(partitions, lateness, closes), list[float]()
    for event in events:
        if isinstance(event, Record):
            found.append(max(time.clock, time.mark(event.partition)))
            time.heard(event.partition, event.at)
        else:
            time.passes(event)
    return found


def in_joint_order(records: Sequence[Record], lateness: int) -> list[Record]:
    """Records in the order of event time, then partition; one that is late stands where its watermark is."""
    places = [
        (max(record.at, mark), record.partition, order)
        for order, (record, mark) in enumerate(before(records, lateness))
    ]
    return [records[order] for _, _, order in sorted(places)]


def aligned(
    records: Sequence[Record],
    lateness: int,
    size: int,
    every: int,
    offset: int,
    marks: Sequence[float] | None = None,
) -> tuple[Found, list[int]]:
    """Tumbling and sliding windows, and the records that no window takes; ``marks`` where they are not `before`."""
    windows: dict[tuple[int, str, int], list[int]] = defaultdict(list)
    late = []
    for record, mark in before(records, lateness) if marks is None else zip(records, marks, strict=True):
        taken = [start for start in starts_of(record.at, size, every, offset) if start + size > mark]
        for start in taken:
            windows[start + size, record.key, start].append(record.number)
        if not taken:
            late.append(record.number)
    return [(key, start, end, numbers) for (end, key, start), numbers in sorted(windows.items())], late


def calendar(records: Sequence[Record], lateness: int, days: int, zone: str, offset: int) -> tuple[Found, list[int]]:
    """Windows of whole days in a zone: a day lasts from the first moment of its date to the first of a later one.

    Times of records are seconds since 1970 here.
    """
    windows: dict[tuple[int, str, int], list[int]] = defaultdict(list)
    late = []
    for record, mark in before(records, lateness):
        day = (_local(record.at, zone) - _DAY_0).days
        first = day - (day - offset) % days
        while first_moment(first, zone) > record.at:
            first -= days
        while first_moment(first + days, zone) <= record.at:
            first += days
        start, end = first_moment(first, zone), first_moment(first + days, zone)
        if end > mark:
            windows[end, record.key, start].append(record.number)
        else:
            late.append(record.number)
    return [(key, start, end, numbers) for (end, key, start), numbers in sorted(windows.items())], late


_DAY_0 = datetime.date(1970, 1, 1)


@cache
def first_moment(day: int, zone: str) -> int:
    """The first minute at which a zone's date is a day, counted from 1970-01-01, or a later one; found by walking."""
    date = _DAY_0 + datetime.timedelta(days=day)
    at = (day - 2) * 86_400
    while _local(at, zone) < date:
        at += 60
    return at


def _local(at: int, zone: str) -> datetime.date:
    return datetime.datetime.fromtimestamp(at, zoneinfo.ZoneInfo(zone)).date()


def starts_of(at: int, size: int, every: int, offset: int) -> range:
    """The starts of the windows that hold a time."""
    earliest = at - size + 1
    return range(earliest + (offset - earliest) % every, at + 1, every)


@dataclass(frozen=True)
class Telling:
    """When aligned windows tell: after how many records, or seconds, besides; and for how long they take late ones.

    Without ``final`` they do not tell when they close.
    """

    size: int
    every: int
    offset: int = 0
    records: int | None = None
    seconds: int | None = None
    allowed: int = 0
    final: bool = True


def told(
    events: Sequence[Any], lateness: int, partitions: Sequence[str], how: Telling
) -> tuple[list[tuple[str, int, int, list[int]]], list[int]]:
    """All that aligned windows tell, in order, and the late records, where each record is in a number of its own."""
    windows: dict[tuple[str, int], list[int]] = defaultdict(list)
    last: dict[tuple[str, int], int] = defaultdict(int)
    rows: list[tuple[str, int, int, list[int]]] = []
    late: list[int] = []
    # what is kept for late records is kept for them in silence too
    time = EventTime(partitions, lateness, lambda at: _last_end(at, how) + how.allowed)
    clock = time.clock

    def tell(key: str, start: int) -> None:
        numbers = windows[key, start]
        last[key, start] = len(numbers)
        rows.append((key, start, start + how.size, sorted(numbers)))

    def moved() -> None:
        nonlocal clock
        due = []
        for (key, start), numbers in windows.items():
            end = start + how.size
            if clock < end <= time.clock:
                due += [(end, key, start)] if how.final else []
            elif time.clock < end and how.seconds is not None and len(numbers) > last[key, start]:
                checks = (at for at in range(start + how.seconds, end, how.seconds) if clock < at <= time.clock)
                due += [(at, key, start) for at in [next(checks, None)] if at is not None]
        clock = time.clock
        for _, key, start in sorted(due):
            tell(key, start)

    for event in events:
        if not isinstance(event, Record):
            time.passes(event, moved)
            continue
        bound = max(clock, time.mark(event.partition)) - how.allowed
        taken = [at for at in starts_of(event.at, how.size, how.every, how.offset) if at + how.size > bound]
        for start in taken:
            windows[event.key, start].append(event.number)
            again = start + how.size <= clock
            if again or (how.records is not None and len(windows[event.key, start]) % how.records == 0):
                tell(event.key, start)
        if not taken:
            late.append(event.number)
        time.heard(event.partition, event.at)
        moved()
    return rows, late


def _last_end(at: float, how: Telling) -> int:
    return starts_of(int(at), how.size, how.every, how.offset)[-1] + how.size


@dataclass
class Session:
    """Records of a key that are near to each other."""

    key: str
    first: int
    last: int
    numbers: list[int]


def sessions(
    records: Sequence[Record], lateness: int, gap: int, allowed: int = 0, marks: Sequence[float] | None = None
) -> tuple[Found, list[int]]:
    """Sessions: a record joins every session of its key within the gap that its own watermark left open.

    Those that are over for no longer than ``allowed`` count as open.
    """
    found: list[Session] = []
    late = []
    for record, at_mark in before(records, lateness) if marks is None else zip(records, marks, strict=True):
        if not joined(found, record, gap, at_mark - allowed):
            late.append(record.number)
    rows = sorted((session.last + gap, session.key, session.first, session.numbers) for session in found)
    return [(key, first, end, numbers) for end, key, first, numbers in rows], late


def joined(found: list[Session], record: Record, gap: int, mark: float) -> list[Session]:
    """Puts a record into the sessions of a flow: gives those that it joined, then theirs; nothing if it is late."""
    if record.at + gap < mark:
        return []
    near = [
        session
        for session in found
        if session.key == record.key
        and session.first - gap <= record.at <= session.last + gap
        and session.last + gap >= mark
    ]
    for session in near:
        found.remove(session)
    times = [record.at, *(session.first for session in near), *(session.last for session in near)]
    numbers = sorted([record.number, *(number for session in near for number in session.numbers)])
    found.append(Session(record.key, min(times), max(times), numbers))
    return [*sorted(near, key=lambda session: session.first), found[-1]]


def session_updates(
    records: Sequence[Record], gap: int, allowed: int, marks: Sequence[float]
) -> list[tuple[str, int, int, list[int] | None]]:
    """All that sessions tell with every record: what was told with other bounds is taken back, by None, before."""
    found: list[Session] = []
    rows: list[tuple[str, int, int, list[int] | None]] = []
    for record, mark in zip(records, marks, strict=True):
        for session in (met := joined(found, record, gap, mark - allowed)):
            if session is met[-1]:
                rows.append((session.key, session.first, session.last + gap, session.numbers))
            elif (session.first, session.last) != (met[-1].first, met[-1].last):
                rows.append((session.key, session.first, session.last + gap, None))
    return rows


def counted(
    records: Sequence[Record], size: int | None, every: int | None, early: int | None = None
) -> list[tuple[str, list[int]]]:
    """Count windows: after a key's records number ``size``, ``size + every`` ... the last ``size`` of them.

    With ``early`` the window that is not full yet, too, whenever it holds a multiple of that; without ``size`` it
    never is.
    """
    kept: dict[str, list[int]] = defaultdict(list)
    rows = []
    for record in records:
        numbers = kept[record.key]
        numbers.append(record.number)
        full = size is not None and len(numbers) == size
        if full or (early is not None and len(numbers) % early == 0):
            rows.append((record.key, list(numbers)))
        if full:
            del numbers[:every]
    return rows
