"""A half-applied call under policy skip leaves nothing behind, in memory, in the store, after a crash: 10, not 109."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import streamflow as sf
from streamflow.clock import VirtualClock
from streamflow.flow import Flow
from tests.faults.traps.lives import BRISK, Lives

RECORDS = [1, 99, 2, 99, 3, 99, 4]
"""99 changes everything and raises then; the others make 10."""


def flow_of(source: sf.MemoryTopic[int], out: sf.MemoryTopic[Any], alarms: sf.MemoryTopic[Any]) -> Flow:
    flow = Flow("half")
    keyed = flow.source(source).key_by(lambda n: "k")

    @keyed.process(state=dict, ttl="1h", on_error=sf.skip)
    def value(ctx: sf.Context[str, dict[str, int]], n: int) -> Iterator[Any]:
        ctx.state["sum"] = ctx.state.get("sum", 0) + n
        ctx.timer("ring", after="10s" if n != 99 else "1s")
        yield ["value", ctx.state]
        if n == 99:
            ctx.cancel_timer("ring")
            ctx.state["bad"] = n
            raise ValueError("half way")

    @value.on_timer("ring")
    def ring(ctx: sf.Context[str, dict[str, int]]) -> Iterator[Any]:
        yield ["rung", ctx.state, ctx.now_ms]

    @keyed.process(state=sf.map_state(str, int), on_error=sf.skip)
    def items(ctx: sf.Context[str, sf.MapState[str, int]], n: int) -> Iterator[Any]:
        ctx.state["sum"] = ctx.state.get("sum", 0) + n
        if n == 99:
            ctx.state["bad"] = n
            del ctx.state["sum"]
            raise ValueError("half way")
        yield ["items", dict(ctx.state)]

    @keyed.process(state=sf.list_state(int), on_error=sf.skip)
    def queue(ctx: sf.Context[str, sf.ListState[int]], n: int) -> Iterator[Any]:
        ctx.state.append(n)
        if n == 99:
            ctx.state.drop(2)
            raise ValueError("half way")
        yield ["queue", list(ctx.state)]

    value.filter(lambda row: row[0] == "value", name="values").merge(items, queue, name="all").to(out)
    value.filter(lambda row: row[0] == "rung", name="rings").to(alarms)
    return flow


@pytest.mark.parametrize("kills", [[], ["commit.written", "commit.done"], ["stage.sealed", "publish.done"]])
@pytest.mark.parametrize("plain", [False, True])
async def test_it_is_ten(tmp_path: Path, kills: list[str], plain: bool) -> None:
    from dataclasses import replace

    source: sf.MemoryTopic[int] = sf.MemoryTopic("in", value=int)
    out: sf.MemoryTopic[Any] = sf.MemoryTopic("out")
    alarms: sf.MemoryTopic[Any] = sf.MemoryTopic("alarms")
    clock = VirtualClock()
    start_ms = clock.now_ms()
    settings = replace(BRISK, commit_min="0ms", plain=plain)
    lives = Lives(lambda: flow_of(source, out, alarms), tmp_path / "flow.db", settings, clock=clock)
    source.send_all(RECORDS)
    for point in kills:
        async with lives.life(point) as life:
            await life.until(lambda: False)
    async with lives.life() as life:
        await life.until(lambda: len(out) == 12)
        # the timer is the one that the last good call set: neither sooner, as a bad one asked, nor cancelled
        clock.advance_to(start_ms + 5_000)
        await life.turns()
        assert alarms.values == []
        clock.advance_to(start_ms + 10_000)
        await life.until(lambda: len(alarms) == 1)
        tables = life.engine.tables
        assert tables["value"].snapshot() == {"k": {"sum": 10}}
        assert tables["items"].snapshot() == {"k": {"sum": 10}}
        assert tables["queue"].snapshot() == {"k": dict(enumerate([1, 2, 3, 4]))}
    assert lives.kills == len(kills)
    sums = [1, 3, 6, 10]
    rows = {kind: [row[1] for row in out.values if row[0] == kind] for kind in ("value", "items", "queue")}
    assert rows["value"] == rows["items"] == [{"sum": total} for total in sums]
    assert rows["queue"] == [[1, 2, 3, 4][: at + 1] for at in range(4)]
    assert alarms.values == [["rung", {"sum": 10}, start_ms + 10_000]]
    # and so it is in the store
    async with lives.life() as life:
        await life.until(life.started)
        assert life.engine.tables["value"].snapshot() == {"k": {"sum": 10}}
        assert life.engine.tables["value@timers"].snapshot() == {}
