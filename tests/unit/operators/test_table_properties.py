"""Tables, as-of joins and dedup against their definitions: disorder, silent partitions, every cut, crashes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import streamflow as sf
from streamflow.runtime.settings import Settings
from streamflow.testing.harness import FlowTest
from tests.property_runs import examples
from tests.unit.operators.arrivals import IDLE, arrivals
from tests.unit.operators.feeding import through_silences, without_a_pause
from tests.unit.operators.join_reference import LEFT, RIGHT
from tests.unit.operators.table_reference import (
    Record,
    as_of,
    changes,
    first_of_each,
    looked_up,
    value_of,
    walked_through,
)

BASE = 1_767_225_600
LATENESS = 2
PARTITIONS = ("a", "b")
PLACES = [(side, partition) for side in (LEFT, RIGHT) for partition in PARTITIONS]
AS_OF = [(None, 0), (6, 0), (None, 3), (4, 5)]
DEDUP = [1, 5, 20]
CUTS = {
    "one by one": Settings(fragment_rows_max=1),
    "sevens": Settings(fragment_rows_max=7, channel_fragments=1),
    "plain": Settings(plain=True),
    "whole": Settings(channel_fragments=64),
}
FEW = examples(12)


@st.composite
def inputs(draw: st.DrawFn) -> list[Record]:
    """Records in the order of arrival; the right ones of a key come from one partition."""
    one = st.tuples(st.integers(0, 3), st.integers(-12, 3), st.integers(0, 1), st.integers(0, 3), st.booleans())
    now, found = 30, []
    for number, (step, back, side, key, gone) in enumerate(draw(st.lists(one, max_size=50))):
        now += step
        ends = gone and number % 3 == 0
        found.append(Record(side, PARTITIONS[key % 2], str(key), max(0, now + back), number, ends))
    return found


def goes_with(number: int, value: int) -> bool:
    return (number + value) % 2 == 0


def key_or_none(record: Record) -> str | None:
    return None if record.number % 5 == 0 else str((int(record.key) + 1) % 4)


Run = Callable[[sf.Flow, Sequence[Any]], Awaitable[FlowTest]]
"""Runs a flow to its end, with a source for each side; gives the test, stopped."""


def at_once(records: Sequence[Record], how: Settings, crashes: int) -> Run:
    """Records come without a pause; the flow dies at any turn of the loop."""

    async def run(flow: sf.Flow, sources: Sequence[Any]) -> FlowTest:
        async with FlowTest(flow, how) as t:
            await without_a_pause(t, lambda record: sources[record.side], records, crashes)
        return t

    return run


def one_by_one(events: Sequence[Any], how: Settings) -> Run:
    """Each record is a number of its own, with pauses and deaths."""

    async def run(flow: sf.Flow, sources: Sequence[Any]) -> FlowTest:
        async with FlowTest(flow, how) as t:
            await through_silences(t, lambda record: sources[record.side], events)
        return t

    return run


def _numbers(pairs: Sequence[tuple[Any, Any]]) -> list[tuple[int, int | None]]:
    return [(left.number, right) for left, right in pairs]


async def tables(run: Run) -> dict[str, list[Any]]:
    """All ways of looking a table up; both sides come from one partition, so their order is one."""
    flow = sf.Flow("tables")
    source = flow.source(
        sf.MemoryTopic[Record]("in", value=Record), time=lambda record: (BASE + record.at) * 1000, idle=f"{IDLE}s"
    )
    left, right = source.branch(lambda record: record.side == LEFT, sf.otherwise)
    rights = right.key_by(lambda record: record.key, name="by-key")
    table = rights.map(value_of).to_table(name="table")
    lefts = left.key_by(lambda record: record.key, name="left-by-key")
    behind = left.map_batch(lambda batch: batch, name="behind").key_by(lambda record: record.key, name="behind-by-key")
    late = rights.map(value_of, name="again").to_table(name="late-table")
    streams: dict[str, sf.Stream[Any]] = {
        "inner": lefts.join(table),
        "left": lefts.join(table, how="left"),
        "by": left.join_broadcast(table, by=key_or_none, how="left"),
        "where": left.join_broadcast(table, where=lambda record, value: goes_with(record.number, value), how="left"),
        "behind": behind.join(late, how="left", name="join-behind"),
    }

    @lefts.process(state=list, tables=[table])
    def in_step(ctx: sf.Context[str, list[int]], record: Record) -> list[tuple[Record, int | None, int]]:
        found = ctx.lookup(table, ctx.key)
        ctx.state.append(record.number)
        return [(record, found, len(ctx.state))]

    @left.map(tables=[table])
    def any_key(ctx: sf.Context[None, None], record: Record) -> tuple[Record, int | None]:
        return record, ctx.lookup(table, key_or_none(record))

    streams |= {"in step": in_step.map(lambda row: row[:2]), "any key": any_key}
    counted = in_step.map(lambda row: (row[0].key, row[2]), name="counted")
    changed = table.changes.map(lambda change: (change.before, change.after))
    keyed = table.changes.process(state=int, name="keyed")(lambda ctx, change: [(ctx.key, change.before, change.after)])
    t = await run(flow, (source, source))
    found = {name: _numbers(t.out(stream)) for name, stream in streams.items()}
    return found | {"changes": t.out(keyed), "changed": t.out(changed), "counted": t.out(counted)}


def _in_one_partition(record: Any) -> Any:
    return replace(record, partition="") if isinstance(record, Record) else record


def _expected(records: Sequence[Record]) -> dict[str, list[Any]]:
    left = looked_up(records, lambda record: record.key)
    changed = changes(records)
    any_key = looked_up(records, key_or_none)
    lefts = [record.key for record in records if record.side == LEFT]
    return {
        "inner": [pair for pair in left if pair[1] is not None],
        "left": left,
        "by": any_key,
        "where": walked_through(records, goes_with),
        "behind": left,
        "in step": left,
        "any key": any_key,
        "counted": [(key, lefts[: at + 1].count(key)) for at, key in enumerate(lefts)],
        "changes": changed,
        "changed": [row[1:] for row in changed],
    }


@pytest.mark.parametrize("how", CUTS.values(), ids=CUTS)
@FEW
@given(inputs(), st.integers(0, 2))
def test_tables_are_found_as_of_each_records_place(how: Settings, records: list[Record], crashes: int) -> None:
    run = at_once(list(map(_in_one_partition, records)), how, crashes)
    assert asyncio.run(tables(run)) == _expected(records)


async def by_time(run: Run) -> dict[str, Any]:
    """As-of joins of two sources, and dedup of one of them."""
    flow = sf.Flow("by-time")
    left, right = (
        flow.source(
            sf.MemoryTopic[Record](name, value=Record, partitions=PARTITIONS),
            time=lambda record: (BASE + record.at) * 1000,
            lateness=f"{LATENESS}s",
            idle=f"{IDLE}s",
        )
        for name in ("left", "right")
    )
    lefts = left.key_by(lambda record: record.key, name="left-key")
    rights = right.key_by(lambda record: record.key, name="right-key").map(value_of)
    joined = {
        (within, allowed): lefts.join_asof(
            rights,
            how="left",
            within=None if within is None else f"{within}s",
            allowed_lateness=f"{allowed}s",
            name=f"as-of-{within}-{allowed}",
            types=(Record, int | None),
        )
        for within, allowed in AS_OF
    }
    inner = lefts.join_asof(rights, name="inner", types=(Record, int | None))
    told = {name: join.map(_timed, name=f"told-{name[0]}-{name[1]}") for name, join in joined.items()}
    firsts = {
        span: left.dedup(lambda record: record.key, within=f"{span}s", time="event", name=f"dedup-{span}")
        for span in DEDUP
    }
    t = await run(flow, (left, right))
    found: dict[str, Any] = {}
    for name, join in joined.items():
        late = [[record.number for record in t.out(join.late.left)], t.out(join.late.right)]
        found[f"as of {name}"] = sorted(t.out(told[name])), late
        assert t.out(told[name]) == sorted(t.out(told[name]), key=lambda row: row[2]) or name[1]
    found["inner"] = sorted(_numbers(t.out(inner)))
    found["firsts"] = {
        span: {
            partition: [record.number for record in t.out(stream) if record.partition == partition]
            for partition in PARTITIONS
        }
        for span, stream in firsts.items()
    }
    return found


def _timed(ctx: sf.Context[Any, Any], pair: Any) -> tuple[int, int | None, int]:
    assert ctx.event_time is not None
    left, right = pair
    return left.number, right, round(ctx.event_time.timestamp()) - BASE


def _expected_by_time(events: Sequence[Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    records = [event for event in events if isinstance(event, Record)]
    lefts = [record for record in records if record.side == LEFT]
    values = {record.number: value_of(record) for record in records}
    for within, allowed in AS_OF:
        rows, (late_left, late_right) = as_of(events, PLACES, LATENESS, within, allowed)
        late = [late_left, [values[number] for number in late_right]]
        found[f"as of {(within, allowed)}"] = sorted(rows), late
    inner = as_of(events, PLACES, LATENESS, None, 0).rows
    found["inner"] = sorted((number, value) for number, value, _ in inner if value is not None)
    found["firsts"] = {span: {} for span in DEDUP}
    for span in DEDUP:
        left_events = [event for event in events if not isinstance(event, Record) or event.side == LEFT]
        passed = set(first_of_each(left_events, PLACES[:2], LATENESS, span))
        for partition in PARTITIONS:
            mine = [record.number for record in lefts if record.partition == partition]
            found["firsts"][span][partition] = [number for number in mine if number in passed]
    return found


@pytest.mark.parametrize("how", CUTS.values(), ids=CUTS)
@FEW
@given(inputs(), st.integers(0, 2))
def test_what_goes_by_event_time_is_as_defined(how: Settings, records: list[Record], crashes: int) -> None:
    check_by_time(asyncio.run(by_time(at_once(records, how, crashes))), _expected_by_time(records))


def check_by_time(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    for name, (rows, late) in ((name, found.pop(name)) for name in list(found) if name.startswith("as of")):
        assert rows == wanted[name][0], name
        assert sorted(late[LEFT]) == sorted(wanted[name][1][LEFT]), name
        assert sorted(late[RIGHT], key=str) == sorted(wanted.pop(name)[1][RIGHT], key=str), name
    assert found == wanted


# -- silence -----------------------------------------------------------------------------------------------------------


def _record(place: tuple[int, str], at: int, number: int, key: int) -> Record:
    side, partition = place
    # the right ones of a key come from one partition
    name = str(2 * (key // 2) + PARTITIONS.index(partition))
    return Record(side, partition, name, max(0, at), number, side == RIGHT and number % 4 == 0)


@pytest.mark.parametrize("plain", [False, True], ids=["loop", "plain"])
@FEW
@given(events=arrivals(PLACES, _record, keys=4))
def test_partitions_that_fall_silent_are_as_defined_when_they_return(plain: bool, events: list[Any]) -> None:
    how = Settings(plain=plain)
    check_by_time(asyncio.run(by_time(one_by_one(events, how))), _expected_by_time(events))


@FEW
@given(events=arrivals(PLACES, _record, keys=4))
def test_silence_changes_nothing_in_tables(events: list[Any]) -> None:
    found = asyncio.run(tables(one_by_one(list(map(_in_one_partition, events)), Settings())))
    assert found == _expected([event for event in events if isinstance(event, Record)])
