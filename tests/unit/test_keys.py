"""Keys: canonical text and back, one key in memory is one on disk, and groups that no hash seed changes."""

from __future__ import annotations

import datetime
import enum
import os
import subprocess
import sys
import uuid
import zoneinfo
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamflow.keys import KEY_GROUPS, canonical, key_class, key_group, parse, shape, stable_hash
from streamflow.state.key_check import KeyCheck


class Color(enum.Enum):
    RED = "r"
    BLUE = ("b", 1)


class Size(enum.IntEnum):
    S = 1
    M = 2


class Odd(enum.Enum):
    A = 1.5
    B = 2


offsets = st.integers(-720, 720).map(lambda minutes: datetime.timezone(datetime.timedelta(minutes=minutes)))
scalars = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"])),
    st.integers(),
    st.binary(),
    st.uuids(),
    st.dates(),
    st.datetimes(),
    st.datetimes(timezones=offsets, min_value=datetime.datetime(2, 1, 1), max_value=datetime.datetime(9998, 1, 1)),
)
keys = st.recursive(scalars, lambda inner: st.lists(inner, min_size=1, max_size=4).map(tuple), max_leaves=8)


@given(keys)
def test_canonical_text_comes_back(key):
    again = parse(canonical(key))
    assert again == key
    assert hash(again) == hash(key)
    assert shape(again) == shape(key)
    assert canonical(again) == canonical(key)


@given(keys, keys)
def test_equal_keys_of_one_type_have_one_text_and_others_have_their_own(one, other):
    if shape(one) == shape(other):
        assert (one == other) == (canonical(one) == canonical(other))


@given(
    st.datetimes(timezones=offsets, min_value=datetime.datetime(2, 1, 1), max_value=datetime.datetime(9998, 1, 1)),
    offsets,
)
def test_one_moment_in_two_zones_is_one_key(moment, zone):
    assert canonical(moment) == canonical(moment.astimezone(zone))


def test_fold_does_not_make_two_keys_of_one():
    time = datetime.datetime(2026, 10, 25, 2, 30)
    assert canonical(time) == canonical(time.replace(fold=1))


@pytest.mark.parametrize(
    "key",
    [True, 1.0, None, (), [1], {"a": 1}, ("a", True), ("a", (1, None)), object(), Odd.B, type("S", (str,), {})("s")],
)
def test_what_is_no_key(key):
    with pytest.raises(TypeError, match="a key must be"):
        key_class(key)


def test_a_time_in_a_zone_with_changing_offset_is_no_key():
    with pytest.raises(TypeError, match="fixed offset"):
        key_class(datetime.datetime(2026, 1, 1, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")))
    check = KeyCheck("s")
    check.check(datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC))
    assert check.kind is None, "the class alone says nothing: each key is looked at"


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        (Color.RED, Color),
        (Color.BLUE, Color),
        (Size.M, Size),
        (("a", Color.BLUE), tuple[str, Color]),
        ((Size.S, Size.M), tuple[Size, ...]),
        ((("x", Size.S), 2), tuple[tuple[str, Size], int]),
    ],
)
def test_enum_keys_need_their_class(key, kind):
    again = parse(canonical(key), kind)
    assert again == key
    assert shape(again) == shape(key)
    with pytest.raises(ValueError, match="annotate"):
        parse(canonical(key))
    KeyCheck("s", kind).check(key)
    with pytest.raises(TypeError, match="annotate"):
        KeyCheck("s").check(key)


@pytest.mark.parametrize("text", [b"1.5", b"null", b"true", b"{}", b'{"x":1}', b'{"bytes":"a","uuid":"b"}', b"["])
def test_what_is_no_canonical_text(text):
    with pytest.raises(ValueError, match=r"."):
        parse(text)


def test_classes_that_compare_equal_are_kept_apart():
    for one, other in ((1, Size.S), (1, True), (datetime.date(2026, 1, 1), datetime.datetime(2026, 1, 1))):
        check = KeyCheck("s", Size)
        check.check(one)
        with pytest.raises(TypeError):
            check.check(other)


SAMPLE: list[Any] = [
    "ann",
    7,
    -(2**70),
    b"\x00\xff",
    uuid.UUID(int=5),
    datetime.date(2026, 1, 2),
    ("a", ("b", 3)),
    Color.BLUE,
]
PRINT = (
    "from tests.unit.test_keys import SAMPLE, groups; "
    "from streamflow.operators.bind import Fold; print(groups(), len({*'abc'}))"
)


def groups() -> list[int]:
    return [key_group(canonical(key)) for key in SAMPLE]


def test_key_groups_are_the_same_under_every_hash_seed():
    found = {
        subprocess.run(
            [sys.executable, "-c", PRINT],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": "."},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("0", "1", "4242")
    }
    assert found == {f"{groups()} 3\n"}
    assert groups() == GROUPS, "the groups of stored keys must never change"


GROUPS = [248, 174, 227, 109, 116, 25, 92, 188]


@given(st.lists(st.binary(max_size=3), max_size=4), st.lists(st.binary(max_size=3), max_size=4))
def test_stable_hash_tells_parts_apart(one, other):
    assert (stable_hash(*one) == stable_hash(*other)) == (one == other)


def test_groups_are_used_evenly():
    used = [key_group(canonical(f"user-{n}")) for n in range(20_000)]
    counts = [used.count(group) for group in range(KEY_GROUPS)]
    assert min(counts) > 40
    assert max(counts) < 130
