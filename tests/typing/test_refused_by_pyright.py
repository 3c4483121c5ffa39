"""What pyright must refuse: the lines of test_refused.py, whose ``type: ignore`` it would heed too."""

# mypy: ignore-errors
# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from dataclasses import dataclass

import streamflow as sf
from streamflow.flow.running import Running


@dataclass
class Order:
    user: str
    amount: int


@dataclass
class Account:
    spent: int = 0


def wrong(flow: sf.Flow) -> None:
    orders = flow.source(sf.MemoryTopic("orders", value=Order))
    strings = sf.MemoryTopic("strings", value=str)
    orders.to(strings)  # pyright: ignore[reportArgumentType]
    orders.to(sf.MemoryTopic("o", value=Order), key=lambda o: o.nothing)  # pyright: ignore[reportAttributeAccessIssue]
    orders.map(length)  # pyright: ignore[reportArgumentType, reportCallIssue]
    orders.filter(length)  # pyright: ignore[reportArgumentType, reportCallIssue]
    orders.merge(flow.source(strings))  # pyright: ignore[reportArgumentType]
    orders.count(name="n")  # pyright: ignore[reportAttributeAccessIssue]
    keyed = orders.key_by(lambda o: o.user)
    keyed.aggregate(Account, int_add, name="x")  # pyright: ignore[reportArgumentType]

    by_amount = orders.key_by(lambda o: o.amount)
    keyed.join(by_amount, within="5s", name="j")  # pyright: ignore[reportArgumentType]
    keyed.join(keyed, within="5s", how="full", name="j")  # pyright: ignore[reportArgumentType, reportCallIssue]
    keyed.join(keyed, name="j")  # pyright: ignore[reportArgumentType]
    table = by_amount.to_table(name="t")
    keyed.join(table)  # pyright: ignore[reportArgumentType]
    by_amount.join(table, how="outer")  # pyright: ignore[reportArgumentType, reportCallIssue]
    orders.join_broadcast(table, by=length)  # pyright: ignore[reportArgumentType]
    keyed.join_asof(by_amount, name="a")  # pyright: ignore[reportArgumentType]
    keyed.join_asof(keyed)  # pyright: ignore[reportCallIssue]
    orders.sample()  # pyright: ignore[reportCallIssue]
    pairs = keyed.join(keyed, within="5s", how="left", name="j")
    pairs.map(amount_of_both)  # pyright: ignore[reportArgumentType, reportCallIssue]

    @keyed.process(state=Account)  # pyright: ignore[reportCallIssue, reportArgumentType, reportUntypedFunctionDecorator]
    def other_state(ctx: sf.Context[str, int], order: Order) -> None: ...

    @keyed.process(state=Account)  # pyright: ignore[reportCallIssue, reportArgumentType, reportUntypedFunctionDecorator]
    def other_key(ctx: sf.Context[int, Account], order: Order) -> None: ...

    @keyed.process(state=Account)
    def accounts(ctx: sf.Context[str, Account], order: Order) -> list[str]:
        ctx.emit(sf.Output("side", int), "text")  # pyright: ignore[reportArgumentType]
        ctx.lookup(table, order.user)  # pyright: ignore[reportArgumentType]
        return [order.user]

    @accounts.on_timer("t")  # pyright: ignore[reportArgumentType]
    def other_output(ctx: sf.Context[str, Account]) -> list[int]:
        return [1]


async def wrong_host(run: Running, orders: sf.Stream[Order], accounts: sf.Process[str, Account, str]) -> None:
    await run.push(orders, "text")  # pyright: ignore[reportArgumentType]
    await run.requeue(17, fix=str.strip)  # pyright: ignore[reportArgumentType]
    await run.table(accounts).get(1)  # pyright: ignore[reportArgumentType]


def length(text: str) -> int:
    return len(text)


def int_add(total: int, order: Order) -> int:
    return total + order.amount


def amount_of_both(pair: tuple[Order, Order]) -> int:
    return pair[0].amount + pair[1].amount
