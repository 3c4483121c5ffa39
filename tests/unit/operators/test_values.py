"""Values that leave a stateful step: equal copies that share nothing which can change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from streamflow.operators.values import own


@dataclass
class Box:
    items: list[int]


@dataclass(frozen=True)
class Card:
    n: int


@pytest.mark.parametrize(
    "value",
    [[1, [2]], {"a": {"b": [1]}}, ("a", [1]), Box([1]), {1, 2}, bytearray(b"x"), ("a", {"k": Box([1])}), [Card(1)]],
)
def test_a_copy_is_equal_and_is_another(value):
    copy = own(value)
    assert copy == value
    assert type(copy) is type(value)
    assert copy is not value


@pytest.mark.parametrize("value", [1, "a", None, b"x", Card(1), ("a", 1), ("a", ("b", Card(2))), 1.5])
def test_what_nobody_can_change_is_not_copied(value):
    assert own(value) is value


def test_nothing_inside_is_shared():
    value: Any = {"list": [Box([1])], "tuple": ([1],)}
    copy = own(value)
    copy["list"][0].items.append(2)
    copy["tuple"][0].append(2)
    assert value == {"list": [Box([1])], "tuple": ([1],)}
