"""What infers of tables, look-ups, as-of joins and thinned streams, with nothing annotated beyond users' functions."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import assert_type

import streamflow as sf


@dataclass(frozen=True)
class Order:
    id: str
    user: str
    country: str | None
    at: datetime.datetime


@dataclass(frozen=True)
class Price:
    user: str
    cents: int
    at: datetime.datetime


def countries() -> dict[str, str]:
    return {"de": "Germany"}


async def rules() -> list[Price]:
    return []


def user_of(order: Order) -> str:
    return order.user


def price_user(price: Price) -> str:
    return price.user


def build() -> sf.Flow:
    flow = sf.Flow("orders")
    orders = flow.source(sf.MemoryTopic("orders", value=Order), time=lambda o: o.at).rate_limit(100, per="1s")
    assert_type(orders, sf.Stream[Order])
    by_user = orders.key_by(user_of)
    prices = flow.source(sf.MemoryTopic("prices", value=Price), time=lambda p: p.at).key_by(lambda p: p.user)

    table = prices.to_table(name="prices", ttl="1d", max_keys=9)
    assert_type(table, sf.Table[str, Price])
    assert_type(table.changes, sf.KeyedStream[str, sf.Change[Price]])
    assert_type(by_user.join(table), sf.KeyedStream[str, tuple[Order, Price]])
    assert_type(by_user.join(table, how="left", name="l"), sf.KeyedStream[str, tuple[Order, Price | None]])

    def cents(price: Price) -> int | None:
        return price.cents or None

    with_tombstones = prices.map(cents).to_table(name="tombstones")
    assert_type(with_tombstones, sf.Table[str, int])
    assert_type(prices.map(lambda p: p.cents).to_table(name="given", of=int), sf.Table[str, int])

    names = flow.table(countries)
    assert_type(names, sf.Table[str, str])
    known = orders.join_broadcast(names, by=lambda o: o.country)
    assert_type(known, sf.Stream[tuple[Order, str]])
    assert_type(by_user.join_broadcast(names, by=user_of, how="left"), sf.Stream[tuple[Order, str | None]])
    loaded = flow.table(rules, key=price_user)
    assert_type(loaded, sf.Table[str, Price])
    assert_type(flow.table(Path("p.jsonl"), of=Price, key=lambda p: p.cents, name="p"), sf.Table[int, Price])
    alarms = orders.join_broadcast(loaded, where=lambda o, p: p.user == o.user)
    assert_type(alarms, sf.Stream[tuple[Order, Price]])

    priced = by_user.join_asof(prices, name="priced")
    assert_type(priced, sf.JoinResult[str, Order, Price, tuple[Order, Price]])
    priced_or_not = by_user.join_asof(prices, how="left", within="1h", allowed_lateness="1m", name="or-not")
    assert_type(priced_or_not, sf.JoinResult[str, Order, Price, tuple[Order, Price | None]])
    assert_type(priced.late.left, sf.KeyedStream[str, Order])

    assert_type(orders.sample(fraction=0.1), sf.Stream[Order])
    assert_type(by_user.sample(every=10, name="tenth"), sf.KeyedStream[str, Order])
    assert_type(orders.dedup(lambda o: o.id, within="1h", time="event", name="once"), sf.Stream[Order])

    @priced_or_not.flat_map(name="told")
    def told(pair: tuple[Order, Price | None]) -> Iterator[str]:
        order, price = pair
        yield f"{order.id} at {price.cents if price else 'no price'}"

    assert_type(told, sf.KeyedStream[str, str])

    @by_user.process(state=list[int], tables=[table, names])
    def totals(ctx: sf.Context[str, list[int]], order: Order) -> Iterator[int]:
        found = ctx.lookup(table, ctx.key)
        assert_type(found, Price | None)
        assert_type(ctx.lookup(names, order.country), str | None)
        ctx.state.append(found.cents if found else 0)
        yield sum(ctx.state)

    assert_type(totals, sf.Process[str, list[int], int])

    @totals.on_timer("t")
    def later(ctx: sf.Context[str, list[int]]) -> Iterator[int]:
        price = ctx.lookup(table, ctx.key)
        yield price.cents if price else 0

    @orders.map(tables=[names])
    def named(ctx: sf.Context[None, None], order: Order) -> str:
        return ctx.lookup(names, order.country) or "nowhere"

    assert_type(named, sf.Stream[str])

    def is_known(ctx: sf.Context[str, None], order: Order) -> bool:
        return ctx.lookup(table, ctx.key) is not None

    assert_type(by_user.filter(is_known, tables=[table]), sf.KeyedStream[str, Order])
    return flow


async def look(flow: sf.Flow, table: sf.Table[str, Price]) -> None:
    async with flow.running() as run:
        view = run.table(table)
        assert_type(await view.get("ann"), Price | None)
        assert_type(await view.items(), list[tuple[str, Price]])


def test_the_flow_can_be_built_and_planned() -> None:
    assert len(build().plan().stages) == 1
