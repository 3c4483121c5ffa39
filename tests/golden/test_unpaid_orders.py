"""The example of a join gives its expected result: through crashes, and for real on files."""

from __future__ import annotations

import datetime
import random
from typing import Any

from examples.unpaid_orders import Order, Payment, flow, orders, payments, unpaid
from streamflow.testing.harness import FlowTest
from tests.golden.cases import rows_in
from tests.golden.inputs import EXAMPLES, OPENING
from tests.golden.playing import CRASHES, played, turns

UNPAID = [f"o{number}" for number in range(1, 201) if number % 5 == 0 or number % 7 == 0]


def arrivals(chance: random.Random) -> list[tuple[Any, bytes]]:
    """The lines of both files, each file's in order, put together anyhow."""
    left, right = (
        [(stream, line) for line in (EXAMPLES / "data" / f"{name}.jsonl").read_bytes().splitlines()]
        for name, stream in (("orders", orders), ("payments", payments))
    )
    found = []
    while left or right:
        side = left if left and (not right or chance.random() < len(left) / (len(left) + len(right))) else right
        found.append(side.pop(0))
    return found


@CRASHES
async def test_whoever_is_read_first_the_same_orders_are_unpaid(crashes: int) -> None:
    for seed in range(1 if crashes > 3 else 3):

        async def feed(t: FlowTest, crashes: int, seed: int = seed) -> None:
            chance = random.Random(seed)
            lines = arrivals(chance)
            cuts = set(chance.sample(range(len(lines)), crashes))
            for at, (stream, line) in enumerate(lines):
                await t.send_bytes(stream, line, settle=False)
                if at in cuts:
                    await turns(chance.randrange(20))
                    await t.crash()
            await t.settle()
            await t.advance("31s")

        (found,) = await played(flow, feed, crashes, unpaid)
        # in the order in which that became certain
        assert [order.id for order in found] == UNPAID


async def test_for_real_on_files(copied, tmp_path) -> None:
    await copied("unpaid_orders").flow.run()
    out = tmp_path / "examples/out/unpaid_orders.jsonl"
    assert [row["id"] for row in rows_in(out)] == UNPAID
    before = out.read_bytes()
    await copied("unpaid_orders").flow.run()
    assert out.read_bytes() == before


async def test_an_order_is_told_of_when_15_minutes_have_passed_for_both() -> None:
    async with FlowTest(flow) as t:
        await t.send(orders, Order("o1", after(0), 1), Order("x", after(901), 2))
        assert t.out(unpaid) == []
        await t.send(payments, Payment("y", after(900)))
        assert t.out(unpaid) == []
        await t.send(payments, Payment("y", after(901)))
        assert [order.id for order in t.out(unpaid)] == ["o1"]


def after(seconds: int) -> datetime.datetime:
    return OPENING + datetime.timedelta(seconds=seconds)
