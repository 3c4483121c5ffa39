"""Event-time timers: they fire at the end of the number whose watermark reaches them, by (due, key, name)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import streamflow as sf
from streamflow.errors import DefinitionError, StreamflowError
from streamflow.runtime.settings import Settings
from streamflow.testing.harness import FlowTest

BASE = 1_767_225_600
BOTH = pytest.mark.parametrize("plain", [False, True], ids=["loop", "plain"])


def timer_flow(on_error: sf.OnError = sf.stop, idle: str | None = "30s") -> tuple[sf.Flow, Any, Any]:
    """Records (key, second, after): a timer so many seconds after the record's event time; its handler counts down."""
    flow = sf.Flow("timers")
    records = flow.source(
        sf.MemoryTopic[Any]("in"), time=lambda record: (BASE + record[1]) * 1000, lateness="2s", idle=idle
    )

    @records.key_by(lambda record: record[0]).process(state=dict, on_error=on_error)
    def told(ctx: sf.Context[str, dict[str, Any]], record: Any) -> Iterator[Any]:
        ctx.state["left"] = record[3] if len(record) > 3 else 0
        ctx.timer("a", after=f"{record[2]}s")
        yield (ctx.key, "record", record[1])

    @told.on_timer("a", time="event")
    def fired(ctx: sf.Context[str, dict[str, Any]]) -> Iterator[Any]:
        assert ctx.event_time is not None
        second = round(ctx.event_time.timestamp()) - BASE
        if ctx.state["left"]:
            ctx.state["left"] -= 1
            ctx.timer("a", after="1s")
        if second == 13:
            raise ValueError("thirteen")
        yield (ctx.key, "timer", second)

    return flow, records, told


@BOTH
async def test_timers_fire_by_due_time_and_key_behind_the_records_of_the_number(plain: bool) -> None:
    flow, records, told = timer_flow()
    async with FlowTest(flow, Settings(plain=plain)) as t:
        await t.send(records, ("b", 0, 10), ("a", 0, 10), ("c", 0, 9))
        assert [row[1] for row in t.out(told)] == ["record"] * 3
        await t.crash()
        await t.send(records, ("z", 10, 1000))
        assert len(t.out(told)) == 4
        await t.send(records, ("z", 12, 1000))
        assert t.out(told)[4:] == [("z", "record", 12), ("c", "timer", 9), ("a", "timer", 10), ("b", "timer", 10)]


@BOTH
@pytest.mark.parametrize("size", [1, 512])
async def test_a_timer_that_sets_the_next_one_catches_up_whatever_the_jump(plain: bool, size: int) -> None:
    flow, records, told = timer_flow()
    async with FlowTest(flow, Settings(plain=plain, fragment_rows_max=size)) as t:
        await t.send(records, ("a", 0, 1, 5), ("z", 4, 1000), ("z", 7, 1000), ("z", 9, 1000), ("z", 12, 1000))
        assert [row for row in t.out(told) if row[1] == "timer"] == [("a", "timer", second) for second in range(1, 7)]


@BOTH
async def test_the_end_of_input_fires_what_is_set_and_not_what_is_set_then(plain: bool) -> None:
    flow, records, told = timer_flow()
    async with FlowTest(flow, Settings(plain=plain)) as t:
        await t.send(records, ("a", 0, 100, 3))
        t.topic(records).close_input()
        with pytest.raises(StreamflowError, match="the flow has ended"):
            await t.settle()
        assert t.out(told)[1:] == [("a", "timer", 100)]


async def test_silence_fires_only_what_is_due_by_the_latest_record() -> None:
    flow, records, told = timer_flow()
    async with FlowTest(flow) as t:
        await t.send(records, ("a", 0, 9), ("b", 0, 11), ("z", 10, 1000))
        await t.advance("31s")
        assert t.out(told)[3:] == [("a", "timer", 9)]


@BOTH
async def test_a_handler_that_raises_leaves_its_state_as_it_was(plain: bool) -> None:
    flow, records, told = timer_flow(sf.skip)
    async with FlowTest(flow, Settings(plain=plain)) as t:
        await t.send(records, ("a", 0, 13, 1), ("b", 0, 14), ("z", 40, 1000))
        assert [row for row in t.out(told) if row[1] == "timer"] == [("b", "timer", 14)]
        assert t.state(told)["a"] == {"left": 1}


async def test_one_name_has_one_handler_and_one_kind_of_time() -> None:
    _, _, told = timer_flow()
    with pytest.raises(DefinitionError, match="two handlers"):
        told.on_timer("a")(lambda ctx: None)
    with pytest.raises(DefinitionError, match="time="):
        told.on_timer("b", time="wall")


async def test_event_timers_on_records_without_event_time_are_refused() -> None:
    flow = sf.Flow("untimed")

    @flow.source(sf.MemoryTopic[Any]("in")).key_by(lambda _: "k").process(state=dict)
    def step(ctx: sf.Context[str, dict[str, Any]], record: Any) -> None:
        return None

    step.on_timer("late", time="event")(lambda ctx: None)
    with pytest.raises(DefinitionError, match="goes by event time, and source 'in' has none"):
        flow.plan()
