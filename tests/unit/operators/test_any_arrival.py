"""What does not change results: sizes of batches and queues, commits, crashes; and arrival within the lateness."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import streamflow as sf
from streamflow.runtime.settings import Settings
from streamflow.testing.harness import FlowTest
from tests.property_runs import examples
from tests.unit.operators.feeding import without_a_pause
from tests.unit.operators.join_reference import LEFT, RIGHT, Record

BASE = 1_767_225_600
LATENESS = 6
PARTITIONS = ("a", "b")
PLACES = list(product((LEFT, RIGHT), PARTITIONS))
FEW = examples(8)
COMMITS: dict[str, dict[str, Any]] = {
    "every record": {"epoch_records_max": 1},
    "every ten": {"epoch_records_max": 10, "commit_min": "1h", "commit_max": "2h"},
    "at the end": {"commit_min": "1h", "commit_max": "2h"},
}


def steps_of(sources: Sequence[Any]) -> dict[str, Any]:
    """A step of each kind, with its late records; its results as rows that can be compared."""
    left, right = (source.key_by(lambda r: r.key, name=f"{source.name}-key") for source in sources)
    numbers: sf.Aggregator[Record, list[int], list[int]] = sf.collect(lambda r: r.number)
    windows = {
        "tumbling": left.window(sf.tumbling("10s")),
        "sliding": left.window(sf.sliding("10s", "4s")),
        "session": left.window(sf.session("3s")),
    }
    found: dict[str, Any] = {}
    for name, each in windows.items():
        result = each.agg(numbers, name=name)
        found[name] = result.map(lambda w: (w.key, str(w.start), str(w.end), sorted(w.value)), name=f"{name}-row")
        found[f"{name} late"] = result.late.map(lambda r: r.number, name=f"{name}-late")
    joins = {
        "within": left.join(right, within=("4s", "2s"), how="outer", name="within"),
        "earlier": left.join(right, within=("9s", "-2s"), how="outer", name="earlier"),
        "visits": left.join(right, window=sf.session("3s"), how="outer", name="visits"),
        "together": left.join(right, window=sf.tumbling("10s"), how="left", name="together"),
        "as-of": left.join_asof(right, how="left", name="as-of"),
    }
    for name, join in joins.items():
        found[name] = join.map(lambda pair: _pair(getattr(pair, "value", pair)), name=f"{name}-row")
        found[f"{name} late left"] = join.late.left.map(lambda r: r.number, name=f"{name}-late-left")
        found[f"{name} late right"] = join.late.right.map(lambda r: r.number, name=f"{name}-late-right")
    found["once"] = left.dedup(lambda r: f"{r.partition}{r.number // 3}", within="5s", time="event", name="once").map(
        lambda r: r.number, name="once-row"
    )
    return found


def _pair(pair: Any) -> tuple[int, int]:
    return tuple(-1 if one is None else one.number for one in pair)  # type: ignore[return-value]


def sources_of(flow: sf.Flow, **options: Any) -> list[Any]:
    return [
        flow.source(
            sf.MemoryTopic[Record](name, value=Record, partitions=PARTITIONS),
            time=lambda r: (BASE + r.at) * 1000,
            lateness=f"{LATENESS}s",
            **options,
        )
        for name in ("left", "right")
    ]


async def results(records: Sequence[Record], how: Settings, deaths: int = 0) -> dict[str, list[Any]]:
    """All results of all steps, and the late records; the process dies at any turn of the loop."""
    flow = sf.Flow("results")
    sources = sources_of(flow)
    steps = steps_of(sources)
    t = FlowTest(flow, how)
    t._settings = replace(t._settings, commit_min=how.commit_min, commit_max=how.commit_max)
    async with t:
        await without_a_pause(t, lambda record: sources[record.side], records, deaths)
    return {name: sorted(t.out(step)) for name, step in steps.items()}


def disordered(chance: random.Random, count: int) -> list[Record]:
    now, found = 50, []
    for number in range(count):
        now += chance.randrange(3)
        back = chance.choice([0, 0, 2, 5, 15])
        found.append(Record(*chance.choice(PLACES), str(chance.randrange(3)), now - back, number))
    # of an as-of join, keys whose versions come from two partitions would depend on which is read first
    return [replace(r, key=r.partition + r.key) for r in found]


@pytest.mark.parametrize("commits", COMMITS)
async def test_results_and_late_records_are_the_same_for_any_sizes_commits_and_deaths(commits: str) -> None:
    records = disordered(random.Random(7), 120)
    wanted = await results(records, Settings())
    for name in ("tumbling", "session", "within"):
        assert wanted[name], name
    for name in ("tumbling late", "sliding late", "within late left", "within late right"):
        assert wanted[name], name
    for batch, queue, deaths, plain in ((1, 1, 0, False), (1, 64, 4, False), (7, 1, 3, True), (512, 2, 5, False)):
        how = Settings(fragment_rows_max=batch, channel_fragments=queue, plain=plain, **COMMITS[commits])
        found = await results(records, how, deaths)
        assert found == wanted, (batch, queue, deaths, plain)


# -- any arrival within the lateness -----------------------------------------------------------------------------------


@st.composite
def two_arrivals(draw: st.DrawFn, least: int = 0) -> tuple[list[Record], list[Record]]:
    """The same records twice: by event time, and in an order in which none comes more than the lateness behind.

    Between two of them are so many seconds at least.
    """
    one = st.tuples(st.integers(least, 3), st.integers(0, 3), st.integers(0, 2), st.floats(0, LATENESS))
    now, drawn = 50, []
    for number, (step, place, key, delay) in enumerate(draw(st.lists(one, max_size=40))):
        now += step
        side, partition = PLACES[place]
        drawn.append((now + delay, Record(side, partition, str(key), now, number)))
    in_time = [record for _, record in drawn]
    return in_time, [record for _, record in sorted(drawn, key=lambda each: each[0])]


@given(both=two_arrivals())
@FEW
def test_what_goes_by_event_time_is_the_same_for_any_arrival_within_the_lateness(
    both: tuple[list[Record], list[Record]],
) -> None:
    first, second = (asyncio.run(results(records, Settings(fragment_rows_max=3))) for records in both)
    # which of several records of one identity or time is the first one is a matter of arrival
    for found in (first, second):
        del found["once"]
        as_of = found.pop("as-of")
        assert len(as_of) == sum(record.side == LEFT for record in both[0])
        assert not any(rows for name, rows in found.items() if "late" in name)
    assert first == second


async def ordered(records: Sequence[Record]) -> list[Any]:
    flow = sf.Flow("ordered")
    sources = sources_of(flow, order="time")

    @sf.merge(*sources, order="time").key_by(lambda r: r.key).process(state=list[int])
    def seen(ctx: sf.Context[str, list[int]], record: Record) -> Any:
        ctx.state.append(record.number)
        yield (record.key, list(ctx.state))

    async with FlowTest(flow, Settings(fragment_rows_max=2)) as t:
        for record in records:
            await t.send(sources[record.side], record, partition=record.partition, settle=False)
        await t.settle()
        await t.advance("31s")
        assert t.engine.mishaps.released_early.total() == 0
        return t.out(seen)


@given(both=two_arrivals(least=1))
@FEW
def test_with_an_order_of_time_the_order_is_the_same_for_any_arrival_within_the_lateness(
    both: tuple[list[Record], list[Record]],
) -> None:
    first, second = (asyncio.run(ordered(records)) for records in both)
    assert [row[1][-1] for row in first] == [record.number for record in both[0]]
    assert second == first
