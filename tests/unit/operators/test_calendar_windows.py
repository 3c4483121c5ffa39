"""Windows of days in a time zone against their definition, found by walking: over every kind of change of clocks."""

from __future__ import annotations

import asyncio
import datetime
from typing import Any

import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

import streamflow as sf
from streamflow.errors import DefinitionError
from streamflow.operators.window_kinds import Calendar
from streamflow.runtime.settings import Settings
from streamflow.testing.harness import FlowTest
from tests.unit.operators.feeding import without_a_pause
from tests.unit.operators.window_reference import Record, calendar, first_moment

HOUR, DAY = 3600, 86_400
LATENESS = 6 * HOUR

CHANGES = {
    "Europe/Berlin": ["2026-03-29", "2026-10-25"],
    "America/New_York": ["2026-03-08", "2026-11-01"],
    "Australia/Lord_Howe": ["2026-04-05", "2026-10-04"],  # by half an hour
    "Africa/Cairo": ["2025-04-25", "2025-10-31"],  # there is no midnight; 24:00 becomes 23:00
    "America/Havana": ["2026-03-08", "2026-11-01"],  # no midnight; the hour behind midnight comes twice
    "America/St_Johns": ["2006-04-02", "2006-10-29"],  # 00:01 becomes 23:01 of the day before
    "America/Sao_Paulo": ["2018-11-04", "2019-02-17"],
    "Pacific/Apia": ["2011-12-30"],  # a day that never was
    "Asia/Kathmandu": ["2026-06-01"],  # never changes, and is not on the hour
    "UTC": ["2026-06-01"],
}
PLACES = [(zone, day) for zone, days in CHANGES.items() for day in days]
SPANS = [(1, 0), (7, 0), (7, 4), (7, 6), (2, 1), (30, 12)]


def seconds(day: str) -> int:
    return int(datetime.datetime.fromisoformat(f"{day}T00:00:00+00:00").timestamp())


@given(place=st.sampled_from(PLACES), span=st.sampled_from(SPANS), apart=st.integers(-40 * 24 * 60, 40 * 24 * 60))
@example(place=("America/St_Johns", "2006-10-29"), span=(1, 0), apart=2 * 60 + 35)
@settings(max_examples=400, deadline=None)
def test_a_time_lies_in_the_window_of_its_day(place: tuple[str, str], span: tuple[int, int], apart: int) -> None:
    (zone, day), (days, offset) = place, span
    kind, at = Calendar(days, zone, offset), seconds(day) + apart * 60
    start, end = kind.start_of(at * 1_000_000) // 1_000_000, kind.end_of(kind.start_of(at * 1_000_000)) // 1_000_000
    assert start <= at < end
    ((_, expected_start, expected_end, _),), _ = calendar([Record("", "k", at, 0)], 0, days, zone, offset)
    assert (start, end) == (expected_start, expected_end)


@pytest.mark.parametrize(("zone", "day"), PLACES)
@pytest.mark.parametrize("span", SPANS)
def test_windows_lie_side_by_side(zone: str, day: str, span: tuple[int, int]) -> None:
    kind = Calendar(span[0], zone, span[1])
    start = kind.start_of((seconds(day) - 40 * DAY) * 1_000_000)
    for _ in range(80 // span[0]):
        end = kind.end_of(start)
        assert kind.start_of(start) == start < end
        assert kind.start_of(end - 1) == start
        assert kind.start_of(end) == end
        start = end


def test_what_the_changes_do_to_days() -> None:
    lengths = {
        (zone, day): (first_moment(seconds(day) // DAY + 1, zone) - first_moment(seconds(day) // DAY, zone)) / HOUR
        for zone, day in PLACES
    }
    assert lengths["Europe/Berlin", "2026-03-29"] == 23
    assert lengths["Europe/Berlin", "2026-10-25"] == 25
    assert lengths["Australia/Lord_Howe", "2026-04-05"] == 24.5
    assert lengths["Africa/Cairo", "2025-04-25"] == 23
    assert lengths["America/Havana", "2026-11-01"] == 25
    assert lengths["Pacific/Apia", "2011-12-30"] == 0


@st.composite
def inputs(draw: st.DrawFn) -> tuple[str, list[Record]]:
    """Records around a change of clocks, in the order of arrival: time goes on, with disorder and equal times."""
    zone, day = draw(st.sampled_from([place for place in PLACES if place[1] >= "2025"]))
    one = st.tuples(st.integers(0, 10 * HOUR), st.integers(-60 * HOUR, HOUR), st.sampled_from("ab"), st.integers(0, 1))
    now, found = seconds(day) - 3 * DAY, []
    for number, (step, back, partition, key) in enumerate(draw(st.lists(one, max_size=40))):
        now += step
        found.append(Record(partition, str(key), now + (back if back > -30 * HOUR else 0), number))
    return zone, found


FEW = settings(max_examples=6, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink])


@given(inputs())
@FEW
def test_a_flow_gives_what_the_definition_says(given: tuple[str, list[Record]]) -> None:
    zone, records = given
    for how, crashes in ((Settings(), 0), (Settings(plain=True), 0), (Settings(fragment_rows_max=1), 3)):
        gave = asyncio.run(run(zone, records, how, crashes))
        for days, offset in SPANS:
            rows, late = calendar(records, LATENESS, days, zone, offset)
            found, found_late, left = gave[days, offset]
            assert found == sorted(rows), (zone, days, offset)
            assert (found_late, left) == (late, {}), (zone, days, offset)


async def run(zone: str, records: list[Record], how: Settings, crashes: int) -> dict[tuple[int, int], Any]:
    flow = sf.Flow("days")
    source = flow.source(
        sf.MemoryTopic[Any]("in", partitions=("a", "b")),
        time=lambda record: record.at * 1000,
        lateness=f"{LATENESS}s",
        future_max="3650d",
    )
    keyed = source.key_by(lambda record: record.key)
    steps = {
        (days, offset): keyed.window(sf.tumbling(f"{days}d", tz=zone, offset=f"{offset}d")).agg(
            sf.collect(lambda record: record.number), name=f"d{days}-{offset}"
        )
        for days, offset in SPANS
    }
    async with FlowTest(flow, how) as t:
        await without_a_pause(t, lambda record: source, records, crashes)
        return {
            span: (
                sorted(
                    (row.key, int(row.start.timestamp()), int(row.end.timestamp()), sorted(row.value))
                    for row in t.out(step)
                ),
                sorted(record.number for record in t.out(step.late)),
                t.state(step),
            )
            for span, step in steps.items()
        }


async def test_weeks_begin_on_thursday_unless_they_are_moved() -> None:
    flow = sf.Flow("weeks")
    sales = flow.source(sf.MemoryTopic("sales"), time=datetime.datetime.fromisoformat, future_max="365d")
    keyed = sales.key_by(lambda _: "all")
    weeks = [
        keyed.window(sf.tumbling("7d", tz=tz, offset=offset)).count(name=f"{name}{offset}")
        for name, tz in (("berlin", "Europe/Berlin"), ("utc", None))
        for offset in ("0s", "4d")
    ]
    async with flow.test() as t:
        await t.send(sales, "2026-03-25T12:00:00+01:00")
        await t.advance("31s")
        begun = [t.out(week)[0].start for week in weeks]
    assert [day.isoformat() for day in begun] == [
        "2026-03-18T23:00:00+00:00",
        "2026-03-22T23:00:00+00:00",
        "2026-03-19T00:00:00+00:00",
        "2026-03-23T00:00:00+00:00",
    ]
    assert [begun[2].strftime("%A"), begun[3].strftime("%A")] == ["Thursday", "Monday"]


@pytest.mark.parametrize(("size", "offset"), [("6h", "0s"), ("1d", "6h"), ("36h", "0s")])
def test_parts_of_days_are_refused_with_the_reason(size: str, offset: str) -> None:
    with pytest.raises(DefinitionError, match="days of 23 and 25 hours") as told:
        sf.tumbling(size, tz="Europe/Berlin", offset=offset)
    assert "offset=" in told.value.hint
