"""Pydantic models as values and as state: aliases, strictness, models inside of other types."""

from __future__ import annotations

import datetime
import subprocess
import sys
import uuid
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import msgspec
import pydantic
import pytest

import streamflow as sf
from streamflow.codecs import JsonCodec, MsgpackCodec, PydanticCodec, codec_for, fingerprint, immutable
from streamflow.errors import DefinitionError, StepError

T = TypeVar("T")


class Line(pydantic.BaseModel):
    sku: str
    count: int = pydantic.Field(gt=0)


class Order(pydantic.BaseModel):
    id: uuid.UUID
    at: datetime.datetime
    user: str = pydantic.Field(alias="userName")
    lines: list[Line] = []


class Refund(pydantic.BaseModel):
    amount: int


class Account(pydantic.BaseModel):
    spent: int = 0
    seen: list[str] = []


class Page(pydantic.BaseModel, Generic[T]):
    items: list[T]


class OneWay(pydantic.BaseModel):
    value: int = pydantic.Field(0, serialization_alias="written")


class Node(pydantic.BaseModel):
    next: Node | None = None


@pydantic.dataclasses.dataclass
class Point:
    x: int


@dataclass
class Envelope:
    order: Order
    note: str


class Wire(msgspec.Struct):
    order: Order | None


ORDER = Order(
    id=uuid.UUID(int=7), at=datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC), userName="ann",
    lines=[Line(sku="a", count=2)],
)  # fmt: skip

VALUES: list[tuple[Any, Any]] = [
    (Order, ORDER),
    (list[Order], [ORDER, ORDER]),
    (tuple[str, Order], ("ann", ORDER)),
    (Order | None, None),
    (Order | Refund, Refund(amount=3)),
    (dict[str, Line], {"a": Line(sku="a", count=1)}),
    (Page[int], Page[int](items=[1, 2])),
    (Point, Point(4)),
    (Node, Node(next=Node())),
    (Envelope, Envelope(ORDER, "x")),
    (Wire, Wire(ORDER)),
]


@pytest.mark.parametrize(("kind", "value"), VALUES)
def test_models_come_back_as_they_were(kind, value):
    codec = codec_for(kind)
    assert codec.name == "json"
    again = codec.decode(codec.encode(value))
    assert again == value
    assert type(again) is type(value)


@pytest.mark.parametrize(("kind", "value"), [(Envelope, Envelope(ORDER, "x")), (Wire, Wire(ORDER)), (Order, ORDER)])
def test_models_in_messagepack(kind, value):
    codec = sf.msgpack(kind)
    assert isinstance(codec, MsgpackCodec)
    assert codec.decode(codec.encode(value)) == value


def test_a_model_is_written_under_its_aliases_wherever_it_stands():
    for kind, value in ((Order, ORDER), (Envelope, Envelope(ORDER, "x"))):
        text = codec_for(kind).encode(value)
        assert b'"userName":"ann"' in text
        assert b'"user"' not in text
    assert b'"userName":"ann"' in JsonCodec[Any](Any).encode({"order": ORDER})


@pytest.mark.parametrize("kind", [Order, list[Order], Envelope, Wire])
@pytest.mark.parametrize(
    "data",
    [
        b"", b"{", b"\xff", b"null!", b"[1]", b'{"userName":"a"}', b'{"order":{"id":"x"},"note":""}',
        b'[{"id":"00000000-0000-0000-0000-000000000007","at":"2026-01-02","userName":"a","lines":[{"sku":"a","count":0}]}]',
    ],
)  # fmt: skip
def test_what_a_model_refuses_is_a_value_error(kind, data):
    with pytest.raises(ValueError, match=r"."):
        codec_for(kind).decode(data)


def test_each_model_is_written_as_its_own_class_says():
    class Special(Line):
        gift: bool = True

    line = Special(sku="a", count=1)
    for kind, value in ((Line, line), (list[Line], [line])):
        assert b'"gift":true' in codec_for(kind).encode(value)
    with pytest.raises(ValueError, match="Expected `str`"):
        codec_for(Line).encode(Line.model_construct(sku=1, count=2))


def test_what_is_no_model_and_unknown_is_refused():
    with pytest.raises(TypeError, match="Encoding objects of type complex is unsupported"):
        codec_for(Order).encode(1j)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="Encoding objects of type complex is unsupported"):
        MsgpackCodec[Any](Any).encode(1j)


def test_a_pydantic_dataclass_keeps_its_aliases():
    @pydantic.dataclasses.dataclass
    class Aliased:
        x: int = pydantic.Field(alias="X")

    for kind, value in ((Aliased, Aliased(X=1)), (list[Aliased], [Aliased(X=1)])):
        codec = codec_for(kind)
        assert b'"X":1' in codec.encode(value)
        assert codec.decode(codec.encode(value)) == value


def test_an_incomplete_model_is_refused_when_the_flow_is_written():
    class Broken(pydantic.BaseModel):
        other: Missing  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(DefinitionError, match="Broken cannot be read from JSON") as caught:
        codec_for(Broken)
    assert "Define the model completely" in caught.value.hint


def test_fingerprints_change_with_fields_and_names_on_the_wire():
    assert fingerprint(Line) == "Line(sku: str, count: int)"
    assert fingerprint(Order).startswith("Order(id: UUID, at: datetime, userName: str, lines: list[Line(sku: str")
    assert fingerprint(OneWay) == "OneWay(written: int)"
    assert fingerprint(Node) == "Node(next: Union[Node, NoneType])"


def test_only_frozen_models_of_immutable_fields_are_immutable():
    class Frozen(pydantic.BaseModel, frozen=True):
        x: int
        parts: tuple[str, ...] = ()

    class HoldsList(pydantic.BaseModel, frozen=True):
        x: list[int]

    class Open(pydantic.BaseModel, frozen=True, extra="allow"):
        x: int

    class Hides(pydantic.BaseModel, frozen=True):
        x: int
        _cache: dict[str, int] = pydantic.PrivateAttr(default_factory=dict)

    assert immutable(Frozen)
    assert [immutable(kind) for kind in (Line, HoldsList, Open, Hides)] == [False] * 4


def test_pydantic_is_not_imported_by_streamflow():
    code = "import sys, streamflow; sys.exit('pydantic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


async def test_a_flow_of_models_with_a_model_as_state():
    flow = sf.Flow("models")
    orders = flow.source(sf.MemoryTopic("orders", value=Order))

    @orders.key_by(lambda o: o.user).process(state=Account)
    def accounts(ctx: sf.Context[str, Account], order: Order) -> list[Account]:
        ctx.state.spent += sum(line.count for line in order.lines)
        ctx.state.seen.append(str(order.id)[-1])
        return [ctx.state]

    accounts.to(sf.MemoryTopic("accounts", value=Account))
    accounts.to(sf.MemoryTopic("anything"), name="untyped")
    async with flow.test() as t:
        await t.send(orders, ORDER)
        await t.crash()
        await t.send(orders, ORDER)
        # the state is changed in place, and what was emitted before is not
        assert [account.spent for account in t.out(accounts)] == [2, 4]
        assert t.sink("accounts") == [Account(spent=2, seen=["7"]), Account(spent=4, seen=["7", "7"])]
        assert t.sink("untyped")[1] == {"spent": 4, "seen": ["7", "7"]}
        assert t.state(accounts) == {"ann": Account(spent=4, seen=["7", "7"])}


async def test_a_model_that_cannot_read_what_it_writes_is_no_state():
    flow = sf.Flow("one-way")
    numbers = flow.source(sf.MemoryTopic("numbers", value=int))

    @numbers.key_by(lambda n: "k").process(state=OneWay)
    def keep(ctx: sf.Context[str, OneWay], number: int) -> None:
        ctx.state.value = number

    with pytest.raises(StepError, match=r"keep.*comes back from its codec as OneWay\(value=0\)"):  # noqa: PT012
        async with flow.test() as t:
            await t.send(numbers, 5)
            await t.advance("1s")


def test_only_models_go_through_pydantic():
    assert isinstance(codec_for(list[Order]), PydanticCodec)
    assert isinstance(codec_for(Envelope), JsonCodec)
    assert isinstance(codec_for(dict[str, int]), JsonCodec)
