"""Up to where event time is complete is seen from outside: per source, and per step by the sources upstream of it."""

from __future__ import annotations

import asyncio
import datetime
from pathlib import Path
from typing import Any

import streamflow as sf
from streamflow.runtime.event_time import LATEST_US
from streamflow.runtime.watermarks import Watermarks, _moment


def at(second: int) -> datetime.datetime:
    return datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC) + datetime.timedelta(seconds=second)


class Told(sf.Instrument):
    def __init__(self) -> None:
        self.steps: list[tuple[str, datetime.datetime | None]] = []
        self.sources: list[str] = []

    def step_watermark(self, step: str, at_us: int) -> None:
        self.steps.append((step, _moment(at_us)))

    def watermark(self, sources: str, at_us: int) -> None:
        self.sources.append(sources)


def flow_of(state: Path | None = None) -> tuple[sf.Flow, Any, Any, Any, list[sf.MemoryTopic[datetime.datetime]]]:
    flow = sf.Flow("seen", state=state)
    topics = [sf.MemoryTopic(name, value=datetime.datetime) for name in ("orders", "payments")]
    orders = flow.source(topics[0], time=lambda one: one, lateness="5s")
    payments = flow.source(topics[1], time=lambda one: one)
    flow.source(sf.MemoryTopic("plain", value=str))
    by_order = orders.key_by(lambda _: "k", name="by_order")
    counts = by_order.window(sf.tumbling("10s")).count(name="counts")
    by_order.join(payments.key_by(lambda _: "k", name="by_payment"), within="1m", name="paid")

    @by_order.process(state=int, name="reminds")
    def reminds(ctx: sf.Context[str, int], one: datetime.datetime) -> None:
        ctx.timer("due", after="20s")

    reminds.on_timer("due", time="event")(lambda ctx: [ctx.key])
    return flow, orders, payments, counts, topics


async def test_each_source_and_step_shows_its_own() -> None:
    flow, orders, payments, counts, _ = flow_of()
    async with flow.test() as t:
        assert t.watermarks() == Watermarks(
            {"orders": None, "payments": None}, {"counts": None, "paid": None, "reminds": None}
        )
        await t.send(orders, at(30))
        seen = t.watermarks()
        assert seen.sources == {"orders": at(25), "payments": None}
        assert seen.steps == {"counts": at(25), "paid": None, "reminds": at(25)}
        await t.send(payments, at(12))
        seen = t.watermarks()
        assert seen.sources == {"orders": at(25), "payments": at(12)}
        assert seen.steps == {"counts": at(25), "paid": at(12), "reminds": at(25)}
        await t.crash()
        assert t.watermarks() == seen
        assert t.out(counts) == []
        await t.advance("31s")  # silence: the window of 30 closes at 40, and pairs within a minute of it are over
        seen = t.watermarks()
        assert seen.sources == {"orders": at(25), "payments": at(12)}
        assert seen.steps["counts"] == at(40)
        assert [row.end for row in t.out(counts)] == [at(40)]
        assert seen.steps["paid"] is not None
        assert at(90) <= seen.steps["paid"] < at(91)


async def test_a_running_flow_shows_them_and_an_instrument_is_told(tmp_path: Path) -> None:
    flow, orders, payments, _, _ = flow_of(tmp_path / "seen.db")
    told = Told()
    async with flow.running(told) as run:
        assert set(run.watermarks().steps) == {"counts", "paid", "reminds"}
        await run.push(orders, at(30))
        await run.push(payments, at(31))
        assert run.watermarks().sources.keys() == {"orders", "payments"}
    assert all(step in {"counts", "paid", "reminds"} for step, _ in told.steps)


async def test_an_instrument_hears_of_each_step_once_per_move(tmp_path: Path) -> None:
    flow, _, _, _, topics = flow_of(tmp_path / "seen.db")
    told = Told()
    async with flow.running(told) as run:
        for second in (30, 30, 29, 35):
            topics[0].send(at(second))
        topics[1].send(at(32))
        for topic in topics:
            topic.close_input()
        while not all(run.watermarks().steps.values()):
            await asyncio.sleep(0.01)
    for name in ("counts", "paid", "reminds"):
        moments = [moment for step, moment in told.steps if step == name]
        assert moments == sorted(set(moments), key=lambda moment: moment or at(0))
        assert moments
    assert {"orders", "payments", "orders+payments"} <= set(told.sources)


def test_a_moment_behind_all_times_is_the_last_one() -> None:
    assert _moment(LATEST_US + 10**12) == datetime.datetime.max.replace(tzinfo=datetime.UTC)


async def test_a_flow_without_event_time_has_none() -> None:
    flow = sf.Flow("timeless")
    flow.source(sf.MemoryTopic("in", value=int)).map(str)
    async with flow.test() as t:
        assert t.watermarks() == Watermarks({}, {})
