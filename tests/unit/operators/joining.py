"""A flow with a join of orders and payments, for tests case by case."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

import streamflow as sf

BASE = 1_767_225_600
"""2026-01-01 00:00 UTC, where the virtual clock begins."""

BOTH = pytest.mark.parametrize("plain", [False, True], ids=["loop", "plain"])


@dataclass
class Order:
    id: str
    at: float
    amount: int = 0


@dataclass
class Payment:
    order: str
    at: float


class Flow:
    """A flow of orders, payments and a join of the two."""

    def __init__(self, **join: Any) -> None:
        lateness, self.flow = join.pop("lateness", "0s"), sf.Flow("joins")
        self.orders = self._source("orders", Order, lateness)
        self.payments = self._source("payments", Payment, lateness)
        self.by_order = self.orders.key_by(lambda order: order.id, name="by-order")
        self.by_payment = self.payments.key_by(lambda payment: payment.order, name="by-payment")
        self.paid: Any = self.by_order.join(self.by_payment, **{"name": "paid", **join})

    def _source(self, name: str, kind: Any, lateness: str) -> Any:
        topic = sf.MemoryTopic[Any](name, value=kind)
        return self.flow.source(topic, time=lambda record: round((BASE + record.at) * 1000), lateness=lateness)


def short(rows: list[Any]) -> list[Any]:
    return [tuple(None if record is None else record.at for record in row) for row in rows]


def in_windows(rows: list[Any]) -> list[Any]:
    return [(row.key, int(row.start.timestamp()) - BASE, *short([row.value])[0]) for row in rows]


def at(seconds: float) -> int:
    return round((BASE + seconds) * 1_000_000)
