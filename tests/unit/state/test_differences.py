"""Of a large value that does not come back, the part that differs is shown."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import msgspec
import pydantic
import pytest

from streamflow.codecs import JsonCodec
from streamflow.errors import EncodeError
from streamflow.state.differences import SHOWN_MAX, difference
from streamflow.state.keyed import Table

LONG = "x" * 200


@dataclass
class Order:
    id: str
    lines: list[Any] = field(default_factory=list)


class Line(msgspec.Struct):
    text: str
    price: Any


class Model(pydantic.BaseModel):
    text: str
    price: Any


CASES: dict[str, tuple[Any, Any, str]] = {
    "small": ((1, 2), [1, 2], "(1, 2) comes back from its codec as [1, 2]"),
    "a field": (
        Order(LONG, [Line(LONG, 1), Line(LONG, Decimal(2))]),
        Order(LONG, [Line(LONG, 1), Line(LONG, "2")]),
        "its part .lines[1].price, Decimal('2'), comes back from its codec as '2'",
    ),
    "a model": (
        {"k": Model(text=LONG, price=Decimal(2))},
        {"k": Model(text=LONG, price="2")},
        "its part ['k'].price, Decimal('2'), comes back from its codec as '2'",
    ),
    "a type": ([LONG, True], [LONG, 1], "its part [1], True, comes back from its codec as 1"),
    "a part that is large": (
        [0] * 300 + [(1, 2)],
        [0] * 300 + [[1, 2]],
        "its part [300], (1, 2), comes back from its codec as [1, 2]",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_part_that_differs_is_shown(case: str) -> None:
    before, after, told = CASES[case]
    assert difference(before, after) == told


def test_a_long_text_is_cut_to_where_it_differs() -> None:
    told = difference({"text": LONG + "a" + LONG}, {"text": LONG + "b" + LONG})
    assert told.startswith("its part ['text'], ...xxxx")
    assert "a" in told.split(",")[1]
    assert "xbx" in told
    assert len(told) < 3 * SHOWN_MAX


def test_values_of_another_length_or_class_are_cut_where_they_part() -> None:
    assert "..." in difference([LONG, 1], [LONG])
    assert "tuple" not in difference({LONG: 1}, {LONG: 1, "more": 2})
    assert "more" in difference({LONG: 1}, {LONG: 1, "more": 2})


def test_a_table_tells_it() -> None:
    table: Table[Any] = Table("orders", JsonCodec(Any))
    with pytest.raises(EncodeError, match=r"its part \['when'\], \(1, 2\), comes back from its codec as \[1, 2\]"):
        table.encoded("k", {"text": LONG, "when": (1, 2)})
