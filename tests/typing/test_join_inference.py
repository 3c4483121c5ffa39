"""What infers of joins, with nothing annotated beyond the user's functions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_type

import streamflow as sf


@dataclass
class Order:
    id: str
    at: int


@dataclass
class Payment:
    order: str
    at: int
    amount: int


def build() -> sf.Flow:
    flow = sf.Flow("orders")
    orders = flow.source(sf.MemoryTopic("orders", value=Order), time=lambda o: o.at).key_by(lambda o: o.id)
    payments = flow.source(sf.MemoryTopic("payments", value=Payment), time=lambda p: p.at).key_by(lambda p: p.order)

    inner = orders.join(payments, within="15m", name="inner")
    assert_type(inner, sf.JoinResult[str, Order, Payment, tuple[Order, Payment]])
    assert_type(inner.map(lambda pair: pair[1].amount), sf.KeyedStream[str, int])
    left = orders.join(payments, within=("1m", "15m"), how="left", name="left")
    assert_type(left, sf.JoinResult[str, Order, Payment, tuple[Order, Payment | None]])
    right = orders.join(payments, within="15m", how="right", name="right", max_keys=9)
    assert_type(right, sf.JoinResult[str, Order, Payment, tuple[Order | None, Payment]])
    outer = orders.join(payments, within="15m", how="outer", name="outer", on_error=sf.skip)
    assert_type(outer, sf.JoinResult[str, Order, Payment, tuple[Order | None, Payment | None]])

    assert_type(outer.late.left, sf.KeyedStream[str, Order])
    assert_type(outer.late.right, sf.KeyedStream[str, Payment])
    late_orders, late_payments = outer.late
    assert_type(late_orders, sf.KeyedStream[str, Order])
    assert_type(late_payments, sf.KeyedStream[str, Payment])
    inner.to(sf.MemoryTopic("pairs", value=tuple[Order, Payment]))

    in_windows = orders.join(payments, window=sf.tumbling("1h"), name="w-inner")
    assert_type(in_windows, sf.JoinResult[str, Order, Payment, sf.Windowed[str, tuple[Order, Payment]]])
    in_any = orders.join(payments, window=sf.sliding("1h", "10m"), how="outer", name="w-outer")
    assert_type(in_any, sf.JoinResult[str, Order, Payment, sf.Windowed[str, tuple[Order | None, Payment | None]]])
    visits = orders.join(payments, window=sf.session("30m"), how="left", name="visits")
    assert_type(visits, sf.JoinResult[str, Order, Payment, sf.Windowed[str, tuple[Order, Payment | None]]])
    earlier = orders.join(payments, within=("10m", "-5m"), name="earlier")
    assert_type(earlier, sf.JoinResult[str, Order, Payment, tuple[Order, Payment]])
    assert_type(in_any.map(lambda row: row.value), sf.KeyedStream[str, tuple[Order | None, Payment | None]])

    @left.map(name="told")
    def told(pair: tuple[Order, Payment | None]) -> str:
        order, payment = pair
        return f"{order.id} is {'paid' if payment else 'not paid'}"

    assert_type(told, sf.KeyedStream[str, str])
    return flow


def test_the_flow_can_be_built_and_planned() -> None:
    assert len(build().plan().stages) == 1
