"""Windows against their definitions: disorder, equal times, silent partitions, every cut, crashes in between."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

import streamflow as sf
from streamflow.runtime.settings import Settings
from streamflow.testing.harness import FlowTest
from tests.property_runs import examples
from tests.unit.operators.arrivals import IDLE, TICK, arrivals
from tests.unit.operators.feeding import through_silences, without_a_pause
from tests.unit.operators.window_reference import (
    Found,
    Record,
    Telling,
    aligned,
    before_silences,
    counted,
    sessions,
    starts_of,
    told,
)

BASE = 1_767_225_600
LATENESS = 2
GAP = 5
PARTITIONS = ("a", "b")
CUTS = {
    "one by one": Settings(fragment_rows_max=1),
    "sevens": Settings(fragment_rows_max=7, channel_fragments=1),
    "plain": Settings(plain=True),
    "whole": Settings(channel_fragments=64),
}
ALIGNED = [(10, 10, 0), (7, 7, 3), (10, 5, 0), (9, 3, 1), (10, 4, 0), (10, 1, 0)]
DAY = 86_400
DAYS = sf.tumbling("1d", tz="UTC")
COUNTS: list[tuple[int, int]] = [(3, 3), (4, 1), (6, 4), (1, 1)]
COUNTS_EARLY = [(5, 5, 2), (6, 4, 3), (None, None, 3)]
"""Of a window that never ends there is nothing but what it tells early."""
BY_RECORDS = [(10, 10, 0, 3), (10, 4, 0, 2), (9, 3, 1, 3), (10, 1, 0, 4)]
TELLINGS = [
    Telling(10, 10, records=3, allowed=4),
    Telling(10, 10, 3, seconds=3),
    Telling(10, 10, seconds=4, allowed=3),
    Telling(10, 4, records=2),
    Telling(9, 3, 1, records=3, allowed=5),
    Telling(10, 4, seconds=3),
    Telling(9, 3, 1, seconds=2, allowed=4),
    Telling(10, 1, seconds=4),
    Telling(12, 4, 2, seconds=8, allowed=30),
    Telling(10, 5, allowed=6),
]
FEW = examples(12)


@st.composite
def inputs(draw: st.DrawFn) -> list[Record]:
    """Records in the order of arrival: time goes on, with disorder and equal times."""
    one = st.tuples(st.integers(0, 4), st.integers(-25, 3), st.sampled_from(PARTITIONS), st.integers(0, 2))
    now, found = 30, []
    for number, (step, back, partition, key) in enumerate(draw(st.lists(one, max_size=60))):
        now += step
        found.append(Record(partition, str(key), max(0, now + back), number))
    return found


class Gave(NamedTuple):
    """What one window step gave: its rows, the numbers of the late records, and what it still holds."""

    rows: Found
    late: list[int]
    left: dict[Any, Any]


def source_of(flow: sf.Flow, lateness: int) -> Any:
    return flow.source(
        sf.MemoryTopic[Any]("in", partitions=PARTITIONS),
        time=lambda record: (BASE + record.at) * 1000,
        lateness=f"{lateness}s",
        idle=f"{IDLE}s",
        future_max="7d",
    )


def steps_of(flow: sf.Flow, lateness: int) -> tuple[Any, dict[str, Any]]:
    """A flow with a step of every kind of window; the keys of sessions and counts live in one partition each."""
    source = source_of(flow, lateness)
    mixed = source.key_by(lambda record: record.key, name="mixed")
    apart = source.key_by(lambda record: record.partition + record.key, name="apart")
    numbers: sf.Aggregator[Record, list[int], list[int]] = sf.collect(lambda record: record.number)
    found = {}
    for size, every, offset in ALIGNED:
        name = f"aligned-{size}-{every}-{offset}"
        found[name] = mixed.window(window_of(size, every, offset)).agg(numbers, name=name)
    found["day"] = mixed.window(DAYS).agg(numbers, name="day")
    found["session"] = apart.window(sf.session(f"{GAP}s")).agg(numbers, name="session")
    for size, every in COUNTS:
        name = f"count-{size}-{every}"
        found[name] = apart.window(sf.count_window(size, every)).agg(numbers, name=name)
    for full, slide, n in COUNTS_EARLY:
        name, counted_by = f"early-count-{full}-{slide}-{n}", sf.global_window()
        if full is not None:
            counted_by = sf.count_window(full, slide)
        found[name] = apart.window(counted_by, early=n).agg(numbers, name=name)
    for size, every, offset, n in BY_RECORDS:
        name = f"early-{size}-{every}-{offset}-{n}"
        found[name] = apart.window(window_of(size, every, offset), early=n).agg(numbers, name=name)
    return source, found


def window_of(size: int, every: int, offset: int) -> Any:
    if size == every:
        return sf.tumbling(f"{size}s", offset=f"{offset}s")
    return sf.sliding(f"{size}s", f"{every}s", offset=f"{offset}s")


async def run(records: Sequence[Record], how: Settings, crashes: int = 0, lateness: int = LATENESS) -> dict[str, Gave]:
    """Runs all steps over records, which arrive one by one; it crashes at any turn of the loop."""
    flow = sf.Flow("property")
    source, steps = steps_of(flow, lateness)
    async with FlowTest(flow, how) as t:
        await without_a_pause(t, lambda record: source, records, crashes)
        return {
            name: Gave([_plain(row) for row in t.out(step)], [r.number for r in t.out(step.late)], t.state(step))
            for name, step in steps.items()
        }


def _plain(row: Any) -> tuple[str, int, int, list[int]]:
    return row.key, round(row.start.timestamp()) - BASE, round(row.end.timestamp()) - BASE, row.value


def check(records: Sequence[Record], gave: dict[str, Gave], how: str) -> None:
    """Holds what all steps gave against the definitions."""
    for size, every, offset in ALIGNED:
        name = f"aligned-{size}-{every}-{offset}"
        _check(gave[name], *aligned(records, LATENESS, size, every, offset), f"{how} {name}")
    _check(gave["day"], *aligned(records, LATENESS, DAY, DAY, 0), f"{how} day")
    named = [Record(record.partition, record.partition + record.key, record.at, record.number) for record in records]
    _check(gave["session"], *sessions(named, LATENESS, GAP), f"{how} session")
    for size, every in COUNTS:
        rows = sorted((key, numbers) for key, _, _, numbers in gave[f"count-{size}-{every}"].rows)
        assert rows == sorted(counted(named, size, every)), f"{how} count {size} {every}"
    for name, rows in expected_early(named).items():
        # within a window, records are in the order of its panes
        found = sorted((key, sorted(numbers)) for key, _, _, numbers in gave[name].rows)
        assert found == sorted(rows), f"{how} {name}"
        assert gave[name].left == {} or "count" in name, f"{how} {name}"


def expected_early(named: Sequence[Record]) -> dict[str, list[tuple[str, list[int]]]]:
    """What windows tell at every so many records, besides their result, whatever the cut."""
    found: dict[str, list[tuple[str, list[int]]]] = {}
    for full, slide, n in COUNTS_EARLY:
        found[f"early-count-{full}-{slide}-{n}"] = counted(named, full, slide, n)
    for size, every, offset, n in BY_RECORDS:
        windows, _ = aligned(named, LATENESS, size, every, offset)
        rows = found[f"early-{size}-{every}-{offset}-{n}"] = []
        for key, _, _, numbers in windows:
            rows += [(key, numbers[:upto]) for upto in range(n, len(numbers) + 1, n)] + [(key, numbers)]
    return found


def _check(gave: Gave, rows: Found, late: list[int], how: str) -> None:
    found = sorted((key, start, end, sorted(numbers)) for key, start, end, numbers in gave.rows)
    assert found == sorted(rows), how
    assert sorted(gave.late) == late, how
    assert gave.left == {}, how


@given(records=inputs())
@FEW
def test_windows_hold_what_their_definition_says_whatever_the_cut(records: list[Record]) -> None:
    for name, how in CUTS.items():
        check(records, asyncio.run(run(records, how)), name)


@given(records=inputs())
@FEW
def test_windows_hold_what_their_definition_says_through_crashes(records: list[Record]) -> None:
    check(records, asyncio.run(run(records, Settings(), crashes=3)), "crashes")


# -- silence, and sessions that stay ----------------------------------------------------------------------------------


def _record(partition: Any, at: int, number: int, key: int) -> Record:
    return Record(partition, str(key), at, number)


EVENTS = arrivals(PARTITIONS, _record, begin=-60)


@pytest.mark.parametrize("plain", [False, True], ids=["loop", "plain"])
@given(events=EVENTS)
@FEW
def test_partitions_that_fall_silent_hold_no_window_and_what_returns_is_held_against_that(
    plain: bool, events: list[Any]
) -> None:
    flow = sf.Flow("silences")
    source, steps = steps_of(flow, LATENESS)
    gave = asyncio.run(run_through_silences(flow, source, steps, events, Settings(plain=plain)))
    records = [event for event in events if isinstance(event, Record)]
    for size, every, offset in [*ALIGNED, (DAY, DAY, 0)]:
        name = "day" if size == DAY else f"aligned-{size}-{every}-{offset}"

        def closes(at: float, size: int = size, every: int = every, offset: int = offset) -> float:
            return starts_of(int(at), size, every, offset)[-1] + size

        marks = before_silences(events, LATENESS, PARTITIONS, closes)
        _check(gave[name], *aligned(records, LATENESS, size, every, offset, marks), name)
    named = [Record(record.partition, record.partition + record.key, record.at, record.number) for record in records]
    marks = before_silences(events, LATENESS, PARTITIONS, lambda at: at + GAP + TICK)
    _check(gave["session"], *sessions(named, LATENESS, GAP, marks=marks), "session")
    for full, slide, n in [*((size, every, None) for size, every in COUNTS), *COUNTS_EARLY]:
        name = f"count-{full}-{slide}" if n is None else f"early-count-{full}-{slide}-{n}"
        assert sorted(row[0::3] for row in gave[name].rows) == sorted(counted(named, full, slide, n)), name


async def run_through_silences(
    flow: sf.Flow, source: Any, steps: dict[str, Any], events: Sequence[Any], how: Settings
) -> dict[str, Gave]:
    """Runs steps over records, each of which is a number of its own, with pauses and deaths."""
    async with FlowTest(flow, how) as t:
        await through_silences(t, lambda record: source, events)
        return {
            name: Gave([_plain(row) for row in t.out(step)], [r.number for r in t.out(step.late)], t.state(step))
            for name, step in steps.items()
        }


@pytest.mark.parametrize("plain", [False, True], ids=["loop", "plain"])
@given(events=EVENTS)
@FEW
def test_windows_tell_early_and_again_what_their_definition_says_in_its_order(plain: bool, events: list[Any]) -> None:
    flow = sf.Flow("tellings")
    source = source_of(flow, LATENESS)
    keyed = source.key_by(lambda record: record.key)
    steps = {}
    for at, how in enumerate(TELLINGS):
        early = how.records if how.seconds is None else f"{how.seconds}s"
        windows = keyed.window(
            window_of(how.size, how.every, how.offset), early=early, allowed_lateness=f"{how.allowed}s"
        )
        steps[f"s{at}"] = windows.agg(sf.collect(lambda record: record.number), name=f"s{at}")
    gave = asyncio.run(run_through_silences(flow, source, steps, events, Settings(plain=plain)))
    for at, how in enumerate(TELLINGS):
        rows, late = told(events, LATENESS, PARTITIONS, how)
        found = gave[f"s{at}"]
        assert [(key, start, end, sorted(numbers)) for key, start, end, numbers in found.rows] == rows, how
        assert found.late == late, how
        assert found.left == {}, how


ALLOWED = st.sampled_from([1, 4, 30])
EARLY = st.sampled_from([None, 2, "3s"])


@given(records=inputs(), allowed=ALLOWED, early=EARLY)
@FEW
def test_what_is_told_of_sessions_and_not_taken_back_is_what_they_are(
    records: list[Record], allowed: int, early: Any
) -> None:
    for crashes in (0, 3):
        told = asyncio.run(run_sessions(records, allowed, early, crashes))
        check_sessions(records, told, allowed, early)


@given(events=EVENTS, allowed=ALLOWED, early=EARLY)
@FEW
def test_sessions_stay_for_late_records_until_silence_ends_that_too(
    events: list[Any], allowed: int, early: Any
) -> None:
    flow = sf.Flow("sessions")
    source, met = met_of(flow, allowed, early)
    gave = asyncio.run(run_through_silences(flow, source, {"met": met}, events, Settings()))["met"]
    marks = before_silences(events, LATENESS, PARTITIONS, lambda at: at + GAP + TICK + allowed)
    check_sessions([event for event in events if isinstance(event, Record)], gave, allowed, early, marks)


def check_sessions(
    records: Sequence[Record], gave: Gave, allowed: int, early: Any, marks: Sequence[float] | None = None
) -> None:
    """Holds what stands of what was told against the definition."""
    named = [Record(r.partition, r.partition + r.key, r.at, r.number) for r in records]
    rows, late = sessions(named, LATENESS, GAP, allowed, marks)
    standing: dict[tuple[str, int, int], Any] = {}
    told: list[tuple[str, int, int, Any]] = list(gave.rows)
    for key, start, end, numbers in told:
        if numbers is None:
            assert early is not None or (key, start, end) in standing
            standing.pop((key, start, end), None)
        else:
            standing[key, start, end] = sorted(numbers)
    final = {(key, start, end): numbers for key, start, end, numbers in rows}
    # an early result of a session that went on is no final one
    assert final == {place: standing.get(place) for place in final} if early else standing == final
    assert sorted(gave.late) == late
    assert gave.left == {}


def met_of(flow: sf.Flow, allowed: int, early: Any) -> tuple[Any, Any]:
    source = source_of(flow, LATENESS)
    keyed = source.key_by(lambda record: record.partition + record.key)
    windows = keyed.window(sf.session(f"{GAP}s"), allowed_lateness=f"{allowed}s", early=early)
    return source, windows.agg(sf.collect(lambda record: record.number), name="met")


async def run_sessions(records: Sequence[Record], allowed: int, early: Any, crashes: int) -> Gave:
    flow = sf.Flow("sessions")
    source, met = met_of(flow, allowed, early)
    cuts = set(random.Random(len(records)).sample(range(len(records)), min(crashes, len(records))))
    async with FlowTest(flow) as t:
        for at, record in enumerate(records):
            if at in cuts:
                await t.crash()
            await t.send(source, record, partition=record.partition, settle=False)
        await t.settle()
        await t.advance("31s")
        return Gave([_plain(row) for row in t.out(met)], [r.number for r in t.out(met.late)], t.state(met))


@pytest.mark.parametrize("seed", range(3))
async def test_results_of_one_watermark_come_in_the_order_of_end_and_key(seed: int) -> None:
    chance = random.Random(seed)
    records = [Record("a", str(chance.randrange(30)), chance.randrange(100), number) for number in range(200)]
    gave = await run(records, Settings(), lateness=1000)
    for size, every, offset in ALIGNED:
        rows, _ = aligned(records, 1000, size, every, offset)
        assert [row[:3] for row in gave[f"aligned-{size}-{every}-{offset}"].rows] == [row[:3] for row in rows]
