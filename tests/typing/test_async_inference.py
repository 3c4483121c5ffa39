"""What infers of async steps, with nothing annotated beyond the user's functions."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import assert_type

import streamflow as sf


@dataclass
class Order:
    user: str
    amount: int

    def copy(self) -> Order:
        return Order(self.user, self.amount)


async def risk(order: Order) -> float:
    return order.amount / 100


async def risk_with_context(ctx: sf.Context[None, None], order: Order) -> float:
    return len(ctx.id) / 100


async def letters(order: Order) -> list[str]:
    return list(order.user)


async def generated(order: Order) -> AsyncIterator[int]:
    yield order.amount


async def scored(orders: list[Order]) -> list[float]:
    return [order.amount / 2 for order in orders]


def len_of(order: Order) -> int:
    return len(order.user)


def build() -> sf.Flow:
    flow = sf.Flow("orders")
    orders = flow.source(sf.MemoryTopic("orders", value=Order))
    keyed = orders.key_by(lambda o: o.user)

    assert_type(orders.map(risk, name="1"), sf.Stream[float])
    assert_type(orders.map(risk, concurrency=8, ordered=False, window=99, timeout="2s", name="2"), sf.Stream[float])
    assert_type(orders.map(risk_with_context, deadline="5s", name="3"), sf.Stream[float])
    assert_type(orders.map(lambda o: risk(o.copy()), concurrency=8, name="4"), sf.Stream[float])
    assert_type(orders.filter(risk, concurrency=8, name="5"), sf.Stream[Order])
    assert_type(orders.flat_map(letters, name="6"), sf.Stream[str])
    assert_type(orders.flat_map(generated, concurrency=8, name="7"), sf.Stream[int])
    assert_type(orders.map_batch(scored, size=10, within="5ms", concurrency=2, name="8"), sf.Stream[float])
    assert_type(keyed.map(risk, concurrency=8, name="9"), sf.KeyedStream[str, float])
    assert_type(keyed.filter(risk_with_context, name="10"), sf.KeyedStream[str, Order])
    assert_type(keyed.flat_map(letters, name="11"), sf.KeyedStream[str, str])

    @orders.map(concurrency=64, timeout="2s", on_error=sf.retry(3, backoff="50ms").then(sf.skip))
    async def decorated(order: Order) -> float:
        return order.amount / 100

    @keyed.map(concurrency=64)
    async def keyed_decorated(ctx: sf.Context[str, None], order: Order) -> str:
        return ctx.key

    @orders.flat_map(concurrency=64)
    async def expanded(order: Order) -> AsyncIterator[str]:
        yield order.user

    @orders.filter
    async def allowed(order: Order) -> bool:
        return order.amount > 0

    @keyed.process(state=int, concurrency=4, timeout="1s", deadline="3s")
    async def listed(ctx: sf.Context[str, int], order: Order) -> list[str]:
        ctx.state += 1
        return [ctx.key]

    @keyed.process(state=dict[str, int])
    async def given(ctx: sf.Context[str, dict[str, int]], order: Order) -> AsyncIterator[float]:
        yield order.amount / 2

    @keyed.process(state=int)
    async def nothing(ctx: sf.Context[str, int], order: Order) -> None:
        ctx.timer("later", after="1h")

    @listed.on_timer("later")
    async def later(ctx: sf.Context[str, int]) -> list[str]:
        return [ctx.key]

    @given.on_timer("later")
    async def given_later(ctx: sf.Context[str, dict[str, int]]) -> AsyncIterator[float]:
        yield 0.5

    assert_type(listed, sf.Process[str, int, str])
    assert_type(given, sf.Process[str, dict[str, int], float])

    def length(order: Order) -> int:
        return len(order.user)

    async def slow(order: Order) -> float:
        return order.amount

    assert_type(orders.map(slow, detached=True, deadline="10m"), sf.Stream[float])
    assert_type(
        keyed.map(slow, name="cached", cache=sf.cache("1m", by=lambda order: order)), sf.KeyedStream[str, float]
    )
    assert_type(orders.map_thread(length, workers=2), sf.Stream[int])
    assert_type(keyed.map_thread(length, name="by-key", detached=True), sf.KeyedStream[str, int])
    assert_type(orders.map_process(len_of, timeout="1s"), sf.Stream[int])
    assert_type(flow.dead_letters, sf.Stream[sf.StoredLetter])
    assert_type(decorated, sf.Stream[float])
    assert_type(keyed_decorated, sf.KeyedStream[str, str])
    assert_type(expanded, sf.Stream[str])
    assert_type(allowed, sf.Stream[Order])
    return flow


def test_the_flow_it_describes_can_be_planned() -> None:
    graph = build().graph()
    assert {step.kind for step in graph.steps if step.name in ("decorated", "expanded", "allowed")} == {
        "async_map",
        "async_flat_map",
        "async_filter",
    }
