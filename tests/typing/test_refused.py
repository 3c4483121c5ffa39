"""What mypy must refuse: each line carries the error it would be, so that one which passes is noticed."""

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
    orders.to(strings)  # type: ignore[arg-type]
    orders.to(sf.MemoryTopic("o", value=Order), key=lambda o: o.nothing)  # type: ignore[attr-defined]
    orders.map(length)  # type: ignore[arg-type]
    orders.filter(length)  # type: ignore[arg-type]
    orders.merge(flow.source(strings))  # type: ignore[arg-type]
    orders.count(name="n")  # type: ignore[attr-defined]
    keyed = orders.key_by(lambda o: o.user)
    keyed.aggregate(Account, int_add, name="x")  # type: ignore[misc]

    by_amount = orders.key_by(lambda o: o.amount)
    keyed.join(by_amount, within="5s", name="j")  # type: ignore[arg-type]
    keyed.join(keyed, within="5s", how="full", name="j")  # type: ignore[call-overload]
    keyed.join(keyed, name="j")  # type: ignore[call-overload]
    table = by_amount.to_table(name="t")
    keyed.join(table)  # type: ignore[arg-type]
    by_amount.join(table, how="outer")  # type: ignore[call-overload]
    orders.join_broadcast(table, by=length)  # type: ignore[arg-type]
    keyed.join_asof(by_amount, name="a")  # type: ignore[arg-type]
    keyed.join_asof(keyed)  # type: ignore[call-overload]
    orders.sample()  # type: ignore[call-overload]
    keyed.join(keyed, within="5s", how="left", name="j").map(amount_of_both)  # type: ignore[arg-type]

    @keyed.process(state=Account)  # type: ignore[arg-type]
    def other_state(ctx: sf.Context[str, int], order: Order) -> None: ...

    @keyed.process(state=Account)  # type: ignore[arg-type]
    def other_key(ctx: sf.Context[int, Account], order: Order) -> None: ...

    @keyed.process(state=Account)
    def accounts(ctx: sf.Context[str, Account], order: Order) -> list[str]:
        ctx.emit(sf.Output("side", int), "text")  # type: ignore[misc]
        ctx.lookup(table, order.user)  # type: ignore[misc]
        return [order.user]

    @accounts.on_timer("t")  # type: ignore[arg-type]
    def other_output(ctx: sf.Context[str, Account]) -> list[int]:
        return [1]


async def wrong_host(run: Running, orders: sf.Stream[Order], accounts: sf.Process[str, Account, str]) -> None:
    await run.push(orders, "text")  # type: ignore[misc]
    await run.requeue(17, fix=str.strip)  # type: ignore[arg-type]
    await run.table(accounts).get(1)  # type: ignore[arg-type]


def length(text: str) -> int:
    return len(text)


def int_add(total: int, order: Order) -> int:
    return total + order.amount


def amount_of_both(pair: tuple[Order, Order]) -> int:
    return pair[0].amount + pair[1].amount
