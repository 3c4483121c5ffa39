"""Unpaid orders: orders that no payment follows within 15 minutes, told as soon as that is certain.

Shows: two sources with event time, joined within an interval. `how="left"` also gives an order that nothing matched,
with None, when both sources have passed the last moment at which a payment could have matched it.

    streamflow run examples.unpaid_orders:flow
"""

import datetime
from dataclasses import dataclass
from pathlib import Path

import streamflow as sf

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Order:
    id: str
    at: datetime.datetime
    amount: int


@dataclass(frozen=True)
class Payment:
    order: str
    at: datetime.datetime


flow = sf.Flow("unpaid-orders", state=HERE / "out/unpaid_orders.db")
orders = flow.source(sf.jsonl(HERE / "data/orders.jsonl", value=Order), time=lambda order: order.at)
payments = flow.source(sf.jsonl(HERE / "data/payments.jsonl", value=Payment), time=lambda payment: payment.at)

by_id = orders.key_by(lambda order: order.id, name="orders-by-id")
by_order = payments.key_by(lambda payment: payment.order, name="payments-by-order")
followed = by_id.join(by_order, within=("0s", "15m"), how="left", name="followed")


@followed.filter(lambda pair: pair[1] is None).map
def unpaid(pair: tuple[Order, Payment | None]) -> Order:
    return pair[0]


unpaid.to(sf.jsonl(HERE / "out/unpaid_orders.jsonl", value=Order))
