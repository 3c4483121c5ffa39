"""Joins against their definitions: disorder, equal times, silent partitions, every cut, crashes in between."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import product
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

import streamflow as sf
from streamflow.runtime.settings import Settings
from streamflow.testing.harness import FlowTest
from tests.property_runs import examples
from tests.unit.operators.arrivals import IDLE, arrivals
from tests.unit.operators.feeding import through_silences, without_a_pause
from tests.unit.operators.join_reference import LEFT, RIGHT, Events, Record, in_sessions, in_windows, interval

BASE = 1_767_225_600
LATENESS = 2
PARTITIONS = ("a", "b")
PLACES = list(product((LEFT, RIGHT), PARTITIONS))
HOWS: tuple[Any, ...] = ("inner", "left", "right", "outer")
INTERVALS = [(4, 4), (6, 1), (0, 3), (0, 0), (7, -3), (-1, 5), (2, -2), (-6, 12), (40, -1)]
WINDOWS = [(10, 10, 0), (7, 7, 3), (10, 4, 0), (9, 3, 1)]
SESSIONS = [1, 3, 6, 12]
CUTS = {
    "one by one": Settings(fragment_rows_max=1),
    "sevens": Settings(fragment_rows_max=7, channel_fragments=1),
    "plain": Settings(plain=True),
    "whole": Settings(channel_fragments=64),
}
FEW = examples(12)

Joins = dict[str, tuple[str, Any]]
"""How each join joins, and its result."""


@st.composite
def inputs(draw: st.DrawFn) -> list[Record]:
    """Records in the order of arrival: time goes on, with disorder and equal times."""
    one = st.tuples(
        st.integers(0, 3), st.integers(-15, 3), st.integers(0, 1), st.sampled_from(PARTITIONS), st.integers(0, 2)
    )
    now, found = 30, []
    for number, (step, back, side, partition, key) in enumerate(draw(st.lists(one, max_size=60))):
        now += step
        found.append(Record(side, partition, str(key), max(0, now + back), number))
    return found


class Gave(NamedTuple):
    """What one join gave: its rows, the numbers of the late records of each side, and the keys it still holds."""

    rows: list[Any]
    late: list[list[int]]
    left: set[str]


def timed(ctx: sf.Context[Any, Any], pair: Any) -> tuple[Any, ...]:
    assert ctx.event_time is not None
    left, right = pair
    key = (left or right).key
    return key, _number(left), _number(right), round(ctx.event_time.timestamp()) - BASE


def _number(record: Record | None) -> int | None:
    return None if record is None else record.number


def in_window(row: Any) -> tuple[Any, ...]:
    left, right = row.value
    bounds = round(row.start.timestamp()) - BASE, round(row.end.timestamp()) - BASE
    return row.key, *bounds, _number(left), _number(right)


def joins_of(flow: sf.Flow, turn: int) -> tuple[list[Any], Joins]:
    """A flow with joins of every kind, each in one of the four ways; and one of a stream with itself."""
    sources = [
        flow.source(
            sf.MemoryTopic[Record](name, value=Record, partitions=PARTITIONS),
            time=lambda record: (BASE + record.at) * 1000,
            lateness=f"{LATENESS}s",
            idle=f"{IDLE}s",
            future_max="7d",
        )
        for name in ("left", "right")
    ]
    left, right = (source.key_by(lambda record: record.key, name=f"{source.name}-key") for source in sources)
    found: Joins = {}
    for at, (before, after) in enumerate(INTERVALS):
        how, name = HOWS[(at + turn) % 4], f"within-{before}-{after}"
        found[name] = how, left.join(right, within=(f"{before}s", f"{after}s"), how=how, name=name)
    for at, (size, every, offset) in enumerate(WINDOWS):
        kind = sf.sliding(f"{size}s", f"{every}s", offset=f"{offset}s")
        if size == every:
            kind = sf.tumbling(f"{size}s", offset=f"{offset}s")
        how, name = HOWS[(at + turn) % 4], f"window-{size}-{every}-{offset}"
        found[name] = how, left.join(right, window=kind, how=how, name=name)
    for at, gap in enumerate(SESSIONS):
        how, name = HOWS[(at + turn) % 4], f"session-{gap}"
        found[name] = how, left.join(right, window=sf.session(f"{gap}s"), how=how, name=name)
    return sources, found


async def run(records: Sequence[Record], how: Settings, turn: int, crashes: int = 0) -> dict[str, Gave]:
    """Runs all joins over records, which arrive one by one; it crashes at any turn of the loop."""
    flow = sf.Flow("property")
    sources, joins = joins_of(flow, turn)
    told = _told(joins)
    async with FlowTest(flow, how) as t:
        await without_a_pause(t, lambda record: sources[record.side], records, crashes)
        return await _gave(t, sources, joins, told)


async def _gave(t: FlowTest, sources: Sequence[Any], joins: Joins, told: dict[str, Any]) -> dict[str, Gave]:
    gave = {
        name: Gave(t.out(told[name]), [[r.number for r in t.out(late)] for late in join.late], set())
        for name, (_, join) in joins.items()
    }
    # what is closed is freed as time goes on
    for side, partition in PLACES:
        await t.send(sources[side], Record(side, partition, "later", 1000, -1), partition=partition)
    for name, (_, join) in joins.items():
        gave[name].left.update(t.state(join).keys() - {"later"})
    return gave


async def run_through_silences(events: Events, how: Settings, turn: int) -> dict[str, Gave]:
    """Runs all joins over records, each of which is a number of its own, with pauses and deaths."""
    flow = sf.Flow("silences")
    sources, joins = joins_of(flow, turn)
    told = _told(joins)
    async with FlowTest(flow, how) as t:
        await through_silences(t, lambda record: sources[record.side], events)
        return await _gave(t, sources, joins, told)


def _told(joins: Joins) -> dict[str, Any]:
    return {
        name: join.map(timed if name.startswith("within") else in_window, name=f"{name}-told")
        for name, (_, join) in joins.items()
    }


def check(records: Events, gave: dict[str, Gave], turn: int, about: str) -> None:
    """Holds what all joins gave against the definitions."""
    for at, within in enumerate(INTERVALS):
        name, how = f"within-{within[0]}-{within[1]}", HOWS[(at + turn) % 4]
        rows, late = interval(records, PLACES, LATENESS, within, how)
        _check(gave[name], rows, late, f"{about} {name} {how}")
    for at, window in enumerate(WINDOWS):
        name, how = "window-" + "-".join(map(str, window)), HOWS[(at + turn) % 4]
        pairs, late = in_windows(records, PLACES, LATENESS, window, how)
        _check(gave[name], pairs, late, f"{about} {name} {how}")
    for at, gap in enumerate(SESSIONS):
        name, how = f"session-{gap}", HOWS[(at + turn) % 4]
        pairs, late = in_sessions(records, PLACES, LATENESS, gap, how)
        _check(gave[name], pairs, late, f"{about} {name} {how}")
        ends = [row[2] for row in gave[name].rows]
        assert ends == sorted(ends), f"{about} {name} {how}"


def _check(gave: Gave, rows: Sequence[Any], late: list[list[int]], about: str) -> None:
    assert sorted(gave.rows, key=repr) == sorted(rows, key=repr), about
    assert list(map(sorted, gave.late)) == late, about
    assert gave.left == set(), about


@given(records=inputs(), turn=st.integers(0, 3))
@FEW
def test_joins_give_what_their_definition_says_whatever_the_cut(records: list[Record], turn: int) -> None:
    for name, how in CUTS.items():
        check(records, asyncio.run(run(records, how, turn)), turn, name)


@given(records=inputs(), turn=st.integers(0, 3))
@FEW
def test_joins_give_what_their_definition_says_through_crashes(records: list[Record], turn: int) -> None:
    check(records, asyncio.run(run(records, Settings(), turn, crashes=3)), turn, "crashes")


def _record(place: tuple[int, str], at: int, number: int, key: int) -> Record:
    return Record(*place, str(key), at, number)


@pytest.mark.parametrize("plain", [False, True], ids=["loop", "plain"])
@given(events=arrivals(PLACES, _record), turn=st.integers(0, 3))
@FEW
def test_partitions_that_fall_silent_hold_no_join_and_what_returns_is_held_against_that(
    plain: bool, events: list[Any], turn: int
) -> None:
    check(events, asyncio.run(run_through_silences(events, Settings(plain=plain), turn)), turn, "silences")
