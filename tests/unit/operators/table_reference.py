"""What tables, as-of joins and dedup by event time must give, from their definitions alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from tests.unit.operators.arrivals import TICK, Death, EventTime, Pause
from tests.unit.operators.join_reference import LEFT, RIGHT


@dataclass(frozen=True)
class Record:
    """One record: side, partition, key, event time in whole seconds, and a number of its own; some end their key."""

    side: int
    partition: str
    key: str
    at: int
    number: int
    gone: bool = False


Pair = tuple[int, int | None]
"""Number of the record, and of the one that it found."""


def value_of(record: Record) -> int | None:
    return None if record.gone else record.number


def looked_up(records: Sequence[Record], key_of: Callable[[Record], str | None]) -> list[Pair]:
    """Each left record, in order, with the last value of its key among the right ones before it."""
    table: dict[str | None, int | None] = {}
    found: list[Pair] = []
    for record in records:
        if record.side == RIGHT:
            table[record.key] = value_of(record)
        else:
            found.append((record.number, table.get(key_of(record))))
    return found


def walked_through(records: Sequence[Record], where: Callable[[int, int], bool]) -> list[Pair]:
    """Each left record, in order, with every value of the table that goes with it, by key; or with None."""
    table: dict[str, int] = {}
    found: list[Pair] = []
    for record in records:
        if record.side == RIGHT:
            table.pop(record.key, None)
            if not record.gone:
                table[record.key] = record.number
            continue
        values = [table[key] for key in sorted(table) if where(record.number, table[key])]
        found += [(record.number, value) for value in values] or [(record.number, None)]
    return found


def changes(records: Sequence[Record]) -> list[tuple[str, int | None, int | None]]:
    """What happened to the table: key, value before and after."""
    table: dict[str, int | None] = {}
    found = []
    for record in records:
        before, after = table.get(record.key), value_of(record)
        if record.side == RIGHT and (before is not None or after is not None):
            found.append((record.key, before, after))
            table[record.key] = after
    return found


class Version(NamedTuple):
    """A right record: since when it counts, and when it happened."""

    since: float
    at: int
    value: int | None


class AsOf(NamedTuple):
    """What an as-of join gives, in any order, and the numbers of the late records of each side."""

    rows: list[tuple[int, int | None, int]]
    late: list[list[int]]


Place = tuple[int, str]
"""Side and partition."""


def as_of(events: Sequence[Any], places: Sequence[Place], lateness: int, within: int | None, allowed: int) -> AsOf:
    """A left as-of join: number of the record and of what it found, and its time."""
    time = EventTime(places, lateness, lambda at: at + TICK)
    versions: dict[str, list[Version]] = defaultdict(list)
    waiting: list[Record] = []
    late: list[list[int]] = [[], []]
    for record in events:
        if isinstance(record, Pause | Death):
            time.passes(record)
            continue
        place, known = (record.side, record.partition), versions[record.key]
        bound = max(time.mark(place), time.clock)
        if record.at + allowed < bound:
            late[record.side].append(record.number)
        elif record.side == LEFT:
            waiting.append(record)
        elif record.at < bound and any(one.since <= bound and one.at > record.at for one in known):
            late[RIGHT].append(record.number)
        else:
            known.append(Version(max(bound, record.at), record.at, value_of(record)))
        time.heard(place, record.at)
    rows = []
    for record in waiting:
        # the last of those that count from the same time on is the one that came last
        found = [one for one in versions[record.key] if one.since <= record.at]
        latest = max((one.since for one in found), default=0)
        last = [one for one in found if one.since == latest][-1:]
        value = last[0].value if last and (within is None or record.at - latest <= within) else None
        rows.append((record.number, value, record.at))
    return AsOf(rows, late)


def first_of_each(events: Sequence[Any], places: Sequence[Place], lateness: int, within: int) -> list[int]:
    """Dedup by event time: the numbers of the records that pass, in order.

    Args:
        events: Records, pauses and deaths.
        places: The partitions of its source.
        lateness: What is waited for.
        within: How long an identity is remembered.
    """
    time = EventTime(places, lateness, lambda at: at + within)
    seen: dict[str, int] = {}
    found = []
    clock = time.clock

    def moved() -> None:
        nonlocal clock
        if time.clock > clock:
            clock = time.clock
            for key in [key for key, at in seen.items() if at + within <= clock]:
                del seen[key]

    for record in events:
        if isinstance(record, Pause | Death):
            time.passes(record, moved)
            continue
        mark = time.mark((record.side, record.partition))
        before = seen.get(record.key)
        if before is None or max(record.at, mark) >= before + within:
            found.append(record.number)
            if mark < record.at + within:
                seen[record.key] = record.at
        time.heard((record.side, record.partition), record.at)
        moved()
    return found
