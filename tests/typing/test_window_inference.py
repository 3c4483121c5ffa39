"""What infers of event time, windows and aggregators, with nothing annotated beyond the user's functions."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, assert_type

import streamflow as sf


@dataclass
class Order:
    user: str
    amount: int
    at: datetime.datetime


def combine(one: Order, two: Order) -> Order:
    return Order(one.user, one.amount + two.amount, two.at)


def build() -> sf.Flow:
    flow = sf.Flow("orders")
    topic = sf.MemoryTopic("orders", value=Order)
    orders = flow.source(topic, time=lambda o: o.at, lateness="5s", idle="30s")
    assert_type(orders, sf.Stream[Order])
    messages = flow.source(topic, name="m", message=True, time=lambda m: m.value.at)
    assert_type(messages, sf.Stream[sf.Message[Order]])
    assert_type(flow.source(topic, name="b", time="broker"), sf.Stream[Order])

    ordered = flow.source(topic, name="o", time=lambda o: o.at, order="time", hold_max="1m", max_drift="5m")
    assert_type(sf.merge(orders, ordered, order="time"), sf.Stream[Order])
    assert_type(orders.merge(ordered, order="time", name="again"), sf.Stream[Order])

    by_user = orders.key_by(lambda o: o.user)
    also = ordered.key_by(lambda o: o.user, name="also")
    assert_type(sf.merge(by_user, also, order="time", name="keyed"), sf.KeyedStream[str, Order])
    assert_type(by_user.window(sf.session("1m"), early="10s", allowed_lateness="1m"), sf.WindowedStream[str, Order])
    windows = by_user.window(sf.tumbling("1m"))
    assert_type(windows, sf.WindowedStream[str, Order])

    counts = windows.count(name="counts")
    assert_type(counts, sf.WindowResult[str, Order, int])
    assert_type(counts.late, sf.KeyedStream[str, Order])
    assert_type(counts.map(lambda w: w.value + 1), sf.KeyedStream[str, int])
    assert_type(counts.map(lambda w: w.start), sf.KeyedStream[str, datetime.datetime])
    assert_type(counts.map(lambda w: w.key), sf.KeyedStream[str, str])
    counts.to(sf.MemoryTopic("counts", value=sf.Windowed[str, int]))

    assert_type(windows.agg(sf.sum(amount), name="sum"), sf.WindowResult[str, Order, int])
    assert_type(windows.agg(sf.mean(amount), name="mean"), sf.WindowResult[str, Order, float | None])
    assert_type(
        windows.agg(name="several", n=sf.count(), m=sf.max(amount)), sf.WindowResult[str, Order, dict[str, Any]]
    )
    assert_type(windows.reduce(combine), sf.WindowResult[str, Order, Order])
    totals = windows.aggregate(Totals, Totals.add, Totals.merge, Totals.result, name="totals")
    assert_type(totals, sf.WindowResult[str, Order, str])
    assert_type(by_user.agg(sf.distinct(lambda o: o.amount), name="d"), sf.KeyedStream[str, tuple[str, int]])

    @by_user.process(state=Totals)
    def reminders(ctx: sf.Context[str, Totals], order: Order) -> Iterator[str]:
        ctx.timer("quiet", after="1h")
        assert_type(ctx.event_time, datetime.datetime | None)
        yield ctx.key

    @reminders.on_timer("quiet", time="event")
    def quiet(ctx: sf.Context[str, Totals]) -> Iterator[str]:
        yield ctx.key

    return flow


def amount(order: Order) -> int:
    return order.amount


@dataclass
class Totals:
    total: int = 0

    def add(self, order: Order) -> Totals:
        self.total += order.amount
        return self

    def merge(self, other: Totals) -> Totals:
        self.total += other.total
        return self

    def result(self) -> str:
        return str(self.total)


def test_the_flow_can_be_built_and_planned() -> None:
    assert len(build().plan().stages) == 1
