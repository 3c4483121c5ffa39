"""Cells of event time: windows of every kind, late records, and event-time timers, with disorder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import streamflow as sf
from streamflow.flow import Flow
from streamflow.testing.simulation import Schedule
from tests.simulation.cell import Inputs, Outputs, key, topic
from tests.unit.operators.window_reference import Found, Record, aligned, counted, sessions

LATENESS = 3
GAP = 2
TIMER_SECONDS = 4


def second(value: int) -> int:
    """When a record happened: time goes on, and some records are late by much."""
    index = value % 1000
    return 100 + index + (index * 7) % 5 - (30 if index % 11 == 7 else 0)


def to_its_end(schedule: Schedule) -> Schedule:
    """The end of the input closes what is open; silence would depend on the pace."""
    return replace(schedule, closes=True)


def _timed(flow: Flow) -> sf.Stream[int]:
    return flow.source(topic("a"), time=lambda value: second(value) * 1000, lateness=f"{LATENESS}s", idle=None)


def windows() -> Flow:
    flow = Flow("windows")
    keyed = _timed(flow).key_by(key)
    counts = keyed.window(sf.tumbling("10s")).count(name="counts")
    counts.map(lambda row: [*_bounds(row), row.value], name="a-count").to(topic("counts", list[Any]))
    counts.late.to(topic("late"))
    sliding = keyed.window(sf.sliding("10s", "5s")).agg(sf.collect(kind=int), name="sliding")
    sliding.map_batch(lambda rows: rows).map(_row, name="a-slide").to(topic("sliding", list[Any]))
    met = keyed.window(sf.session(f"{GAP}s")).agg(sf.collect(kind=int), name="sessions")
    met.map(_row, name="a-session").to(topic("sessions", list[Any]))
    return flow


def _bounds(row: Any) -> list[Any]:
    return [row.key, round(row.start.timestamp()), round(row.end.timestamp())]


def _row(row: Any) -> list[Any]:
    return [*_bounds(row), sorted(row.value)]


def _records(values: Sequence[int]) -> list[Record]:
    return [Record("", key(value), second(value), value) for value in values]


def check_windows(inputs: Inputs, outputs: Outputs) -> None:
    records = _records(inputs["a"])
    rows, late = aligned(records, LATENESS, 10, 10, 0)
    assert sorted(outputs["counts"]) == sorted([k, start, end, len(numbers)] for k, start, end, numbers in rows)
    assert list(outputs["late"]) == late
    assert sorted(outputs["sliding"]) == _lists(aligned(records, LATENESS, 10, 5, 0)[0])
    assert sorted(outputs["sessions"]) == _lists(sessions(records, LATENESS, GAP)[0])


def _lists(rows: Found) -> list[list[Any]]:
    return sorted([k, start, end, sorted(numbers)] for k, start, end, numbers in rows)


def early() -> Flow:
    """Windows that tell early: by number in every cut the same, by event time as numbers end."""
    flow = Flow("early")
    keyed = _timed(flow).key_by(key)
    kinds = {
        "sliding": keyed.window(sf.sliding("10s", "5s"), early=2),
        "tumbling": keyed.window(sf.tumbling("10s"), early=3),
        "counts": keyed.window(sf.count_window(6, 4), early=4),
        "by-time": keyed.window(sf.sliding("10s", "4s"), early="3s"),
        "again": keyed.window(sf.sliding("10s", "5s"), early="4s", allowed_lateness="8s"),
    }
    for name, windows in kinds.items():
        told = windows.agg(sf.collect(kind=int), name=name)
        told.map(_row, name=f"a-{name}").to(topic(name, list[Any]))
    return flow


def check_early(inputs: Inputs, outputs: Outputs) -> None:
    records = _records(inputs["a"])
    for name, every, n in (("sliding", 5, 2), ("tumbling", 10, 3)):
        expected = []
        for k, start, end, numbers in aligned(records, LATENESS, 10, every, 0)[0]:
            parts = [numbers[:upto] for upto in range(n, len(numbers) + 1, n)]
            expected += [[k, start, end, sorted(part)] for part in [*parts, numbers]]
        assert sorted(outputs[name]) == sorted(expected), name
    found = [[row[0], row[3]] for row in outputs["counts"]]
    assert sorted(found) == sorted([k, sorted(numbers)] for k, numbers in counted(records, 6, 4, 4))
    for name, every, allowed in (("by-time", 4, 0), ("again", 5, 8)):
        final, _ = aligned(records, LATENESS + allowed, 10, every, 0)
        _check_tellings(outputs[name], final, again=bool(allowed))


def _check_tellings(rows: Sequence[Any], final: Found, *, again: bool) -> None:
    """Of each window something is told that grows, and at last the whole; early nothing twice, but for late records."""
    by_window: dict[tuple[str, int, int], list[list[int]]] = {}
    for k, start, end, numbers in rows:
        by_window.setdefault((k, start, end), []).append(numbers)
    assert by_window.keys() == {(k, start, end) for k, start, end, _ in final}
    for k, start, end, numbers in final:
        told = by_window[k, start, end]
        assert told[-1] == sorted(numbers), (k, start, end)
        for before, after in pairwise(told):
            assert set(before) <= set(after)
        early = told[:-1] if not again else []
        assert len(set(map(tuple, early))) == len(early), "nothing is told twice early"


def reminders() -> Flow:
    """A timer per record, so many seconds behind it, replaced by the next; some handlers set one more."""
    flow = Flow("reminders")

    @_timed(flow).key_by(key).process(state=int)
    def heard(ctx: sf.Context[str, int], value: int) -> Iterator[Any]:
        ctx.state += 1
        ctx.timer(f"n{value % 2}", after=f"{TIMER_SECONDS}s")
        return iter(())

    def fired(ctx: sf.Context[str, int]) -> Iterator[Any]:
        assert ctx.event_time is not None
        yield [ctx.key, round(ctx.event_time.timestamp()), ctx.state]

    heard.on_timer("n0", time="event")(fired)
    heard.on_timer("n1", time="event")(fired)
    heard.map_batch(lambda rows: rows).to(topic("out", list[Any]))
    return flow


def check_reminders(inputs: Inputs, outputs: Outputs) -> None:
    """Timers that were still set at the end fire with all records counted; no due time fires without its record."""
    records = _records(inputs["a"])
    last: dict[tuple[str, int], int] = {}
    for record in records:
        last[record.key, record.number % 2] = record.at + TIMER_SECONDS
    totals: dict[str, int] = {}
    for record in records:
        totals[record.key] = totals.get(record.key, 0) + 1
    set_ever = {(record.key, record.at + TIMER_SECONDS) for record in records}
    fired = [(row[0], row[1]) for row in outputs["out"]]
    assert set(fired) <= set_ever
    assert {(k, due) for (k, _), due in last.items()} <= set(fired)
    for k, due, count in outputs["out"]:
        assert 0 < count <= totals[k], (k, due)
    for name in totals:
        seen = [row[2] for row in outputs["out"] if row[0] == name]
        assert seen == sorted(seen)
