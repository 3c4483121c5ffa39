"""Identity: ctx.id is stable under regrouping, unique, differs per step, and seeds random and uuid."""

from __future__ import annotations

import asyncio
import datetime
import uuid
from typing import Any

import pytest

import streamflow as sf
from streamflow.flow import Flow
from tests.unit.plan.driving import drive

ROWS = [(at // 4, at % 2, at) for at in range(4, 40)]


def flow_with_ids() -> Flow:
    flow = Flow("f")
    first, second = (flow.source(sf.MemoryTopic(f"in{n}")) for n in range(2))

    def tell(ctx: sf.Context[Any, Any], value: Any) -> Any:
        at = ctx.headers.get("row")
        return (ctx.id, ctx.uuid(), ctx.random.random(), ctx.random.random(), at, ctx.now())

    both = first.flat_map(lambda v: [v] * (v % 4), name="many").merge(second)
    first.map(tell, name="straight").to(sf.MemoryTopic("straight"))
    both.map(tell, name="merged").to(sf.MemoryTopic("merged"))
    both.map_batch(lambda values: values, name="batch").map(tell, name="staged").to(sf.MemoryTopic("staged"))

    @both.key_by(lambda v: v % 3, name="key").process(state=int, outputs=[sf.Output("side", int)])
    def p(ctx: sf.Context[int, int], value: int) -> Any:
        ctx.timer("t", after=f"{value % 3}ms")
        ctx.emit(sf.Output("side", int), 1)
        ctx.emit(sf.Output("side", int), 2)
        return [tell(ctx, value)]

    p.on_timer("t")(lambda ctx: [tell(ctx, 0), (0,)])
    p.to(sf.MemoryTopic("process"))
    p.map(tell, name="behind").to(sf.MemoryTopic("behind"))
    p.output(sf.Output("side", int)).map(tell, name="aside").to(sf.MemoryTopic("aside"))
    return flow


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("size", [1, 7, 512])
def test_ids_are_the_same_in_every_grouping_and_executor(size, plain):
    expected = asyncio.run(drive(flow_with_ids(), ROWS)).sinks
    assert asyncio.run(drive(flow_with_ids(), ROWS, size=size, plain=plain, capacity=1)).sinks == expected


def test_ids_do_not_depend_on_the_number_they_come_in():
    expected = asyncio.run(drive(flow_with_ids(), ROWS)).sinks
    shifted = asyncio.run(drive(flow_with_ids(), [(at + (at > 5), source, value) for at, source, value in ROWS])).sinks
    assert {row[0] for row in shifted["merged"]} == {row[0] for row in expected["merged"]}


def test_ids_are_unique_and_differ_per_step():
    sinks = asyncio.run(drive(flow_with_ids(), ROWS)).sinks
    assert min(map(len, sinks.values())) > 10
    told = [row[0] for rows in sinks.values() for row in rows if len(row) > 1]
    assert len(set(told)) == len(told)
    assert all(len(id) == 32 for id in told)


def test_random_and_uuid_follow_from_the_id():
    sinks = asyncio.run(drive(flow_with_ids(), ROWS)).sinks
    for id, unique, one, two, _, now in sinks["straight"]:
        assert one == two
        assert unique == uuid.UUID(hex=id, version=4)
        assert now.tzinfo is datetime.UTC
    assert len({row[2] for row in sinks["straight"]}) == len(sinks["straight"])


def test_headers_are_those_of_the_record_that_led_here():
    sinks = asyncio.run(drive(flow_with_ids(), ROWS)).sinks
    assert [row[4] for row in sinks["straight"]] == [str(n) for n in range(1, len(sinks["straight"]) + 1)]
    assert {row[4] for row in sinks["behind"]} > {None}, "what a timer gives has no record"


def test_timers_need_a_handler_and_one_time():
    flow = Flow("f")
    calls: list[tuple[str, dict[str, Any]]] = [
        ("no", {"after": "1s"}),
        ("t", {}),
        ("t", {"after": "1s", "at": datetime.datetime.now(datetime.UTC)}),
    ]

    @flow.source(sf.MemoryTopic("in")).key_by(str, name="key").process(state=int)
    def p(ctx: sf.Context[str, int], value: int) -> list[str]:
        name, when = calls[value]
        with pytest.raises(sf.StreamflowError) as caught:
            ctx.timer(name, **when)
        with pytest.raises(sf.StreamflowError):
            ctx.emit(sf.Output("side", int), 1)
        return [str(caught.value)]

    p.on_timer("t")(lambda ctx: None)
    p.to(sf.MemoryTopic("out"))
    told = asyncio.run(drive(flow, [(1, 0, n) for n in range(3)])).sinks["out"]
    assert "no handler" in told[0]
    assert all("either after= or at=" in text for text in told[1:])
