"""State codecs that lie (S6): a value that does not come back as it was is refused with step and key, never stored."""

from __future__ import annotations

import datetime
import decimal
import enum
import json
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest

import streamflow as sf
from streamflow.codecs import JsonCodec
from streamflow.errors import EncodeError
from streamflow.state.keyed import Table


class Color(enum.Enum):
    RED = "r"


@dataclass
class Account:
    spent: int = 0
    tags: tuple[str, ...] = ()
    color: Color = Color.RED
    at: datetime.datetime = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    parts: dict[str, list[float]] = field(default_factory=dict)


class Item(msgspec.Struct):
    id: uuid.UUID
    price: decimal.Decimal
    of: frozenset[int] = frozenset()


class Careless:
    """JSON as most programs write it: tuples become lists, all else text."""

    name = "careless"

    def encode(self, value: Any, /) -> bytes:
        return json.dumps(value, default=str, separators=(",", ":")).encode()

    def decode(self, data: bytes, /) -> Any:
        return json.loads(data)


@pytest.mark.parametrize(
    "value",
    [
        Account(1, ("a", "b"), Color.RED, parts={"x": [1.5]}),
        Item(uuid.UUID(int=7), decimal.Decimal("0.10"), frozenset({1, 2})),
        ("a", 1),
        Color.RED,
        datetime.datetime(2026, 1, 1, 2, 3, tzinfo=datetime.timezone(datetime.timedelta(hours=2))),
        datetime.timedelta(days=1, microseconds=1),
        b"\x00\xff",
        2**70,
        -0.0,
        1e308,
        {"a": (1, 2)},
        {1: "one"},
        {Color.RED: 1},
        [None, True, "é\u0000"],
    ],
    ids=repr,
)
def test_what_the_typed_codec_writes_comes_back_as_it_was(value: Any) -> None:
    kind: Any = tuple[str, int] if isinstance(value, tuple) else type(value)
    if value == {"a": (1, 2)}:
        kind = dict[str, tuple[int, int]]
    elif value == {1: "one"}:
        kind = dict[int, str]
    elif value == {Color.RED: 1}:
        kind = dict[Color, int]
    table: Table[Any] = Table("step", JsonCodec(kind))
    table.put("ann", value)
    table.seal()
    delta = table.encode(10)
    assert delta is not None
    other: Table[Any] = Table("step", JsonCodec(kind))
    from streamflow.state.splitting import delta_entries

    other.install(delta_entries(delta.payload))
    again = other.peek("ann")
    assert again == value
    assert type(again) is type(value)
    assert str(again) == str(value), "the sign of a zero, the digits of a decimal"


LIES = {
    "tuple to list": (Any, ("a", 1)),
    "tuple in a list": (list[Any], [("a", 1)]),
    "nan to null": (float, float("nan")),
    "nan inside": (dict[str, Any], {"x": float("nan")}),
    "infinity": (float, float("inf")),
    "enum to its value": (Any, Color.RED),
    "datetime to text": (Any, datetime.datetime(2026, 1, 1)),
    "dataclass to dict": (Any, Account()),
    "struct to dict": (Any, Item(uuid.UUID(int=1), decimal.Decimal(1))),
    "set to list": (Any, {1, 2}),
    "bytes to text": (Any, b"abc"),
    "uuid to text": (Any, uuid.UUID(int=1)),
    "int keys to text": (dict[Any, Any], {1: "one"}),
    "text to a number": (int, "7"),
    "bool to int": (int, True),
    "subclass": (dict, type("Sub", (dict,), {})(a=1)),
    "not at all": (Any, object()),
    "a function": (Any, len),
    "surrogate": (str, "\ud800"),
}


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("at", [0, 1500], ids=["first", "thousandth"])
def test_a_lie_is_found_out_and_named(lie: str, at: int) -> None:
    kind, value = LIES[lie]
    table: Table[Any] = Table("accounts", JsonCodec(kind))
    # late in the life of a table only every thousandth value is looked at, and whatever holds a null
    table._encoded = at - at % 1000 + 999 if at else 0
    table.put("ann", value)
    table.seal()
    with pytest.raises(EncodeError, match=r"state of step 'accounts' cannot be stored for key 'ann'") as caught:
        table.encode(10)
    assert caught.value.hint


@pytest.mark.parametrize("lie", ["tuple to list", "enum to its value", "datetime to text", "int keys to text"])
def test_a_codec_of_ones_own_is_held_to_the_same(lie: str) -> None:
    table: Table[Any] = Table("accounts", Careless())
    table.put("ann", LIES[lie][1])
    table.seal()
    with pytest.raises(EncodeError, match="comes back from its codec as"):
        table.encode(10)


async def test_in_a_running_flow_nothing_of_such_an_epoch_is_stored(tmp_path: Path) -> None:
    words, out = sf.MemoryTopic("words", value=str), sf.MemoryTopic("out", value=str)
    words.send_all(["fine", "fine", "nan"])
    words.close_input()
    flow = sf.Flow("lies", state=tmp_path / "lies.db")

    @flow.source(words).key_by(lambda word: word).process(state=lambda: [0.0], name="sums")
    def step(ctx: sf.Context[str, list[float]], word: str) -> list[str]:
        ctx.state[0] += float("nan") if word == "nan" else 1.0
        return [word]

    step.to(out)
    with pytest.raises(EncodeError, match="state of step 'sums' cannot be stored for key 'nan'"):
        await flow.run()
    assert "nan" not in out.values
    from streamflow.state.reader import query

    assert query(tmp_path / "lies.db", "SELECT count(*) FROM sums WHERE key = 'nan'").rows == [(0,)]
