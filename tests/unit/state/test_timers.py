"""Named timers: order, replacing, and what is set while timers fire."""

from __future__ import annotations

import enum
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from streamflow.keys import canonical
from streamflow.state.timers import Timers


class Color(enum.Enum):
    RED = "r"
    BLUE = "b"


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from([1, 2, 10, 9]), st.sampled_from("xy"))))
def test_fire_once_in_the_order_of_due_time_key_and_name(acts):
    timers = Timers("s", "xy")
    model: dict[Any, int] = {}
    for due, key, name in acts:
        timers.set(key, name, due)
        model[key, name] = due
    expected = sorted(model, key=lambda timer: (model[timer], canonical(timer[0]), timer[1]))
    assert [(key, name) for key, name, _ in timers.due(5)] == expected
    assert list(timers.due(5)) == []
    assert timers.table.snapshot() == {}


def test_keys_need_not_compare():
    timers = Timers("s", "x", Color)
    for due in (100, 90, 100, 90, 100):
        for key in Color:
            timers.set(key, "x", due)
    assert [key for key, _, _ in timers.due(100)] == [Color.BLUE, Color.RED]


def test_one_set_while_timers_fire_waits_for_a_later_time():
    timers = Timers("s", "xyz")
    timers.set("k", "x", 10)
    timers.set("k", "y", 12)
    fired = []
    for _, name, due in timers.due(20):
        fired.append((name, due))
        timers.set("k", "x", 20)
        timers.set("k", "y", 19)
        timers.set("k", "z", 0)
    assert fired == [("x", 10)]
    assert [(name, due) for _, name, due in timers.due(21)] == [("z", 0), ("y", 19), ("x", 20)]


def test_setting_later_again_and_again_keeps_one_item():
    timers = Timers("s", "x")
    for due in range(1000):
        timers.set("k", "x", due)
        timers.cancel("k", "x")
        timers.set("k", "x", due + 1)
    assert len(timers._heap) == 1
    assert list(timers.due(999)) == []
    assert list(timers.due(1000)) == [("k", "x", 1000)]


def test_rolled_back_timers_are_as_they_were_even_while_others_fire():
    timers = Timers("s", "xy")
    timers.set("a", "x", 1)
    timers.set("k", "y", 5)
    fired = []
    for key, name, _ in timers.due(9):
        fired.append((key, name))
        timers.begin("k")
        timers.set("k", "y", 2)
        timers.cancel("k", "y")
        timers.set("k", "x", 3)
        timers.roll_back()
    assert fired == [("a", "x"), ("k", "y")]
    assert list(timers.due(100)) == []
