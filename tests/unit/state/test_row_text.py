"""Entries written many at once are byte for byte what they are one by one."""

from __future__ import annotations

import datetime
import uuid
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamflow.codecs import JsonCodec
from streamflow.keys import canonical
from streamflow.state import row_text
from streamflow.state.keyed import CHECKED_FIRST, Table


@dataclass
class Order:
    name: str
    n: int | None = None


keys = st.one_of(st.text(max_size=5), st.integers(-(1 << 70), 1 << 70))
subs = st.one_of(
    st.integers(), st.text(max_size=5), st.tuples(st.integers(0, 1), st.integers(), st.integers(0, 3)), st.tuples(keys)
)
orders = st.builds(Order, st.text(max_size=9) | st.just("null"), st.integers(0, 9) | st.none())


def one_by_one(rows: list[Any], values: dict[Any, Any], written: dict[Any, bytes]) -> bytes:
    codec, found = JsonCodec[Any](Order), []
    for key, sub in rows:
        parts = [canonical(key), canonical(sub)]
        if (key, sub) in values:
            parts += [written.get((key, sub)) or codec.encode(values[key, sub]), b"null"]
        found.append(b"[" + b",".join(parts) + b"]")
    return b"[" + b",".join(found) + b"]"


@given(st.dictionaries(st.tuples(keys, subs), st.none() | orders, min_size=1, max_size=20), st.integers(0, 3))
def test_entries_with_subs_and_deletions(entries: dict[Any, Any], early: int) -> None:
    values = {key: value for key, value in entries.items() if value is not None}
    written = dict.fromkeys(list(values)[:early], b'{"name":"as it was","n":0}')
    found = row_text.text_of(list(entries), values, written, subs=True)
    if found is not None:
        assert found == one_by_one(list(entries), values, written)
    else:
        # a null that may be a value's, or sub-keys of several types
        nulls = one_by_one(list(entries), values, written).count(b"null")
        assert nulls > len(values) or len({type(sub) for _, sub in entries}) > 1


@pytest.mark.parametrize(
    "key", [("k", uuid.UUID(int=1)), (datetime.date(2026, 1, 1), 1), ("k", (1, b"x")), ("k", "\ud800")]
)
def test_what_needs_a_closer_look_is_left_to_it(key: Any) -> None:
    assert row_text.text_of([key], {key: 1}, {}, subs=True) is None


def test_what_became_a_null_is_seen_beside_entries_that_are_gone() -> None:
    rows = [("a", 1), ("b", 1)]
    assert row_text.text_of(rows, {("a", 1): 1.5}, {}, subs=True) == b'[["a",1,1.5,null],["b",1]]'
    assert row_text.text_of(rows, {("a", 1): float("nan")}, {}, subs=True) is None


def test_a_table_of_subs_writes_the_same_in_either_way_and_forgets_what_is_gone() -> None:
    def table() -> Table[Any]:
        return Table("t", JsonCodec[Any](Order), subs=True)

    many, single = table(), table()
    single.checks_all = True
    payloads: list[list[bytes]] = [[], []]
    for turn in range(4):
        for found, each in zip(payloads, (many, single), strict=True):
            for n in range(CHECKED_FIRST):
                each.put((f"k{n % 7}", (n % 2, turn, n)), Order(f"o{n}", turn))
            for n in range(0, CHECKED_FIRST, 3):
                if turn:
                    each.delete((f"k{n % 7}", (n % 2, turn - 1, n)))
            each.seal()
            while (delta := each.encode(64)) is not None:
                found.append(delta.payload)
    assert payloads[0] == payloads[1]
    assert many.snapshot() == single.snapshot()
    assert len(many) == 4 * CHECKED_FIRST - 3 * len(range(0, CHECKED_FIRST, 3))
