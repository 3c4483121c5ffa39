"""Joins against results that others wrote down: Arroyo, Kafka Streams; clean and through crashes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import streamflow as sf
from streamflow.testing.harness import FlowTest
from tests.golden.test_window_cases import CARS, KAFKA, arroyo, fed, same, written

CRASHES = pytest.mark.parametrize(
    "crashes",
    [pytest.param(0, id="clean"), pytest.param(3, id="crashes"), pytest.param(20, id="many", marks=pytest.mark.long)],
)


# -- Arroyo -----------------------------------------------------------------------------------------------------------


def _driver(record: Any) -> int:
    found: int = record["driver_id"]
    return found


def drivers_per_hour() -> tuple[sf.Flow, Any, Any, Any]:
    """A flow with how many drivers dropped somebody off, and how many picked somebody up, in each hour."""
    flow, source = arroyo()
    hours = []
    for kind in ("dropoff", "pickup"):
        records = source.filter(lambda record, kind=kind: record["event_type"] == kind, name=kind)
        windows = records.key_by(lambda record: "all", name=f"{kind}-all").window(sf.tumbling("1h"))
        hours.append(windows.agg(sf.distinct(_driver), name=f"{kind}s"))
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


@pytest.mark.parametrize("crashes", [False, True], ids=["clean", "crashes"])
@pytest.mark.parametrize(("name", "how"), [("testInner", "inner"), ("testLeft", "left"), ("testOuter", "outer")])
async def test_kafka_streams_joins(name: str, how: Any, crashes: bool) -> None:
    """A null is no record for a join there, and no key for one here."""
    case = KAFKA[name]
    flow = sf.Flow("kafka")
    time: Callable[[Any], int] = lambda record: record["time"]  # noqa: E731
    sides = {
        side: flow.source(sf.MemoryTopic[Any](side), time=time, lateness=f"{case['grace']}ms")
        for side in ("left", "right")
    }
    left, right = (stream.key_by(lambda record: record["key"], name=f"{side}-key") for side, stream in sides.items())
    told = left.join(right, within=f"{case['size']}ms", how=how, name="joined").map(_told, name="told")
    seen = 0
    async with FlowTest(flow) as t:
        for (side, key, value, at), rows in zip(case["input"], case["steps"], strict=True):
            if key is None:
                assert all(row[0] in ("E-null", "null-e") for row in rows)
                continue
            if value is not None:
                await t.send(sides[side], {"key": key, "value": value, "time": at})
            found = t.out(told)
            assert found[seen:] == rows
            seen = len(found)
            if crashes:
                await t.crash()
        await t.advance("31s")
        assert len(t.out(told)) == seen > 0
