"""Codecs: round trips, what they refuse, what they tell of a type."""

from __future__ import annotations

import datetime
import decimal
import enum
import typing
import uuid
from dataclasses import dataclass, field
from typing import Any, Optional, TypedDict, Union

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamflow.codecs import BytesCodec, Codec, JsonCodec, StrCodec, codec_for, fingerprint, immutable, type_name
from streamflow.errors import DefinitionError


@dataclass
class Order:
    user: str
    lines: list[int] = field(default_factory=list)


class Color(enum.Enum):
    RED = "r"


class Point(msgspec.Struct, frozen=True):
    x: int
    next: Point | None = None


class Loose(msgspec.Struct):
    x: int


@dataclass(frozen=True)
class Frozen:
    id: uuid.UUID
    at: datetime.datetime
    parts: tuple[Point, ...]
    color: Color | None


@dataclass(frozen=True)
class Thawed:
    lines: list[int]


class Row(TypedDict):
    a: int
    b: str


class Upper:
    name = "upper"

    def encode(self, value: str, /) -> bytes:
        return value.upper().encode()

    def decode(self, data: bytes, /) -> str:
        return data.decode()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=2), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@given(json_values)
def test_plain_json_comes_back(value):
    codec = codec_for(dict[str, Any])
    assert codec.decode(codec.encode({"v": value})) == {"v": value}


@given(st.text(st.characters(exclude_categories=["Cs"])), st.binary())
def test_text_and_bytes_go_as_they_are(text, data):
    assert codec_for(str).encode(text) == text.encode()
    assert codec_for(str).decode(text.encode()) == text
    assert codec_for(bytes).decode(codec_for(bytes).encode(data)) == data


@pytest.mark.parametrize(
    "value",
    [
        Order("ann", [1]),
        Point(1, Point(2)),
        Frozen(uuid.UUID(int=1), datetime.datetime(2026, 1, 1), (Point(1),), Color.RED),
    ],
)
def test_typed_values_come_back_as_their_type(value):
    codec: Codec[Any] = codec_for(type(value))
    again = codec.decode(codec.encode(value))
    assert again == value
    assert type(again) is type(value)


@pytest.mark.parametrize(
    ("codec", "data"),
    [
        (StrCodec(), b"\xff"),
        (JsonCodec(Order), b"{"),
        (JsonCodec(Order), b'{"user":1}'),
        (JsonCodec(int), b'"1"'),
        (JsonCodec(int), b""),
    ],
)
def test_bytes_that_cannot_be_decoded_are_a_value_error(codec, data):
    with pytest.raises(ValueError, match=r"."):
        codec.decode(data)


@pytest.mark.parametrize(
    ("codec", "value"), [(StrCodec(), 1), (BytesCodec(), "text"), (StrCodec(), "\ud800"), (StrCodec(), b"a")]
)
def test_values_that_cannot_be_encoded_are_a_value_error(codec, value):
    with pytest.raises(ValueError, match=r"."):
        codec.encode(value)


def test_codec_for():
    own = Upper()
    assert codec_for(own) is own
    assert isinstance(codec_for(str), StrCodec)
    assert isinstance(codec_for(bytes), BytesCodec)
    with pytest.raises(DefinitionError, match="cannot be read from JSON") as caught:
        codec_for(type("Odd", (), {"__slots__": ()}) | type("Odder", (), {}))  # type: ignore[arg-type]
    assert caught.value.hint


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (int, "int"),
        (Any, "Any"),
        (list[Order], "list[Order(user: str, lines: list[int])]"),
        (Point, "Point(x: int, next: Union[Point, NoneType])"),
        (Optional[int], "Union[int, NoneType]"),  # noqa: UP045
        (int | None, "Union[int, NoneType]"),
        (Union[int, str], "Union[int, str]"),  # noqa: UP007
        (typing.List[int], "list[int]"),  # noqa: UP006
        (Row, "Row(a: int, b: str)"),
        (dict[str, Color], "dict[str, Color]"),
    ],
)
def test_fingerprint_tells_structure(kind, text):
    assert fingerprint(kind) == text


def test_type_name():
    assert type_name(Order) == "Order"
    assert type_name(list[int]) == "list[int]"


@pytest.mark.parametrize(
    "kind",
    [int, str, bytes, float, bool, type(None), uuid.UUID, decimal.Decimal, datetime.timedelta, Color, Point, Frozen,
     tuple[int, ...], tuple[int, Frozen], int | None, Optional[str], frozenset[int]],  # noqa: UP045
)  # fmt: skip
def test_types_whose_values_nobody_can_change(kind):
    assert immutable(kind)


@pytest.mark.parametrize(
    "kind",
    [
        list,
        dict,
        set,
        tuple,
        frozenset,
        list[int],
        Order,
        Thawed,
        Loose,
        Row,
        tuple[list[int]],
        Any,
        object,
        int | list,
    ],
)
def test_types_whose_values_might_change(kind):
    assert not immutable(kind)
