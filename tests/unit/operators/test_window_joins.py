"""Joins in windows and sessions, case by case: what they give, when, in which order, and what stays in the state."""

from __future__ import annotations

from typing import Any

import pytest

import streamflow as sf
from streamflow.runtime.settings import Settings
from streamflow.testing.harness import FlowTest
from tests.unit.operators.joining import BASE, BOTH, Flow, Order, Payment, in_windows, short

DAYS = sf.tumbling("1d", tz="Europe/Berlin")


@BOTH
async def test_windows_give_the_pairs_of_a_window_at_its_end_in_order(plain: bool) -> None:
    f = Flow(window=sf.tumbling("10s"), how="outer", lateness="10s")
    async with FlowTest(f.flow, Settings(plain=plain)) as t:
        await t.send(f.orders, Order("b", 4), Order("a", 5), Order("a", 2), Order("c", 12))
        await t.send(f.payments, Payment("a", 9), Payment("a", 3), Payment("d", 0))
        await t.send(f.orders, Order("x", 20))
        assert t.out(f.paid) == []
        await t.crash()
        await t.send(f.payments, Payment("x", 20))
        rows = [("a", 0, 2, 3), ("a", 0, 2, 9), ("a", 0, 5, 3), ("a", 0, 5, 9), ("b", 0, 4, None), ("d", 0, None, 0)]
        assert in_windows(t.out(f.paid)) == rows
        assert t.state(f.paid).keys() == {"c", "x"}


@BOTH
async def test_a_record_late_for_some_of_its_sliding_windows_counts_in_the_others(plain: bool) -> None:
    f = Flow(window=sf.sliding("10s", "5s"), how="inner")
    async with FlowTest(f.flow, Settings(plain=plain)) as t:
        # the orders are past the window that ends at 10 and the payments are not
        await t.send(f.orders, Order("a", 11), Order("a", 6), Order("a", 4))
        await t.send(f.payments, Payment("a", 7))
        await t.crash()
        await t.send(f.payments, Payment("a", 21))
        await t.send(f.orders, Order("x", 30))
        assert in_windows(t.out(f.paid)) == [("a", 5, 6, 7), ("a", 5, 11, 7)]
        assert t.out(f.paid.late.left) == [Order("a", 4)]


@BOTH
async def test_a_window_that_all_records_of_a_key_are_late_for_gives_nothing(plain: bool) -> None:
    f = Flow(window=sf.sliding("9s", "3s"), how="outer")
    async with FlowTest(f.flow, Settings(plain=plain)) as t:
        await t.send(f.orders, Order("x", 30), Order("a", 27))  # late for the windows that end at 30
        await t.advance("31s")
        assert [row for row in in_windows(t.out(f.paid)) if row[0] == "a"] == [("a", 24, 27, None), ("a", 27, 27, None)]


@BOTH
async def test_a_session_is_what_both_sides_make_together(plain: bool) -> None:
    f = Flow(window=sf.session("5s"), how="outer", lateness="10s")
    async with FlowTest(f.flow, Settings(plain=plain)) as t:
        await t.send(f.orders, Order("a", 20), Order("a", 10))
        await t.send(f.payments, Payment("a", 15), Payment("a", 26))  # 10, 15 and 20 are no more than 5 s apart
        await t.crash()
        await t.send(f.payments, Payment("b", 35.001))
        assert t.out(f.paid) == []
        await t.send(f.orders, Order("c", 36))  # the watermark is at 25.001
        assert in_windows(t.out(f.paid)) == [("a", 10, 10, 15), ("a", 10, 20, 15)]
        await t.send(f.orders, Order("late", 25.5))  # behind its watermark, though a session of it would be open
        assert [order.id for order in t.out(f.paid.late.left)] == ["late"]
        assert t.state(f.paid).keys() == {"a", "b", "c"}
        await t.advance("31s")
        assert in_windows(t.out(f.paid))[2:] == [
            ("a", 26, None, 26),
            ("b", 35, None, 35.001),
            ("c", 36, 36, None),
        ]
        assert [row.end.timestamp() - BASE for row in t.out(f.paid)] == pytest.approx([25, 25, 31, 40.001, 41])
        assert t.state(f.paid) == {}


@BOTH
async def test_a_record_between_two_sessions_makes_them_one(plain: bool) -> None:
    f = Flow(window=sf.session("5s"), lateness="60s")
    async with FlowTest(f.flow, Settings(plain=plain)) as t:
        await t.send(f.orders, Order("a", 10), Order("a", 20), Order("a", 26))
        await t.crash()
        await t.send(f.payments, Payment("a", 15))
        await t.advance("31s")
        assert in_windows(t.out(f.paid)) == [("a", 10, 10, 15), ("a", 10, 20, 15)]


@BOTH
@pytest.mark.parametrize("window", [sf.tumbling("10s"), sf.session("5s")], ids=str)
async def test_windows_before_1970_are_windows_too(window: Any, plain: bool) -> None:
    f = Flow(window=window, how="left")
    async with FlowTest(f.flow, Settings(plain=plain)) as t:
        await t.send(f.orders, Order("a", -BASE - 100), Order("b", -BASE - 98))
        await t.send(f.payments, Payment("a", -BASE - 99))
        await t.advance("31s")
        assert [(row.key, *short([row.value])[0]) for row in t.out(f.paid)] == [
            ("a", -BASE - 100, -BASE - 99),
            ("b", -BASE - 98, None),
        ]


async def test_windows_that_follow_the_calendar() -> None:
    f = Flow(window=DAYS)
    async with FlowTest(f.flow) as t:
        await t.send(f.orders, Order("a", 0), Order("a", 82_800))
        await t.send(f.payments, Payment("a", 82_799), Payment("a", 82_801))
        await t.advance("31s")
        assert short([row.value for row in t.out(f.paid)]) == [(0, 82_799), (82_800, 82_801)]
