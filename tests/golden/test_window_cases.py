"""Windows against results that others wrote down: Arroyo, Kafka Streams, Beam, Wallaroo; clean and through crashes."""

from __future__ import annotations

import asyncio
import datetime
import gzip
import itertools
import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import streamflow as sf
from streamflow.testing.harness import FlowTest

DATA = Path(__file__).parent / "data"
MANY = pytest.param(20, id="20 crashes", marks=pytest.mark.long)
CRASHES = pytest.mark.parametrize("crashes", [pytest.param(0, id="clean"), pytest.param(3, id="3 crashes"), MANY])


def lines(name: str) -> list[Any]:
    path = DATA / name
    text = gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text()
    return [json.loads(line) for line in text.splitlines() if line]


CARS, IMPULSE = lines("arroyo/cars.jsonl.gz"), lines("arroyo/impulse.jsonl")
KAFKA = {case["name"]: case for case in json.loads((DATA / "kafka_streams/tables.json").read_text())}
BEAM = json.loads((DATA / "beam/transcripts.json").read_text())


async def fed(flow: sf.Flow, source: Any, records: Sequence[Any], crashes: int, result: Any) -> list[Any]:
    """What a stream gives of all records; the flow dies at work, and at last its input falls silent."""
    async with FlowTest(flow) as t:
        # where there are few records it dies several times between two of them
        cuts = [(len(records) * (at + 1) // (crashes + 1), 7 * at) for at in range(crashes)]
        for at, record in enumerate(records):
            for turns in (turns for cut, turns in cuts if cut == at):
                for _ in range(turns):
                    await asyncio.sleep(0)
                await t.crash()
            await t.send(source, record, settle=False)
        await t.settle()
        await t.advance("31s")
        assert t.crashes == crashes
        return t.out(result)


# -- Arroyo -----------------------------------------------------------------------------------------------------------


def moment(record: Any) -> datetime.datetime:
    return datetime.datetime.fromisoformat(record["timestamp"])


def written(time: datetime.datetime) -> str:
    return time.replace(tzinfo=None).isoformat(timespec="milliseconds" if time.microsecond else "seconds")


def arroyo(lateness: str = "1h") -> tuple[sf.Flow, Any]:
    flow = sf.Flow("arroyo")
    return flow, flow.source(sf.MemoryTopic[Any]("in"), time=moment, lateness=lateness)


def same(rows: list[Any], name: str) -> None:
    def order(row: Any) -> str:
        return json.dumps(row, sort_keys=True)

    assert sorted(rows, key=order) == sorted(lines(f"arroyo/{name}"), key=order)


@CRASHES
async def test_arroyo_sessions_per_user(crashes: int) -> None:
    flow, source = arroyo()
    users = source.key_by(lambda r: 0 if r["counter"] % 10 == 0 else r["counter"])
    sessions = users.window(sf.session("20s")).count(name="sessions")
    rows = [
        {"user_id": row.key, "start": written(row.start), "end": written(row.end), "rows": row.value}
        for row in await fed(flow, source, IMPULSE, crashes, sessions)
    ]
    same(rows, "golden_session_window.jsonl")


@CRASHES
async def test_arroyo_one_session_of_all(crashes: int) -> None:
    flow, source = arroyo()
    sessions = source.key_by(lambda r: "all").window(sf.session("20s")).count(name="sessions")
    found = await fed(flow, source, IMPULSE, crashes, sessions)
    rows = [{"start": written(row.start), "end": written(row.end), "rows": row.value} for row in found]
    same(rows, "golden_global_session_window.jsonl")


@CRASHES
async def test_arroyo_sliding_windows(crashes: int) -> None:
    flow, source = arroyo()
    numbers = {"min": sf.min(_counter), "max": sf.max(_counter)}
    sliding = source.key_by(lambda r: "all").window(sf.sliding("10s", "2s"))
    stats = sliding.agg(name="stats", count=sf.count(), **numbers)
    found = await fed(flow, source, IMPULSE, crashes, stats)
    rows = [{"start": written(row.start), "end": written(row.end), **row.value} for row in found]
    same(rows, "golden_sliding_window_end.jsonl")


def _counter(record: Any) -> int:
    found: int = record["counter"]
    return found


@CRASHES
async def test_arroyo_counts_per_hour_and_type(crashes: int) -> None:
    flow, source = arroyo()
    hours = source.key_by(lambda r: r["event_type"]).window(sf.tumbling("1h")).count(name="hours")
    found = await fed(flow, source, CARS, crashes, hours)
    rows = [{"event_type": row.key, "hour": written(row.start), "count": row.value} for row in found]
    same(rows, "golden_hourly_by_event_type.jsonl")


@CRASHES
async def test_arroyo_counts_per_hour_under_a_tight_watermark(crashes: int) -> None:
    flow, source = arroyo("0s")
    hours = source.key_by(lambda r: "all").window(sf.tumbling("1h")).count(name="hours")
    found = await fed(flow, source, CARS, crashes, hours)
    same([{"timestamp": written(row.end), "count": row.value} for row in found], "golden_tight_watermark.jsonl")


async def test_arroyo_a_month_under_a_loose_watermark() -> None:
    flow, source = arroyo()
    months = source.key_by(lambda r: "all").window(sf.tumbling("30d")).count(name="months")
    found = await fed(flow, source, CARS, 0, months)
    same([{"month": written(row.start), "count": row.value} for row in found], "golden_month_loose_watermark.jsonl")


@pytest.mark.long
@CRASHES
async def test_arroyo_the_most_active_driver_of_each_last_hour(crashes: int) -> None:
    flow, source = arroyo()
    per_driver = source.key_by(lambda r: r["driver_id"], name="driver").window(sf.sliding("1h", "1m"))
    counts = per_driver.count(name="counts")
    rank: Callable[[Any], Any] = lambda row: (row.value, row.key)  # noqa: E731
    best = counts.key_by(lambda row: "all", name="all").window(sf.tumbling("1m"))
    rows = []
    for row in await fed(
        flow, source, CARS, crashes, best.agg(sf.top_k(1, rank, kind=sf.Windowed[int, int]), name="best")
    ):
        first = row.value[0]
        times = {"start": written(first.start), "end": written(first.end)}
        rows.append({"driver_id": first.key, "count": first.value, "row_number": 1, **times})
    same(rows, "golden_most_active_driver_last_hour.jsonl.gz")


async def test_arroyo_every_aggregate_that_there_is() -> None:
    flow, source = arroyo()

    def driver(record: Any) -> int:
        found: int = record["driver_id"]
        return found

    stats = source.key_by(lambda r: r["event_type"]).agg(
        name="stats",
        cnt=sf.count(),
        avg_driver=sf.mean(driver),
        max_driver=sf.max(driver),
        min_driver=sf.min(driver),
        sum_driver=sf.sum(driver),
        var_driver=sf.variance(driver),
        var_pop_driver=sf.variance(driver, sample=False),
        approx_distinct_driver=sf.approx_distinct(driver),
        median_driver=sf.quantiles(driver, [0.5]),
        exact=sf.distinct(driver),
    )
    last = dict(await fed(flow, source, CARS, 0, stats))
    expected = {}
    for row in lines("arroyo/golden_every_aggregate.jsonl"):
        expected[row["after"]["event_type"]] = row["after"]
    assert last.keys() == expected.keys()
    for kind, found in last.items():
        assert found.pop("exact") == expected[kind]["approx_distinct_driver"]
        assert abs(found.pop("median_driver")[0] - expected[kind]["median_driver"]) <= 2
        for name, value in found.items():
            assert round(value, 4) == expected[kind][name], name


# -- Kafka Streams ----------------------------------------------------------------------------------------------------


def kafka(case: Any, kind: Any, **window: Any) -> tuple[sf.Flow, Any, Any]:
    flow = sf.Flow("kafka")
    grace = case["grace"]
    source = flow.source(sf.MemoryTopic[Any]("in"), time=lambda record: record[1], lateness=f"{grace}ms", idle=None)
    return flow, source, source.key_by(lambda r: r[0]).window(kind, **window).count(name="counts")


def milliseconds(time: datetime.datetime) -> int:
    return round(time.timestamp() * 1000)


@CRASHES
@pytest.mark.parametrize(
    "name", ["shouldSupportFinalResultsForTimeWindows", "shouldSupportFinalResultsForTimeWindowsWithLargeJump"]
)
async def test_kafka_streams_time_windows(name: str, crashes: int) -> None:
    case = KAFKA[name]
    for emit, wanted in (("updates", case["updates"]), ("final", case["final"])):
        flow, source, counts = kafka(case, sf.tumbling(f"{case['size']}ms"), emit=emit)
        found = [
            [f"[{row.key}@{milliseconds(row.start)}/{milliseconds(row.end)}]", row.value]
            for row in await fed(flow, source, case["input"], crashes, counts)
        ]
        assert found == [row[:2] for row in wanted]


@CRASHES
async def test_kafka_streams_sessions(crashes: int) -> None:
    case = KAFKA["shouldSupportFinalResultsForSessionWindows"]
    gap = case["size"]
    for emit in ("updates", "final"):
        flow, source, counts = kafka(case, sf.session(f"{gap}ms"), emit=emit)
        # there a session ends with its last record, here a gap behind it
        found = [
            [f"[{row.key}@{milliseconds(row.start)}/{milliseconds(row.end) - gap}]", row.value]
            for row in await fed(flow, source, case["input"], crashes, counts)
        ]
        wanted = [row[:2] for row in case[emit]]
        # there a session is taken back with every record, here only when its bounds change
        same_bounds = [
            at for at, (row, after) in enumerate(itertools.pairwise(wanted)) if row[1] is None and row[0] == after[0]
        ]
        assert len(same_bounds) == (1 if emit == "updates" else 0)
        assert found == [row for at, row in enumerate(wanted) if at not in same_bounds]


# -- Beam -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("crashes", [False, True], ids=["clean", "crashes"])
@pytest.mark.parametrize("case", BEAM, ids=[case["name"] for case in BEAM])
async def test_beam_transcripts(case: Any, crashes: bool) -> None:
    lateness = 1000
    flow = sf.Flow("beam")
    source = flow.source(
        sf.MemoryTopic[int]("in"), time=lambda second: abs(second) * 1000, lateness=f"{lateness}s", idle=None
    )
    # a watermark is a negative record so far ahead that the lateness takes it back
    windows = source.key_by(lambda second: "mark" if second < 0 else "k").window(
        sf.tumbling(f"{case['size']}s"), allowed_lateness=f"{case['allowed_lateness']}s"
    )
    result = windows.agg(sf.collect(), name="windows")
    seen = 0
    async with FlowTest(flow) as t:
        for action in case["transcript"]:
            if "input" in action:
                await t.send(source, *action["input"])
            elif "watermark" in action:
                await t.send(source, -(action["watermark"] + lateness))
            else:
                rows = [row for row in t.out(result) if row.key == "k"]
                found = [[round(row.start.timestamp()), sorted(row.value)] for row in rows[seen:]]
                assert found == action["expect"]
                seen = len(rows)
            if crashes:
                await t.crash()
        assert len([row for row in t.out(result) if row.key == "k"]) == seen


# -- Wallaroo ---------------------------------------------------------------------------------------------------------


@CRASHES
async def test_wallaroo_chained_windows(crashes: int) -> None:
    records = [(5000, 1), (5100, 3), (5200, 5), (5300, 1), (6050, 11), (6051, 13)]
    flow = sf.Flow("chained")
    source = flow.source(sf.MemoryTopic[Any]("in"), time=lambda record: record[0])
    sums = source.key_by(lambda r: "all").window(sf.tumbling("1s")).agg(sf.sum(lambda r: r[1]), name="sums")
    assert [row.value for row in await fed(flow, source, records, crashes, sums)] == [10, 24]


@CRASHES
@pytest.mark.parametrize(
    ("allowed", "windows", "late"), [("0s", [[2, 3, 4, 5]], [1]), ("10s", [[1], [2, 3, 4, 5]], [])]
)
async def test_wallaroo_late_data(allowed: str, windows: list[list[int]], late: list[int], crashes: int) -> None:
    # seconds since 1970; 50 ns is less than a microsecond, so 0
    records = [(1000, 2), (1001, 3), (1002, 4), (0, 1), (1003, 5)]
    flow = sf.Flow("late")
    source = flow.source(sf.MemoryTopic[Any]("in"), time=lambda record: record[0])
    keyed = source.key_by(lambda r: "all").window(sf.tumbling("1s"), allowed_lateness=allowed)
    result = keyed.agg(sf.collect(lambda r: r[1]), name="windows")
    found: dict[Any, Any] = defaultdict(list)
    for row in await fed(flow, source, records, crashes, result):
        found[row.start] = row.value
    assert [found[start] for start in sorted(found)] == windows
    if not crashes:
        assert [record[1] for record in await fed_late(allowed, records)] == late


async def fed_late(allowed: str, records: Sequence[Any]) -> list[Any]:
    flow = sf.Flow("late")
    source = flow.source(sf.MemoryTopic[Any]("in"), time=lambda record: record[0])
    keyed = source.key_by(lambda r: "all").window(sf.tumbling("1s"), allowed_lateness=allowed)
    return await fed(flow, source, records, 0, keyed.count(name="windows").late)
