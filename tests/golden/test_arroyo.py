"""Windows and aggregates against the results of Arroyo's SQL tests, clean and through crashes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

import streamflow as sf
from tests.golden.arroyo import CARS, IMPULSE, arroyo, driver, lines, same, written
from tests.golden.playing import CRASHES, fed, played, records_of


@CRASHES
async def test_sessions_per_user(crashes: int) -> None:
    flow, source = arroyo()
    users = source.key_by(lambda r: 0 if r["counter"] % 10 == 0 else r["counter"])
    sessions = users.window(sf.session("20s")).count(name="sessions")
    rows = [
        {"user_id": row.key, "start": written(row.start), "end": written(row.end), "rows": row.value}
        for row in await fed(flow, source, IMPULSE, crashes, sessions)
    ]
    same(rows, "golden_session_window.jsonl")


@CRASHES
async def test_one_session_of_all(crashes: int) -> None:
    flow, source = arroyo()
    sessions = source.key_by(lambda r: "all").window(sf.session("20s")).count(name="sessions")
    found = await fed(flow, source, IMPULSE, crashes, sessions)
    rows = [{"start": written(row.start), "end": written(row.end), "rows": row.value} for row in found]
    same(rows, "golden_global_session_window.jsonl")


@CRASHES
async def test_sliding_windows(crashes: int) -> None:
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
async def test_counts_per_hour_and_type(crashes: int) -> None:
    flow, source = arroyo()
    hours = source.key_by(lambda r: r["event_type"]).window(sf.tumbling("1h")).count(name="hours")
    found = await fed(flow, source, CARS, crashes, hours)
    rows = [{"event_type": row.key, "hour": written(row.start), "count": row.value} for row in found]
    same(rows, "golden_hourly_by_event_type.jsonl")


@CRASHES
async def test_counts_per_hour_under_a_tight_watermark(crashes: int) -> None:
    flow, source = arroyo("0s")
    hours = source.key_by(lambda r: "all").window(sf.tumbling("1h")).count(name="hours")
    found = await fed(flow, source, CARS, crashes, hours)
    same([{"timestamp": written(row.end), "count": row.value} for row in found], "golden_tight_watermark.jsonl")


@CRASHES
async def test_a_month_under_a_loose_watermark(crashes: int) -> None:
    flow, source = arroyo()
    months = source.key_by(lambda r: "all").window(sf.tumbling("30d")).count(name="months")
    found = await fed(flow, source, CARS, crashes, months)
    same([{"month": written(row.start), "count": row.value} for row in found], "golden_month_loose_watermark.jsonl")


@CRASHES
async def test_the_most_active_driver_of_each_last_hour(crashes: int) -> None:
    flow, source = arroyo()
    per_driver = source.key_by(driver, name="driver").window(sf.sliding("1h", "1m"))
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


@CRASHES
async def test_every_aggregate_that_there_is(crashes: int) -> None:
    flow, source = arroyo()
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
    last = dict(await fed(flow, source, CARS, crashes, stats))
    expected = {}
    for row in lines("golden_every_aggregate.jsonl"):
        expected[row["after"]["event_type"]] = row["after"]
    assert last.keys() == expected.keys()
    for kind, found in last.items():
        assert found.pop("exact") == expected[kind]["approx_distinct_driver"]
        assert abs(found.pop("median_driver")[0] - expected[kind]["median_driver"]) <= 2
        for name, value in found.items():
            assert round(value, 4) == expected[kind][name], name


@CRASHES
async def test_a_union_of_two_inputs(crashes: int) -> None:
    flow = sf.Flow("union")
    sources = [flow.source(sf.MemoryTopic[Any](name)) for name in ("first", "second")]

    def named(source: Any) -> Any:
        name = source.name
        return source.map(lambda record: {"counter": record["counter"], "source": name}, name=name)

    both = sf.merge(*map(named, sources))
    records = records_of(*((source, record) for record in IMPULSE for source in sources))
    (found,) = await played(flow, records, crashes, both, ordered=False)
    same(found, "golden_union.jsonl")


# -- rows that change -------------------------------------------------------------------------------------------------


class Product(msgspec.Struct):
    """What the orders of a product are at the moment."""

    count: int = 0
    quantity: int = 0
    customers: dict[str, int] = msgspec.field(default_factory=dict)

    def add(self, order: Any, times: int) -> None:
        """Counts an order, or, with -1, no longer."""
        self.count += times
        self.quantity += times * (order["quantity"] + 5)
        name = order["customer_name"]
        self.customers[name] = self.customers.get(name, 0) + times
        if not self.customers[name]:
            del self.customers[name]


def orders_before_and_after(change: sf.Change[Any]) -> Iterator[tuple[Any, int]]:
    """What a change takes away, and what it adds."""
    if change.before is not None:
        yield change.before, -1
    if change.after is not None:
        yield change.after, 1


@CRASHES
async def test_aggregates_over_rows_that_are_inserted_changed_and_deleted(crashes: int) -> None:
    """The source is a table's log of changes: what an order was is taken back before what it is now counts."""
    flow = sf.Flow("debezium")
    source = flow.source(sf.MemoryTopic[Any]("in"))
    table = source.key_by(lambda r: (r["after"] or r["before"])["id"]).map(lambda r: r["after"]).to_table(name="orders")
    changes = table.changes.flat_map(orders_before_and_after)

    @changes.key_by(lambda change: change[0]["product_name"]).process(state=Product)
    def products(ctx: sf.Context[str, Product], change: tuple[Any, int]) -> Iterator[dict[str, Any]]:
        ctx.state.add(*change)
        count, distinct = ctx.state.count, len(ctx.state.customers)
        yield {"id": f"p_{ctx.key}", "c": count, "d": distinct, "q": ctx.state.quantity + 10}

    updates = lines("aggregate_updates.jsonl.gz")
    assert Counter(update["op"] for update in updates) == {"c": 582, "u": 225, "d": 23}
    found = {row["id"]: row for row in await fed(flow, source, updates, crashes, products)}
    assert found == {row["after"]["id"]: row["after"] for row in lines("golden_debezium_agg.jsonl")}
