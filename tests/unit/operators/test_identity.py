"""What `distinct` counts as one value."""

from __future__ import annotations

import datetime
import enum
import math
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import streamflow as sf
from streamflow.errors import StepError
from streamflow.operators.identity import identity

NUMBERS = st.integers(-(10**20), 10**20) | st.floats(allow_nan=False) | st.decimals(allow_nan=False)


class Colour(enum.Enum):
    RED = 1.5
    BLUE = None


@given(one=NUMBERS, other=NUMBERS)
@example(one=2**53 + 1, other=Decimal(2**53 + 1))
@example(one=2**53, other=2.0**53)
@example(one=0.1, other=Decimal("0.1"))
@example(one=Decimal("0.10"), other=Decimal("0.1"))
@example(one=-0.0, other=Decimal("-0.00"))
@example(one=math.inf, other=Decimal("Infinity"))
@example(one=Decimal("1E+5000000"), other=Decimal("10E+4999999"))
def test_numbers_are_one_value_exactly_where_they_are_equal(one: Any, other: Any) -> None:
    assert (identity(one) == identity(other)) == (one == other)


@given(st.integers(-50, 50), st.integers(-3, 3))
def test_one_number_written_in_many_ways(units: int, exponent: int) -> None:
    value = Decimal(units).scaleb(exponent)
    ways = [value, value.normalize(), value.quantize(Decimal("1e-9"))]
    if value == float(value):
        ways.append(float(value))  # type: ignore[arg-type]
    if value == int(value):
        ways.append(int(value))  # type: ignore[arg-type]
    assert len(set(map(identity, ways))) == 1


def test_all_else_is_apart() -> None:
    apart = [1, True, "1", 0, False, None, "null", "none", b"1", math.nan, math.inf, -math.inf, Colour.RED, Colour.BLUE]
    apart += [1.5, (1,), (1.5,), (None,), ((1,),), (1, 2), "[1,2]", datetime.date(2026, 1, 1)]
    apart += [datetime.datetime(2026, 1, 1), datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)]
    assert len(set(map(identity, apart))) == len(apart)
    assert identity(math.nan) == identity(-math.nan) == identity(Decimal("NaN"))


@pytest.mark.parametrize("make", [sf.distinct, sf.approx_distinct])
async def test_prices_are_counted(make: Any) -> None:
    flow = sf.Flow("prices")
    source = flow.source(sf.MemoryTopic("in"))
    counts = source.key_by(lambda _: "all").agg(make(lambda price: price), name="counts")
    async with flow.test() as t:
        await t.send(source, 1.5, 2, 2.0, None, True)
        await t.crash()
        await t.send(source, None, 1.5, "2", float(2))
        assert [count for _, count in t.out(counts)] == [1, 2, 2, 3, 4, 4, 4, 5, 5]


@pytest.mark.parametrize("make", [sf.distinct, sf.approx_distinct])
async def test_what_cannot_be_told_apart_is_refused_with_a_way_out(make: Any) -> None:
    flow = sf.Flow("tags")
    source = flow.source(sf.MemoryTopic("in"))
    source.key_by(lambda _: "all").agg(make(lambda tags: tags), name="counts")
    with pytest.raises(StepError, match=r"step 'counts' raised TypeError: list values.*such as tuple\(tags\)"):
        async with flow.test() as t:
            await t.send(source, ["a"])
