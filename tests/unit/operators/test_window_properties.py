"""Windows against their definitions: any disorder, equal times, several partitions, every cut, crashes in between."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any, NamedTuple

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import streamflow as sf
from streamflow.runtime.settings import Settings
from streamflow.testing.harness import FlowTest
from tests.unit.operators.window_reference import Found, Record, aligned, before_silences, counted, sessions

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
COUNTS = [(3, 3), (4, 1), (6, 4), (1, 1)]
FEW = settings(max_examples=12, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink])


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


def steps_of(flow: sf.Flow, lateness: int) -> tuple[Any, dict[str, Any]]:
    """A flow with a step of every kind of window; the keys of sessions and counts live in one partition each."""
    source = flow.source(
        sf.MemoryTopic[Any]("in", partitions=PARTITIONS),
        time=lambda record: (BASE + record.at) * 1000,
        lateness=f"{lateness}s",
        idle="30s",
    )
    mixed = source.key_by(lambda record: record.key, name="mixed")
    apart = source.key_by(lambda record: record.partition + record.key, name="apart")
    numbers: sf.Aggregator[Record, list[int], list[int]] = sf.collect(lambda record: record.number)
    found = {}
    for size, every, offset in ALIGNED:
        kind = sf.sliding(f"{size}s", f"{every}s", offset=f"{offset}s")
        if size == every:
            kind = sf.tumbling(f"{size}s", offset=f"{offset}s")
        name = f"aligned-{size}-{every}-{offset}"
        found[name] = mixed.window(kind).agg(numbers, name=name)
    found["session"] = apart.window(sf.session(f"{GAP}s")).agg(numbers, name="session")
    for size, every in COUNTS:
        name = f"count-{size}-{every}"
        found[name] = apart.window(sf.count_window(size, every)).agg(numbers, name=name)
    return source, found


async def run(records: Sequence[Record], how: Settings, crashes: int = 0, lateness: int = LATENESS) -> dict[str, Gave]:
    """Runs all steps over records, which arrive one by one; it crashes at any turn of the loop."""
    flow = sf.Flow("property")
    source, steps = steps_of(flow, lateness)
    cuts = set(random.Random(len(records)).sample(range(len(records)), min(crashes, len(records))))
    async with FlowTest(flow, how) as t:
        for at, record in enumerate(records):
            if at in cuts:
                for _ in range(at % 20):
                    await asyncio.sleep(0)
                await t.crash()
            await t.send(source, record, partition=record.partition, settle=False)
        await t.settle()
        await t.advance("31s")
        assert t.crashes == len(cuts)
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
    named = [Record(record.partition, record.partition + record.key, record.at, record.number) for record in records]
    _check(gave["session"], *sessions(named, LATENESS, GAP), f"{how} session")
    for size, every in COUNTS:
        rows = sorted((key, numbers) for key, _, _, numbers in gave[f"count-{size}-{every}"].rows)
        assert rows == sorted(counted(named, size, every)), f"{how} count {size} {every}"


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


@given(records=inputs(), silences=st.sets(st.integers(0, 59), max_size=4))
@FEW
def test_windows_close_when_all_is_silent_and_what_returns_is_held_against_that(
    records: list[Record], silences: set[int]
) -> None:
    events: list[Record | None] = []
    for at, record in enumerate(records):
        events += [None, record] if at in silences else [record]
    gave = asyncio.run(run_through_silences(events))
    for size, every, offset in ALIGNED:
        name = f"aligned-{size}-{every}-{offset}"

        def closes(at: int, size: int = size, every: int = every, offset: int = offset) -> float:
            return (at - offset) // every * every + offset + size

        marks = before_silences(events, LATENESS, PARTITIONS, closes)
        _check(gave[name], *aligned(records, LATENESS, size, every, offset, marks), name)
    named = [Record(record.partition, record.partition + record.key, record.at, record.number) for record in records]
    marks = before_silences(events, LATENESS, PARTITIONS, lambda at: at + GAP + 1e-6)
    _check(gave["session"], *sessions(named, LATENESS, GAP, marks=marks), "session")


async def run_through_silences(events: Sequence[Record | None]) -> dict[str, Gave]:
    flow = sf.Flow("silences")
    source, steps = steps_of(flow, LATENESS)
    async with FlowTest(flow) as t:
        for event in events:
            if event is None:
                await t.advance("31s")
            else:
                await t.send(source, event, partition=event.partition)
        await t.advance("31s")
        return {
            name: Gave([_plain(row) for row in t.out(step)], [r.number for r in t.out(step.late)], t.state(step))
            for name, step in steps.items()
        }


@given(records=inputs(), allowed=st.sampled_from([1, 4, 30]), early=st.sampled_from([None, 2, "3s"]))
@FEW
def test_what_is_told_of_sessions_and_not_taken_back_is_what_they_are(
    records: list[Record], allowed: int, early: Any
) -> None:
    rows, late = sessions(
        [Record(r.partition, r.partition + r.key, r.at, r.number) for r in records], LATENESS, GAP, allowed
    )
    for crashes in (0, 3):
        told, found_late, left = asyncio.run(run_sessions(records, allowed, early, crashes))
        standing: dict[tuple[str, int, int], Any] = {}
        for key, start, end, numbers in told:
            if numbers is None:
                assert early is not None or (key, start, end) in standing
                standing.pop((key, start, end), None)
            else:
                standing[key, start, end] = sorted(numbers)
        final = {(key, start, end): numbers for key, start, end, numbers in rows}
        # an early result of a session that went on is no final one
        assert final == {place: standing[place] for place in final} if early else standing == final
        assert sorted(found_late) == late
        assert left == {}


async def run_sessions(records: Sequence[Record], allowed: int, early: Any, crashes: int) -> tuple[Any, list[int], Any]:
    flow = sf.Flow("sessions")
    source = flow.source(
        sf.MemoryTopic[Any]("in", partitions=PARTITIONS),
        time=lambda record: (BASE + record.at) * 1000,
        lateness=f"{LATENESS}s",
        idle="30s",
    )
    keyed = source.key_by(lambda record: record.partition + record.key)
    windows = keyed.window(sf.session(f"{GAP}s"), allowed_lateness=f"{allowed}s", early=early)
    met = windows.agg(sf.collect(lambda record: record.number), name="met")
    cuts = set(random.Random(len(records)).sample(range(len(records)), min(crashes, len(records))))
    async with FlowTest(flow) as t:
        for at, record in enumerate(records):
            if at in cuts:
                await t.crash()
            await t.send(source, record, partition=record.partition, settle=False)
        await t.settle()
        await t.advance("31s")
        return [_plain(row) for row in t.out(met)], [r.number for r in t.out(met.late)], t.state(met)


@pytest.mark.parametrize("seed", range(3))
async def test_results_of_one_watermark_come_in_the_order_of_end_and_key(seed: int) -> None:
    chance = random.Random(seed)
    records = [Record("a", str(chance.randrange(30)), chance.randrange(100), number) for number in range(200)]
    gave = await run(records, Settings(), lateness=1000)
    for size, every, offset in ALIGNED:
        rows, _ = aligned(records, 1000, size, every, offset)
        assert [row[:3] for row in gave[f"aligned-{size}-{every}-{offset}"].rows] == [row[:3] for row in rows]
