"""What windows must give, from their definitions alone: no panes, no state, no watermark but a running maximum."""

from __future__ import annotations

import datetime
import zoneinfo
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any


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
    events: Sequence[Record | None], lateness: int, partitions: Sequence[str], closes: Callable[[int], float]
) -> list[float]:
    """The same where all partitions fall silent between records, which None stands for.

    Then the clock of the step counts too: it goes by the partitions that are not silent, and closes what holds the
    latest record when all are.

    Args:
        events: Records, each in a number of its own.
        lateness: What is waited for.
        partitions: Those that there are.
        closes: From the latest record to when nothing that holds it is open any more.
    """
    latest = dict.fromkeys(partitions, float("-inf"))
    silent: set[str] = set()
    clock, found = float("-inf"), list[float]()
    for event in events:
        if event is None:
            silent = set(partitions)
            if max(latest.values()) > float("-inf"):
                clock = max(clock, closes(int(max(latest.values()))))
            continue
        found.append(max(clock, latest[event.partition] - lateness))
        latest[event.partition] = max(latest[event.partition], event.at)
        silent.discard(event.partition)
        clock = max(clock, min(at - lateness for name, at in latest.items() if name not in silent))
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
        starts = [start for start in range(record.at - size + 1, record.at + 1) if (start - offset) % every == 0]
        taken = [start for start in starts if start + size > mark]
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


def sessions(
    records: Sequence[Record], lateness: int, gap: int, allowed: int = 0, marks: Sequence[float] | None = None
) -> tuple[Found, list[int]]:
    """Sessions: a record joins every session of its key within the gap that its own watermark left open.

    Those that are over for no longer than ``allowed`` count as open.
    """
    found: list[dict[str, Any]] = []
    late = []
    for record, at_mark in before(records, lateness) if marks is None else zip(records, marks, strict=True):
        mark = at_mark - allowed
        if record.at + gap < mark:
            late.append(record.number)
            continue
        near = [
            session
            for session in found
            if session["key"] == record.key
            and session["first"] - gap <= record.at <= session["last"] + gap
            and session["last"] + gap >= mark
        ]
        for session in near:
            found.remove(session)
        times = [record.at, *(session["first"] for session in near), *(session["last"] for session in near)]
        numbers = sorted([record.number, *(number for session in near for number in session["numbers"])])
        found.append({"key": record.key, "first": min(times), "last": max(times), "numbers": numbers})
    rows = sorted((session["last"] + gap, session["key"], session["first"], session["numbers"]) for session in found)
    return [(key, first, end, numbers) for end, key, first, numbers in rows], late


def counted(records: Sequence[Record], size: int, every: int) -> list[tuple[str, list[int]]]:
    """Count windows: after a key's records number ``size``, ``size + every`` ... the last ``size`` of them."""
    kept: dict[str, list[int]] = defaultdict(list)
    rows = []
    for record in records:
        numbers = kept[record.key]
        numbers.append(record.number)
        if len(numbers) >= size and (len(numbers) - size) % every == 0:
            rows.append((record.key, numbers[-size:]))
    return rows
