"""Joins against results that others wrote down: Arroyo, Kafka Streams; clean and through crashes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import streamflow as sf
from streamflow.testing.harness import FlowTest
from tests.golden.arroyo import CARS, arroyo, driver, same, written
from tests.golden.kafka_streams import CASES
from tests.golden.playing import CRASHES, die, fed, played

# -- Arroyo -----------------------------------------------------------------------------------------------------------


def drivers_per_hour() -> tuple[sf.Flow, Any, Any, Any]:
    """A flow with how many drivers dropped somebody off, and how many picked somebody up, in each hour."""
    flow, source = arroyo()
    hours = []
    for kind in ("dropoff", "pickup"):
        records = source.filter(lambda record, kind=kind: record["event_type"] == kind, name=kind)
        windows = records.key_by(lambda record: "all", name=f"{kind}-all").window(sf.tumbling("1h"))
        hours.append(windows.agg(sf.distinct(driver), name=f"{kind}s"))
    return flow, source, *hours


def _row(row: Any) -> Any:
    dropoffs, pickups = row.value
    return {"hour": written(row.start), "drivers": dropoffs.value, "pickups": pickups and pickups.value}


@CRASHES
@pytest.mark.parametrize(("how", "golden"), [("inner", "inner"), ("left", "outer"), ("outer", "outer")])
async def test_arroyo_windows_joined_in_windows(how: Any, golden: str, crashes: int) -> None:
    flow, source, dropoffs, pickups = drivers_per_hour()
    joined = dropoffs.join(pickups, window=sf.tumbling("1h"), how=how, name="joined")
    found = await fed(flow, source, CARS, crashes, joined)
    same(list(map(_row, found)), f"golden_windowed_{golden}_join.jsonl")


@CRASHES
async def test_arroyo_windows_joined_as_records_of_one_time(crashes: int) -> None:
    """What two windows of the same bounds give has the same time."""
    flow, source, dropoffs, pickups = drivers_per_hour()
    joined = dropoffs.join(pickups, within="0s", how="outer", name="joined")
    rows = [
        {"hour": written(dropoff.start), "drivers": dropoff.value, "pickups": pickup and pickup.value}
        for dropoff, pickup in await fed(flow, source, CARS, crashes, joined)
    ]
    same(rows, "golden_windowed_outer_join.jsonl")


# -- Kafka Streams ----------------------------------------------------------------------------------------------------


def _told(ctx: sf.Context[Any, Any], pair: Any) -> list[Any]:
    assert ctx.event_time is not None
    return [
        "-".join("null" if part is None else part["value"] for part in pair),
        round(ctx.event_time.timestamp() * 1000),
    ]


@CRASHES
@pytest.mark.parametrize(("name", "how"), [("testInner", "inner"), ("testLeft", "left"), ("testOuter", "outer")])
async def test_kafka_streams_joins(name: str, how: Any, crashes: int) -> None:
    """A null is no record for a join there, and no key for one here."""
    case = CASES[name]
    flow = sf.Flow("kafka")
    time: Callable[[Any], int] = lambda record: record["time"]  # noqa: E731
    sides = {
        side: flow.source(sf.MemoryTopic[Any](side), time=time, lateness=f"{case['grace']}ms")
        for side in ("left", "right")
    }
    left, right = (stream.key_by(lambda record: record["key"], name=f"{side}-key") for side, stream in sides.items())
    told = left.join(right, within=f"{case['size']}ms", how=how, name="joined").map(_told, name="told")
    steps = list(zip(case["input"], case["steps"], strict=True))

    async def feed(t: FlowTest, crashes: int) -> None:
        seen = 0
        for at, ((side, key, value, at_ms), rows) in enumerate(steps):
            if key is not None and value is not None:
                await t.send(sides[side], {"key": key, "value": value, "time": at_ms}, settle=False)
            await die(t, at, len(steps), crashes)
            await t.settle()
            if key is None:
                assert all(row[0] in ("E-null", "null-e") for row in rows)
                continue
            found = t.out(told)
            assert found[seen:] == rows
            seen = len(found)
        await t.advance("31s")
        assert len(t.out(told)) == seen > 0

    await played(flow, feed, crashes, told)
