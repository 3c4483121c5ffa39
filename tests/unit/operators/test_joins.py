"""Joins, case by case: what they give, when, in which order, and what stays in the state."""

from __future__ import annotations

import contextlib
import enum
import json
import sqlite3
from typing import Any

import pydantic
import pytest

import streamflow as sf
from streamflow.errors import DefinitionError, IncompatibleStateError, StepError
from streamflow.runtime.settings import Settings
from streamflow.testing.harness import FlowTest
from tests.unit.operators.joining import BASE, BOTH, Flow, Order, Payment, at, short


@BOTH
async def test_both_ends_of_the_interval_are_part_of_it(plain: bool) -> None:
    f = Flow(within=("2s", "5s"))
    async with FlowTest(f.flow, Settings(plain=plain)) as t:
        await t.send(f.orders, Order("a", 10))
        await t.send(f.payments, *[Payment("a", second) for second in (7.999, 8, 15, 15.001)])
        assert short(t.out(f.paid)) == [(10, 8), (10, 15)]


@BOTH
@pytest.mark.parametrize(
    ("within", "seconds"),
    [(("10s", "-5s"), (89.999, 90, 95, 95.001)), (("-5s", "10s"), (104.999, 105, 110, 110.001))],
    ids=["before", "after"],
)
async def test_an_interval_may_lie_on_one_side(within: Any, seconds: Any, plain: bool) -> None:
    f = Flow(within=within, lateness="30s")
    async with FlowTest(f.flow, Settings(plain=plain)) as t:
        await t.send(f.payments, *[Payment("a", second) for second in seconds])
        await t.send(f.orders, Order("a", 100))
        await t.send(f.orders, Order("b", 100))
        await t.crash()
        await t.send(f.payments, *[Payment("b", second) for second in seconds])
        assert short(t.out(f.paid)) == [(100, seconds[1]), (100, seconds[2])] * 2


@BOTH
async def test_what_is_behind_its_last_match_when_it_comes_does_not_wait(plain: bool) -> None:
    f = Flow(within=("10s", "-5s"), how="outer", lateness="3s")
    timed = f.paid.map(_time)
    async with FlowTest(f.flow, Settings(plain=plain)) as t:
        await t.send(f.payments, Payment("a", 90), Payment("x", 97))
        await t.send(f.orders, Order("a", 97))  # the watermark is at 94, its last match could be at 92
        assert short(t.out(f.paid)) == [(97, 90)]
        await t.send(f.orders, Order("b", 96), Order("late", 93))
        assert short(t.out(f.paid))[1:] == [(96, None)]
        assert [order.at for order in t.out(f.paid.late.left)] == [93]
        assert t.state(f.paid).keys() == {"a", "x"}  # orders have no entries
        await t.send(f.orders, Order("c", 100))  # the payment at 97 may be of an order up to 107
        await t.send(f.payments, Payment("y", 111))
        await t.crash()
        await t.send(f.orders, Order("d", 111))
        # the order's last match could be at 106, the payment's at 107
        assert short(t.out(f.paid))[2:] == [(100, None), (111, None), (None, 97)]
        await t.advance("31s")
        assert short(t.out(f.paid))[5:] == [(None, 111)]
        assert t.out(timed) == [97, 96, 100, 111, 107, 121]
        assert t.state(f.paid) == {}


@BOTH
async def test_it_does_not_matter_which_of_the_two_comes_first(plain: bool) -> None:
    f = Flow(within=("2s", "5s"), lateness="20s")
    async with FlowTest(f.flow, Settings(plain=plain)) as t:
        await t.send(f.payments, *[Payment("a", second) for second in (16, 15, 7, 8, 10)])
        await t.send(f.orders, Order("a", 10))
        assert short(t.out(f.paid)) == [(10, 8), (10, 10), (10, 15)]


@BOTH
async def test_records_of_the_same_time_match_in_the_order_of_their_arrival(plain: bool) -> None:
    f = Flow(within="1s")
    async with FlowTest(f.flow, Settings(plain=plain)) as t:
        await t.send(f.orders, *[Order("a", 3, amount) for amount in (7, 5, 6)])
        assert list(t.state(f.paid)["a"]) == [(0, at(3), 0), (0, at(3), 1), (0, at(3), 2)]
        await t.crash()
        await t.send(f.orders, Order("a", 3, 4))
        await t.send(f.payments, Payment("a", 3))
        assert [order.amount for order, _ in t.out(f.paid)] == [7, 5, 6, 4]


@BOTH
async def test_what_nothing_matched_comes_when_the_watermark_has_passed_its_last_match(plain: bool) -> None:
    f = Flow(within="5s", how="left")
    async with FlowTest(f.flow, Settings(plain=plain)) as t:
        await t.send(f.orders, Order("a", 1), Order("b", 2), Order("a", 9))
        await t.send(f.payments, Payment("x", 6))
        assert t.out(f.paid) == []  # a payment of a at 6 may still come
        await t.send(f.payments, Payment("x", 6.001))
        assert short(t.out(f.paid)) == [(1, None)]
        await t.crash()
        await t.send(f.payments, Payment("x", 7), Payment("b", 7), Payment("x", 8))
        assert short(t.out(f.paid)) == [(1, None), (2, 7)]
        assert {key: len(items) for key, items in t.state(f.paid).items() if key != "x"} == {"a": 1, "b": 1}


@pytest.mark.parametrize(
    ("how", "rows"),
    [
        ("inner", []),
        ("left", [(1, None), (5, None)]),
        ("right", [(None, 0.5), (None, 1)]),
        ("outer", [(None, 0.5), (None, 1), (1, None), (5, None)]),
    ],
)
@BOTH
async def test_the_four_ways_to_join(how: Any, rows: list[Any], plain: bool) -> None:
    f = Flow(within=("0s", "2s"), how=how)
    async with FlowTest(f.flow, Settings(plain=plain)) as t:
        await t.send(f.orders, Order("b", 1), Order("a", 3), Order("c", 5))
        await t.send(f.payments, Payment("b", 0.5), Payment("a", 1), Payment("a", 4))
        await t.advance("31s")
        assert short(t.out(f.paid)) == [(3, 4), *rows]


@BOTH
async def test_what_nothing_matched_comes_by_time_key_and_side(plain: bool) -> None:
    f = Flow(within="2s", how="outer", lateness="10s")
    async with FlowTest(f.flow, Settings(plain=plain)) as t:
        await t.send(f.payments, Payment("b", 1), Payment("z", 1), Payment("a", 2), Payment("d", 1))
        await t.send(f.orders, Order("c", 1), Order("a", 9), Order("b", 9), Order("d", 4), Order("e", 1, 7))
        await t.send(f.orders, Order("e", 1, 5))
        await t.advance("31s")
        keys = [(left or right).id if left else right.order for left, right in t.out(f.paid)]
        assert keys == ["b", "c", "d", "e", "e", "z", "a", "d", "a", "b"]
        assert [left.amount for left, _ in t.out(f.paid) if left and left.id == "e"] == [7, 5]


@BOTH
async def test_late_records_of_each_side_are_streams(plain: bool) -> None:
    f = Flow(within="5s", how="outer")
    async with FlowTest(f.flow, Settings(plain=plain)) as t:
        await t.send(f.orders, Order("a", 10), Order("a", 9.999), Order("a", 10))
        await t.send(f.payments, Payment("a", 12), Payment("a", 11))
        assert short(t.out(f.paid)) == [(10, 12), (10, 12)]
        assert t.out(f.paid.late.left) == [Order("a", 9.999)]
        assert t.out(f.paid.late.right) == [Payment("a", 11)]


@BOTH
async def test_a_record_of_a_source_that_returns_from_silence_is_late_where_all_was_told(plain: bool) -> None:
    f = Flow(within=("1s", "10s"), how="left")
    async with FlowTest(f.flow, Settings(plain=plain)) as t:
        await t.send(f.orders, Order("a", 5))
        await t.advance("31s")
        assert short(t.out(f.paid)) == [(5, None)]
        await t.crash()
        # an order at 5 can match no more; one behind it can, and a payment as well
        await t.send(f.payments, Payment("a", 5), Payment("a", 6))
        await t.send(f.orders, Order("a", 5), Order("a", 6))
        assert t.out(f.paid.late.left) == [Order("a", 5)]
        assert t.out(f.paid.late.right) == [Payment("a", 5)]
        assert short(t.out(f.paid)) == [(5, None), (6, 6)]


def _time(ctx: sf.Context[Any, Any], pair: Any) -> float:
    assert ctx.event_time is not None
    return ctx.event_time.timestamp() - BASE


@BOTH
async def test_a_pair_has_the_later_time_and_what_nothing_matched_the_last_it_could_have_matched(plain: bool) -> None:
    f = Flow(within=("2s", "5s"), how="outer")
    times = f.paid.map(_time, name="times")
    counts = f.paid.window(sf.tumbling("5s")).count(name="counts")
    async with FlowTest(f.flow, Settings(plain=plain)) as t:
        await t.send(f.orders, Order("a", 10), Order("b", 11))
        await t.send(f.payments, Payment("a", 9), Payment("a", 12), Payment("c", 13))
        await t.advance("31s")
        assert t.out(times) == [10, 12, 15, 16]
        assert [(row.key, row.value) for row in t.out(counts)] == [("a", 2), ("b", 1), ("c", 1)]
        assert t.out(counts.late) == []


@BOTH
async def test_a_stream_joined_with_itself(plain: bool) -> None:
    flow = sf.Flow("self")
    orders = flow.source(sf.MemoryTopic("orders", value=Order), time=lambda order: (BASE + int(order.at)) * 1000)
    keyed = orders.key_by(lambda order: order.id)
    pairs = keyed.join(keyed, within=("0s", "5s"), name="pairs")
    async with FlowTest(flow, Settings(plain=plain)) as t:
        await t.send(orders, Order("a", 1), Order("a", 3), Order("b", 4), Order("a", 9))
        assert short(t.out(pairs)) == [(1, 1), (1, 3), (3, 3), (4, 4), (9, 9)]


@BOTH
async def test_sides_that_come_by_way_of_batches_meet_in_the_order_of_arrival(plain: bool) -> None:
    flow = sf.Flow("branches")
    orders = flow.source(sf.MemoryTopic("orders", value=Order), time=lambda order: (BASE + int(order.at)) * 1000)
    sides = [
        orders.map_batch(lambda batch: batch, name=f"batch-{name}").key_by(lambda order: order.id, name=name)
        for name in ("left", "right")
    ]
    pairs = sides[0].join(sides[1], within="0s", how="outer", name="pairs", types=(Order, Order))
    async with FlowTest(flow, Settings(plain=plain, fragment_rows_max=2)) as t:
        await t.send(orders, *[Order("a", second) for second in range(9)])
        await t.crash()
        await t.advance("31s")
        assert short(t.out(pairs)) == [(second, second) for second in range(9)]


@BOTH
async def test_one_record_that_matches_very_many_leaves_bit_by_bit(plain: bool) -> None:
    f = Flow(within="10s")
    async with FlowTest(f.flow, Settings(plain=plain, fragment_rows_max=10)) as t:
        await t.send(f.orders, *[Order("a", second % 7) for second in range(7)], *[Order("a", 7)] * 93)
        await t.send(f.payments, Payment("a", 7))
        assert short(t.out(f.paid)) == [*[(second, 7) for second in range(7)], *[(7, 7)] * 93]


class Refund(pydantic.BaseModel):
    order: str
    at: int = pydantic.Field(alias="time")


@BOTH
async def test_pydantic_models_and_keys_of_several_parts_wait_and_come_back(plain: bool) -> None:
    f = Flow(within="5s")
    topic = sf.MemoryTopic[Refund]("refunds", value=Refund)
    refunds = f.flow.source(topic, time=lambda refund: (BASE + refund.at) * 1000)
    left = refunds.key_by(_refunded, name="by-refund")
    right = f.orders.key_by(_with_side, name="by-two")
    pairs: Any = left.join(right, within="5s", how="outer", name="pairs")
    async with FlowTest(f.flow, Settings(plain=plain)) as t:
        await t.send(refunds, Refund(order="a", time=3), Refund(order="b", time=4))
        await t.crash()
        await t.send(f.orders, Order("a", 4))
        await t.crash()
        await t.advance("31s")
        found = t.out(pairs)
        assert found == [(Refund(order="a", time=3), Order("a", 4)), (Refund(order="b", time=4), None)]


class Side(enum.Enum):
    A = "a"


def _refunded(refund: Refund) -> tuple[str, Side]:
    return refund.order, Side.A


def _with_side(order: Order) -> tuple[str, Side]:
    return order.id, Side.A


# -- bounds and errors ------------------------------------------------------------------------------------------------


@BOTH
async def test_state_is_freed_when_the_watermark_has_passed(plain: bool) -> None:
    f = Flow(within="16s", how="inner")
    async with FlowTest(f.flow, Settings(plain=plain)) as t:
        held = 0
        for second in range(0, 400, 4):
            await t.send(f.orders, Order("a", second), Order(f"o{second}", second))
            await t.send(f.payments, Payment("a", second))
            held = sum(map(len, t.state(f.paid).values()))
            # three records in 4 s, kept for 16 s and up to 1/16 of both reaches longer
            assert held <= 3 * (16 + 2) // 4 + 3
        await t.crash()
        assert sum(map(len, t.state(f.paid).values())) == held
        await t.send(f.orders, Order("x", 420))
        await t.send(f.payments, Payment("x", 420))
        assert t.state(f.paid).keys() == {"x"}


async def test_records_that_wait_can_be_read_with_sql() -> None:
    f = Flow(within="5s", how="left")
    async with FlowTest(f.flow) as t:
        await t.send(f.orders, Order("a", 1, 7), Order("b", 2))
        await t.send(f.payments, Payment("a", 3))
        query = "SELECT key, sub, value FROM paid ORDER BY 1, 2"
        with contextlib.closing(sqlite3.connect(t.path)) as connection:
            rows = [(key, json.loads(sub), json.loads(value)) for key, sub, value in connection.execute(query)]
    assert rows == [
        ("a", [0, at(1), 0], {"left": {"id": "a", "at": 1.0, "amount": 7}, "matched": True}),
        ("a", [1, at(3), 0], {"right": {"order": "a", "at": 3.0}, "matched": True}),
        ("b", [0, at(2), 0], {"left": {"id": "b", "at": 2.0, "amount": 0}}),
    ]


@BOTH
async def test_a_key_more_than_max_keys_is_an_error_and_can_be_left_out(plain: bool) -> None:
    f = Flow(within="5s", max_keys=2, on_error=sf.skip)
    async with FlowTest(f.flow, Settings(plain=plain)) as t:
        await t.send(f.orders, Order("a", 1), Order("b", 2), Order("c", 3), Order("a", 4))
        await t.send(f.payments, Payment("c", 3), Payment("b", 3))
        assert short(t.out(f.paid)) == [(2, 3)]
        await t.crash()
        await t.send(f.orders, Order("c", 4), Order("b", 40))
        await t.send(f.payments, Payment("b", 40))
        await t.send(f.orders, Order("c", 40))
        assert t.state(f.paid).keys() == {"b", "c"}
    f = Flow(within="5s", max_keys=1)
    async with FlowTest(f.flow, Settings(plain=plain)) as t:
        with pytest.raises(StepError, match=r"paid.*as many as max_keys.*source 'orders'"):
            await t.send(f.orders, Order("a", 1), Order("b", 2))


@BOTH
async def test_a_record_that_cannot_be_stored_is_left_out_whole(plain: bool) -> None:
    f = Flow(within="5s")
    odd: Any = f.by_order.map(lambda order: (order.id,) if order.amount % 2 else order.id, name="odd")
    pairs = odd.join(f.by_payment, within="5s", how="left", name="pairs", on_error=sf.skip)
    async with FlowTest(f.flow, Settings(plain=plain)) as t:
        await t.send(f.payments, Payment("a", 1))
        await t.send(f.orders, Order("a", 1, 1), Order("a", 1, 2), Order("b", 1, 3))
        await t.advance("31s")
        assert t.out(pairs) == [("a", Payment("a", 1))]  # a tuple of no declared type would come back as a list


def _by_text(order: Order) -> str:
    return order.id


def _by_number(payment: Payment) -> int:
    return int(payment.order)


def test_what_cannot_be_joined_is_refused_when_the_graph_is_built() -> None:
    f = Flow(within="5s")
    texts, numbers = f.orders.key_by(_by_text), f.payments.key_by(_by_number)
    with pytest.raises(DefinitionError, match="keys of different types: str on the left, int on the right"):
        texts.join(numbers, within="5s", name="x")
    wrong: Any = f.by_order
    with pytest.raises(DefinitionError, match="needs keys on both sides"):
        wrong.join(f.payments, within="5s", name="x")
    with pytest.raises(DefinitionError, match="another flow"):
        wrong.join(Flow(within="5s").by_payment, within="5s", name="x")
    with pytest.raises(DefinitionError, match="either within= or window="):
        wrong.join(f.by_payment, name="x")
    with pytest.raises(DefinitionError, match="either within= or window="):
        wrong.join(f.by_payment, within="5s", window=sf.tumbling("5s"), name="x")
    with pytest.raises(DefinitionError, match="how='full'"):
        wrong.join(f.by_payment, within="5s", how="full", name="x")
    for within in (("5s", "-6s"), ("-6s", "5s"), "-1s"):
        with pytest.raises(DefinitionError, match="ends before it begins"):
            wrong.join(f.by_payment, within=within, name="x")
    with pytest.raises(DefinitionError, match="is no interval"):
        wrong.join(f.by_payment, within=("5s", "6s", "7s"), name="x")
    with pytest.raises(DefinitionError, match="windows that are 5 records every 5"):
        wrong.join(f.by_payment, window=sf.count_window(5), name="x")
    unkeyed: Any = f.orders
    unchecked: Any = f.by_order
    with pytest.raises(DefinitionError, match="a join takes no max_key=") as caught:
        unchecked.join(f.by_payment, within="5s", name="x", max_key=5)
    assert "max_keys=" in caught.value.hint
    with pytest.raises(DefinitionError, match="needs a stable name"):
        unchecked.join(f.by_payment, within="5s")
    with pytest.raises(DefinitionError, match="a join takes no every="):
        unchecked.join_asof(f.by_payment, name="x", every=5)
    with pytest.raises(DefinitionError, match="join keeps state per key"):
        unkeyed.join(f.by_payment, within="5s", name="x")
    with pytest.raises(DefinitionError, match="two steps called 'paid'"):
        wrong.join(f.by_payment, within="5s", name="paid")


def test_a_source_without_event_time_cannot_be_joined() -> None:
    flow = sf.Flow("untimed")
    sides = [flow.source(sf.MemoryTopic(name, value=str)).key_by(str, name=f"{name}-key") for name in ("a", "b")]
    sides[0].join(sides[1], within="5s", name="x")
    with pytest.raises(DefinitionError, match="join step 'x' goes by event time, and source 'a' has none"):
        flow.plan()


@BOTH
async def test_keys_of_two_types_that_no_annotation_tells_are_an_error(plain: bool) -> None:
    flow = sf.Flow("types")
    topics = [sf.MemoryTopic[Any](name, value=int) for name in ("a", "b")]
    sources = [flow.source(topic, time=lambda number: (BASE + number) * 1000) for topic in topics]
    texts, numbers = sources[0].key_by(str, name="ka"), sources[1].key_by(lambda n: n, name="kb")
    mixed: Any = texts
    mixed.join(numbers, within="5s", name="x")
    async with FlowTest(flow, Settings(plain=plain)) as t:
        await t.send(sources[0], 1)
        await t.crash()
        with pytest.raises(StepError, match="key 1 is int, the keys before were str"):
            await t.send(sources[1], 1)


async def test_a_record_type_that_changed_is_refused_over_its_state(tmp_path: Any) -> None:
    def flow_of(kind: Any, how: Any) -> tuple[sf.Flow, Any]:
        flow = sf.Flow("retyped", state=tmp_path / "state.db")
        sources = [
            flow.source(sf.MemoryTopic[Any](name, value=kind), time=lambda record: record["at"], idle=None)
            for name in ("a", "b")
        ]
        left, right = (source.key_by(lambda record: "k", name=f"{source.name}-key") for source in sources)
        left.join(right, within="5s", how=how, name="paid")
        return flow, sources[0]

    flow, topic = flow_of(dict[str, int], "inner")
    async with flow.running() as running:
        await running.push(topic, {"at": BASE * 1000})
    for kind, how in ((dict[str, str], "inner"), (dict[str, int], "outer")):
        flow, _ = flow_of(kind, how)
        with pytest.raises(IncompatibleStateError, match="type of state of step 'paid' changed"):
            await flow.run()
