"""Deletions against a plain dict: membership, order, and letting go in steps."""

from __future__ import annotations

import random

from streamflow.state.deletions import Deletions


def test_order_and_membership_are_a_dicts():
    rng = random.Random(1)
    found, model = Deletions(), dict[int, None]()
    for _ in range(10_000):
        key = rng.randrange(3000)
        if rng.random() < 0.3:
            found.discard(key)
            model.pop(key, None)
        else:
            found.add(key)
            model.pop(key, None)
            model[key] = None
        assert found.size == len(model)
    assert list(found) == list(model)
    assert [key for key in range(3000) if key in found] == sorted(model)


def test_many_go_in_several_calls_and_it_can_be_used_again():
    found = Deletions()
    assert found.release(10)
    for key in range(50_000):
        found.add((f"key {key}", "name"))
    calls = 1
    while not found.release(5000):
        calls += 1
    assert calls >= 10
    assert found.size == 0
    assert list(found) == []
    found.add("again")
    assert list(found) == ["again"]
    assert found.release(5000)
