"""What infers: every stream, state and context type of a flow, with nothing annotated beyond the user's functions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import assert_type

import streamflow as sf
from streamflow.flow.running import Running, TableView


@dataclass
class Order:
    user: str
    amount: int


@dataclass
class Scored:
    order: Order
    risk: float


@dataclass
class Alert:
    user: str


@dataclass
class Account:
    spent: int = 0
    seen: list[str] = field(default_factory=list)


LATE = sf.Output("late", Scored)


def build() -> sf.Flow:  # noqa: PLR0915 - one flow, line by line
    flow = sf.Flow("orders")
    orders = flow.source(sf.MemoryTopic("orders", value=Order))
    assert_type(orders, sf.Stream[Order])
    assert_type(flow.source(sf.MemoryTopic("raw", value=str)), sf.Stream[str])
    assert_type(flow.source(sf.MemoryTopic("m", value=Order), message=True), sf.Stream[sf.Message[Order]])

    # map, filter, flat_map, inspect: functions, lambdas, decorators, with and without the context
    assert_type(orders.map(lambda o: o.user), sf.Stream[str])
    assert_type(orders.map(score), sf.Stream[Scored])
    assert_type(orders.map(score_with_context, name="c", on_error=sf.skip), sf.Stream[Scored])
    assert_type(orders.filter(lambda o: o.amount > 0), sf.Stream[Order])
    assert_type(orders.filter(keep), sf.Stream[Order])
    assert_type(orders.inspect(print), sf.Stream[Order])
    assert_type(orders.flat_map(letters), sf.Stream[str])
    assert_type(orders.flat_map(lambda o: [o.amount]), sf.Stream[int])
    assert_type(orders.map_batch(lambda batch: [o.amount for o in batch]), sf.Stream[int])

    @orders.map(name="decorated")
    def decorated(order: Order) -> Scored:
        return Scored(order, 0.5)

    @orders.map(name="with-context", on_error=sf.skip)
    def with_context(ctx: sf.Context[None, None], order: Order) -> Scored:
        return Scored(order, ctx.random.random())

    @orders.flat_map(name="words")
    def words(order: Order) -> Iterator[str]:
        yield from order.user.split()

    @orders.flat_map()
    def words_with_context(ctx: sf.Context[None, None], order: Order) -> Iterator[str]:
        yield ctx.id

    @orders.filter
    def positive(order: Order) -> bool:
        return order.amount > 0

    assert_type(decorated, sf.Stream[Scored])
    assert_type(with_context, sf.Stream[Scored])
    assert_type(words, sf.Stream[str])
    assert_type(words_with_context, sf.Stream[str])
    assert_type(positive, sf.Stream[Order])

    # branch, split, merge
    first, rest = orders.branch(lambda o: o.amount > 9, sf.otherwise)
    assert_type(first, sf.Stream[Order])
    assert_type(rest, sf.Stream[Order])
    assert_type(orders.split(lambda o: o.user, ["ann", "bob"]), Mapping[str, sf.Stream[Order]])
    assert_type(first.merge(rest, orders), sf.Stream[Order])
    assert_type(orders.dedup(lambda o: o.user, name="once"), sf.Stream[Order])
    assert_type(orders.batch(3, within="1s", name="lists"), sf.Stream[list[Order]])

    # keys and what keeps state per key
    by_user = decorated.key_by(lambda s: s.order.user)
    assert_type(by_user, sf.KeyedStream[str, Scored])
    assert_type(
        decorated.key_by(lambda s: (s.order.user, s.order.amount), name="pair"), sf.KeyedStream[tuple[str, int], Scored]
    )
    assert_type(by_user.count(name="n"), sf.KeyedStream[str, tuple[str, int]])
    assert_type(by_user.reduce(lambda a, b: a, name="last"), sf.KeyedStream[str, tuple[str, Scored]])
    assert_type(by_user.aggregate(Account, add, name="sums"), sf.KeyedStream[str, tuple[str, Account]])
    assert_type(
        by_user.aggregate(int, lambda n, s: n + s.order.amount, name="ints"), sf.KeyedStream[str, tuple[str, int]]
    )
    assert_type(
        by_user.aggregate(Account, add, result=lambda a: float(a.spent), name="floats"),
        sf.KeyedStream[str, tuple[str, float]],
    )
    assert_type(by_user.map(lambda s: s.risk), sf.KeyedStream[str, float])
    assert_type(by_user.filter(lambda s: s.risk > 0.5), sf.KeyedStream[str, Scored])
    assert_type(by_user.inspect(print), sf.KeyedStream[str, Scored])
    assert_type(by_user.flat_map(lambda s: [s.order]), sf.KeyedStream[str, Order])

    left, right = by_user.branch(lambda s: s.risk > 0.5, sf.otherwise)
    assert_type(left, sf.KeyedStream[str, Scored])
    assert_type(left.merge(right, by_user), sf.KeyedStream[str, Scored])
    assert_type(left.merge(decorated), sf.Stream[Scored])
    assert_type(by_user.split(lambda s: s.order.user, ["ann"])["ann"], sf.KeyedStream[str, Scored])
    assert_type(by_user.dedup(lambda s: s.order.user, name="once-keyed"), sf.KeyedStream[str, Scored])
    assert_type(by_user.batch(3, within="1s", name="keyed-lists"), sf.KeyedStream[str, list[Scored]])

    @by_user.map(name="keyed-decorated")
    def keyed_decorated(scored: Scored) -> int:
        return scored.order.amount

    assert_type(keyed_decorated, sf.KeyedStream[str, int])

    @by_user.process(state=Account, ttl="90d", outputs=[LATE])
    def accounts(ctx: sf.Context[str, Account], scored: Scored) -> Iterator[Alert]:
        assert_type(ctx.state, Account)
        assert_type(ctx.key, str)
        ctx.emit(LATE, scored)
        yield Alert(ctx.key)

    @accounts.on_timer("quiet")
    def quiet(ctx: sf.Context[str, Account]) -> Iterator[Alert]:
        yield Alert(ctx.key)

    @accounts.on_timer("silent")
    def silent(ctx: sf.Context[str, Account]) -> None:
        ctx.clear()

    assert_type(accounts, sf.Process[str, Account, Alert])
    assert_type(accounts.output(LATE), sf.KeyedStream[str, Scored])

    @by_user.process(state=sf.map_state(str, int))
    def mapped(ctx: sf.Context[str, sf.MapState[str, int]], scored: Scored) -> list[int]:
        assert_type(ctx.state["x"], int)
        return [ctx.state["x"]]

    @by_user.process(state=sf.list_state(Order))
    def listed(ctx: sf.Context[str, sf.ListState[Order]], scored: Scored) -> None:
        assert_type(ctx.state[0], Order)

    @by_user.process(state=lambda: [0, 0])
    def made(ctx: sf.Context[str, list[int]], scored: Scored) -> list[str]:
        return [str(ctx.state)]

    assert_type(mapped, sf.Process[str, sf.MapState[str, int], int])
    assert_type(made, sf.Process[str, list[int], str])
    assert listed.name

    # the way out
    accounts.to(sf.MemoryTopic("alerts", value=Alert))
    accounts.to(sf.MemoryTopic("anything"), name="untyped", key=lambda alert: alert.user)
    return flow


def score(order: Order) -> Scored:
    return Scored(order, 0.5)


def score_with_context(ctx: sf.Context[str, None], order: Order) -> Scored:
    return Scored(order, ctx.random.random())


def keep(ctx: sf.Context[str, None], order: Order) -> bool:
    return ctx.now_ms > order.amount


def letters(order: Order) -> Iterator[str]:
    yield from order.user


def add(account: Account, scored: Scored) -> Account:
    account.spent += scored.order.amount
    return account


async def host(run: Running, orders: sf.Stream[Order], accounts: sf.Process[str, Account, Alert]) -> None:
    """What a host sees of a running flow."""
    assert_type(run.table(accounts), TableView[str, Account])
    assert_type(await run.table(accounts).get("ann"), Account | None)
    assert_type(run.subscribe(accounts), sf.Subscription[Alert])
    assert_type(await run.push(orders, Order("ann", 1)), int)
    assert_type(await run.requeue(17, fix=bytes.strip), int)
    flow = sf.Flow("f")
    async with flow.running() as inside:
        assert_type(inside, Running)
    async with flow.test() as t:
        await t.send(orders, Order("ann", 1))
        assert_type(t.out(accounts), list[Alert])
