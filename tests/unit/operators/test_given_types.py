"""The types of accumulators: of the stream, of what a function plainly reads, or as annotated or named."""

from __future__ import annotations

import datetime
import enum
import operator
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Generic, TypedDict, TypeVar

import msgspec
import pydantic
import pytest

import streamflow as sf
from streamflow.errors import EncodeError
from streamflow.operators.given_types import given_type

T = TypeVar("T")


class Side(enum.Enum):
    BUY = "b"
    SELL = "s"


class Line(msgspec.Struct):
    price: Decimal
    tags: tuple[str, ...] = ()


class Told(TypedDict):
    at: datetime.datetime


class Model(pydantic.BaseModel):
    price: Decimal = pydantic.Field(alias="p")


@dataclass
class Box(Generic[T]):
    held: T
    price: Decimal


@dataclass
class Quote:
    name: str
    price: Decimal
    at: datetime.datetime
    side: Side = Side.BUY
    lines: list[Line] = field(default_factory=list)
    told: Told | None = None
    by_side: dict[str, Line] = field(default_factory=dict)

    @property
    def half(self) -> Decimal:
        return self.price / 2

    def third(self) -> Decimal:
        return self.price / 3


SEEN: Any = defaultdict(list)

READ: dict[str, tuple[Callable[..., Any], Any, Any]] = {
    "the record": (lambda q: q, Quote, Quote),
    "a field": (lambda q: q.price, Quote, Decimal),
    "a field of a struct in a list": (lambda q: q.lines[-1].price, Quote, Decimal),
    "a value of a dict": (lambda q: q.by_side["b"], Quote, Line),
    "a property": (lambda q: q.half, Quote, Decimal),
    "fields": (lambda q: (q.name, (q.at, 1)), Quote, tuple[Any, tuple[datetime.datetime, Any]]),
    "an item of a tuple": (lambda q: q[1], tuple[str, Decimal], Decimal),
    "an item of many": (lambda q: q[5], tuple[Decimal, ...], Decimal),
    "a key of a TypedDict": (lambda q: q["at"], Told, datetime.datetime),
    "a field of a model": (lambda m: m.price, Model, Decimal),
    "an attrgetter": (operator.attrgetter("side"), Quote, Side),
    "an itemgetter": (operator.itemgetter(1), tuple[str, Side], Side),
    "a class": (Decimal, str, Decimal),
    "a field of a generic class": (lambda b: b.price, Box, Decimal),
}

UNKNOWN: dict[str, tuple[Callable[..., Any], Any]] = {
    "what JSON tells": (lambda q: q.name, Quote),
    "a call": (lambda q: q.third(), Quote),
    "a sum": (lambda q: q.price + 1, Quote),
    "one of two": (lambda q: q.price or q.at, Quote),
    "a choice": (lambda q: q.price if q.name else None, Quote),
    "a comparison": (lambda q: q.side == Side.BUY, Quote),
    "a part of an optional": (lambda q: q.told["at"], Quote),
    "a field that is not there": (lambda q: q.cost, Quote),
    "a slice": (lambda q: q.lines[1:], Quote),
    "a look-up that would add": (lambda q: SEEN[q.price], Quote),
    "a type variable": (lambda b: b.held, Box),
    "no type": (lambda q: q.price, None),
}


@pytest.mark.parametrize("what", READ)
def test_what_is_plainly_read_has_its_type(what: str) -> None:
    function, record, kind = READ[what]
    assert given_type(function, record) == kind


@pytest.mark.parametrize("what", UNKNOWN)
def test_all_else_is_any(what: str) -> None:
    function, record = UNKNOWN[what]
    assert given_type(function, record) is Any
    assert not SEEN


def test_nothing_of_the_users_is_called() -> None:
    calls: list[Any] = []

    def told(quote: Any) -> Any:
        calls.append(quote)
        return quote

    for function in (told, calls.append, lambda q: told(q.price), lambda q: (told(q), q.price)):
        assert given_type(function, Quote) is Any
    assert calls == []


def test_an_annotation_is_taken_at_its_word() -> None:
    def annotated(quote: Any) -> Line:
        return Line(Decimal(1))

    assert given_type(annotated, None) is Line
    assert given_type(Quote.third, Quote) is Decimal


def _at(second: int) -> datetime.datetime:
    return datetime.datetime(2026, 1, 1, 0, 0, second, tzinfo=datetime.UTC)


QUOTES = [Quote("a", Decimal("1.5"), _at(1)), Quote("a", Decimal("2.5"), _at(2), Side.SELL)]

KEEPERS: dict[str, tuple[sf.Aggregator[Quote, Any, Any], Any]] = {
    "collect": (sf.collect(), QUOTES),
    "last record": (sf.last(), QUOTES[1]),
    "last by a lambda": (sf.last(lambda q: q), QUOTES[1]),
    "last time": (sf.last(lambda q: q.at), _at(2)),
    "first side": (sf.first(lambda q: q.side), Side.BUY),
    "min": (sf.min(lambda q: q.price), Decimal("1.5")),
    "max of a pair": (sf.max(lambda q: (q.price, q.at)), (Decimal("2.5"), _at(2))),
    "max by a call, named": (sf.max(lambda q: q.third(), kind=Decimal), Decimal("2.5") / 3),
    "sum": (sf.sum(lambda q: q.price), Decimal("4.0")),
    "top_k": (sf.top_k(1, lambda q: q.at), [QUOTES[1]]),
    "top_k, named": (sf.top_k(1, lambda q: q.at, kind=Quote), [QUOTES[1]]),
    "reduce": (sf.reduce(lambda one, other: other), QUOTES[1]),
    "distinct": (sf.distinct(lambda q: q.price), 2),
}


@pytest.mark.parametrize("windows", [False, True])
@pytest.mark.parametrize("name", KEEPERS)
async def test_aggregators_keep_records_of_the_streams_type(name: str, windows: bool) -> None:
    aggregator, expected = KEEPERS[name]
    flow = sf.Flow("typed")
    quotes = flow.source(sf.MemoryTopic("quotes", value=Quote), time=lambda q: q.at, future_max="3650d")
    keyed = quotes.key_by(lambda q: q.name)
    alone: Any = keyed.agg(aggregator, name="alone")
    several: Any = keyed.agg(name="several", n=sf.count(), it=aggregator)
    if windows:
        alone = keyed.window(sf.sliding("2m", "1m")).agg(aggregator, name="wide")
        several = keyed.window(sf.tumbling("1m")).agg(name="narrow", n=sf.count(), it=aggregator)
    async with flow.test() as t:
        for quote in QUOTES:
            await t.send(quotes, quote)
            await t.crash()
        await t.advance("31s")
        last, both = t.out(alone)[-1], t.out(several)[-1]
        assert (last.value if windows else last[1]) == expected
        assert (both.value if windows else both[1]) == {"n": 2, "it": expected}


@pytest.mark.parametrize("windows", [False, True])
async def test_where_nothing_tells_the_hint_names_the_way_out(windows: bool) -> None:
    flow = sf.Flow("untold")
    quotes = flow.source(sf.MemoryTopic("quotes", value=Quote), time=lambda q: q.at, future_max="3650d")
    keyed: Any = quotes.key_by(lambda q: q.name)
    third: Any = lambda q: q.third()  # noqa: E731
    (keyed.window(sf.tumbling("1m")) if windows else keyed).agg(sf.max(third), name="untold")
    async with flow.test() as t:
        with pytest.raises(EncodeError, match=r"Decimal\('0\.5'\).*comes back from its codec as .*'0\.5'") as told:
            await t.send(quotes, QUOTES[0])
        assert "kind=" in told.value.hint
