"""Pacing: when a barrier may go."""

from __future__ import annotations

import pytest

from streamflow.clock import VirtualClock
from streamflow.runtime.pacing import Pacer
from streamflow.runtime.settings import Settings


class World:
    def __init__(self, **settings: object) -> None:
        self.clock = VirtualClock(0)
        self.full = False
        given = {"commit_min": "10ms", "commit_max": "1s", "checkpoint_share": 0.05, **settings}
        self.pacer = Pacer(Settings(**given), self.clock, lambda: self.full)  # type: ignore[arg-type]

    def at(self, now_ms: int) -> World:
        self.clock.advance_to(now_ms)
        return self

    def due_ms(self, *, pending: bool = True, closing: bool = False) -> float | None:
        due = self.pacer.due_at(pending=pending, closing=closing)
        return None if due is None else round(due * 1000)

    def commit(self, cost_ms: float = 0) -> None:
        self.pacer.barrier()
        self.pacer.committed(cost_ms / 1000)


def test_nothing_pending_or_a_commit_under_way_is_no_reason():
    world = World()
    assert world.due_ms(pending=False) is None
    assert world.due_ms(pending=False, closing=True) is None
    world.pacer.pending()
    world.pacer.barrier()
    world.full = True
    assert world.due_ms() is None
    assert world.due_ms(closing=True) is None
    with pytest.raises(AssertionError):
        world.pacer.barrier()
    world.pacer.committed(0)
    assert world.due_ms() == 0


def test_the_first_barrier_goes_at_once_and_the_next_not_before_commit_min():
    world = World()
    world.pacer.pending()
    due = world.pacer.due_at(pending=True, closing=False)
    assert due is not None
    assert due <= 0
    world.commit()
    world.at(3).pacer.pending()
    assert world.due_ms() == 10
    world.at(50)
    assert world.due_ms() == 10, "long due"


def test_under_load_it_waits_until_the_commit_is_a_small_share():
    world = World()
    world.pacer.pending()
    world.commit(cost_ms=20)
    world.at(1).pacer.pending()
    assert world.due_ms() == 400


def test_but_not_longer_than_commit_max_after_the_first_pending_record():
    world = World()
    world.pacer.pending()
    world.commit(cost_ms=500)
    world.at(100).pacer.pending()
    world.at(300).pacer.pending()
    assert world.due_ms() == 1100


def test_commit_max_does_not_undercut_commit_min():
    world = World(commit_min="500ms", commit_max="100ms")
    world.pacer.pending()
    world.commit(cost_ms=500)
    world.at(100).pacer.pending()
    assert world.due_ms() == 500


@pytest.mark.parametrize("why", ["closing", "full"])
def test_closing_and_a_full_epoch_do_not_wait(why):
    world = World()
    world.pacer.pending()
    world.commit(cost_ms=500)
    world.at(1).pacer.pending()
    world.full = why == "full"
    assert world.due_ms(closing=why == "closing") == 1
