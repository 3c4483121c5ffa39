"""What a table refuses and what it stores: values, keys, expiries; and what reading costs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest

from streamflow.codecs import JsonCodec
from streamflow.errors import EncodeError
from streamflow.state.collections import ListState, MapState
from streamflow.state.key_check import KeyCheck
from streamflow.state.keyed import MISSING, Table
from tests.unit.state.test_table import drain


@dataclass
class Account:
    spent: float = 0.0
    tags: dict[str, Any] = field(default_factory=dict)


@dataclass(eq=False)
class NoEq:
    n: int = 0


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (dict, {"pair": (1, 2)}),
        (dict, {"x": float("nan")}),
        (dict, {"x": float("inf")}),
        (dict, {1: "int key"}),
        (dict, {"f": lambda: 0}),
        (Account, Account(spent=float("nan"))),
        (Account, Account(tags={"deep": [{"pair": (1,)}]})),
        (int, "text"),
        (list, [object()]),
    ],
)
def test_a_value_that_does_not_survive_its_codec_names_step_and_key(kind, value):
    table: Table[Any] = Table("accounts", JsonCodec(kind))
    table.put("ann", value)
    table.seal()
    with pytest.raises(EncodeError, match=r"'accounts'.*key 'ann'") as caught:
        table.encode(10)
    assert caught.value.step == "accounts"
    assert caught.value.hint


def test_nan_is_found_behind_the_first_values_too():
    table: Table[Any] = Table("t", JsonCodec(Account))
    for n in range(3000):
        table.put(f"k{n}", Account(spent=n, tags={"optional": None}))
    table.put("bad", Account(spent=float("nan")))
    table.seal()
    with pytest.raises(EncodeError, match="'bad'"):
        drain(table)


@pytest.mark.parametrize(
    "value", [{8, 0, 16, 1}, {"a", "b", "c"}, NoEq(3), {"none": None}, Account(spent=1), [1.5, -0.0], {"big": 2**63}]
)
def test_values_that_do_survive_are_not_refused(value):
    table: Table[Any] = Table("t", JsonCodec(type(value)))
    table.put("k", value)
    table.seal()
    assert len(drain(table)) == 1


def test_a_key_that_is_no_text_is_an_error_of_the_step():
    table: Table[int] = Table("t", JsonCodec(int))
    table.put("\ud800", 1)
    table.seal()
    with pytest.raises(EncodeError, match="'t'"):
        table.encode(10)


def test_the_expiry_that_is_stored_is_the_one_at_the_barrier():
    table: Table[dict[str, int]] = Table("t", JsonCodec(dict[str, int]), dict, ttl_ms=10)
    table.live("renewed", 100)["n"] = 1
    table.live("deleted", 100)["n"] = 1
    table.seal()
    table.live("renewed", 105)["n"] = 2
    table.delete("deleted")
    assert [(entry.value, entry.expires_ms) for entry in drain(table)] == [(b'{"n":1}', 110)] * 2


def test_a_state_cleared_and_made_again_does_not_pile_up_expiries():
    table: Table[dict[str, int]] = Table("t", JsonCodec(dict[str, int]), dict, ttl_ms=1000)
    for now in range(5000):
        table.live("k", now)
        table.delete("k")
        table.live("k", now)
        table.expire(now)
    assert len(table._expiring) == 1


def test_absent_entries():
    table: Table[int] = Table("t", JsonCodec(int))
    assert table.get("k") is MISSING
    assert table.peek("k") is MISSING
    table.delete("k")
    table.seal()
    assert drain(table) == []


def test_reading_scalars_of_a_map_or_list_writes_nothing():
    maps: Table[int] = Table("m", JsonCodec(int), subs=True)
    for n in range(5):
        MapState[int, int](maps, "k")[n] = n
        ListState[int](maps, "l").append(n)
    maps.seal()
    drain(maps)
    assert sum(MapState[int, int](maps, "k").values()) + sum(ListState[int](maps, "l")) == 20
    maps.seal()
    assert drain(maps) == []


def test_clearing_a_large_map_is_not_quadratic():
    table: Table[int] = Table("m", JsonCodec(int), subs=True)
    state = MapState[int, int](table, "k")
    for n in range(20_000):
        state[n] = n
    state.clear()
    assert len(state) == 0


@pytest.mark.parametrize("other", [True, 1.0, "1", None])
def test_a_map_takes_sub_keys_of_one_type(other):
    state = MapState[Any, list[int]](Table("m", JsonCodec(list[int]), subs=True), "k")
    state[1] = [1]
    with pytest.raises(TypeError):
        state[other] = [2]
    with pytest.raises((TypeError, KeyError)):
        state[other]
    assert dict(state) == {1: [1]}


# -- one type of key -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "others", [("a", 1), (1, True), (1, 1.0), ((1, "a"), ("a", 1)), (("a",), ("a", "b")), (b"a", "a")]
)
def test_one_key_by_takes_keys_of_one_type(others):
    first, second = others
    check = KeyCheck("step")
    check.check(first)
    check.check(first)
    with pytest.raises(TypeError):
        check.check(second)


@pytest.mark.parametrize("in_place", [False, True])
def test_what_is_put_in_place_of_a_value_stays(in_place):
    """A table whose values change in place writes only what is new into its base."""
    table: Table[dict[str, int]] = Table("t", JsonCodec(dict[str, int]), dict)
    table.in_place = in_place

    def end_epoch() -> None:
        table.seal()
        while table.encode(10) is not None:
            pass

    table.get("a")["x"] = 1
    end_epoch()
    table.put("a", {"x": 2})
    end_epoch()
    assert table.snapshot() == {"a": {"x": 2}}
    table.get("a")["x"] += 1
    end_epoch()
    assert table.snapshot() == {"a": {"x": 3}}
    table.delete("a")
    table.get("a")["x"] = 5
    end_epoch()
    assert table.snapshot() == {"a": {"x": 5}}


@pytest.mark.parametrize(
    ("kind", "value", "early"),
    [(tuple[int, float], (1, 0.5), 0), (int, 1, 0), (list[int], [1], 1), (tuple[int, list[int]], (1, [2]), 1)],
)
def test_what_is_touched_behind_the_barrier_is_encoded_at_once_only_if_it_may_change(
    kind: Any, value: Any, early: int
) -> None:
    table = Table[Any]("t", JsonCodec(kind), key_type=str)
    table.put("a", value)
    expected = msgspec.json.encode(value)
    table.seal()
    before = table._encoded
    assert table.get("a") == value
    assert table._encoded - before == early
    if early:
        (value if isinstance(value, list) else value[1]).append(3)
    table.put("a", type(value)())
    delta = table.encode(10)
    assert delta is not None
    assert delta.payload == b'[["a","",%b,null]]' % expected
