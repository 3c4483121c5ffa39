"""What a commit may cost, with room for a noisy machine; `make bench ARGS=commits` measures it closely."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from benchmarks.commits import flat, saturated, turns_of_a_run

pytestmark = [pytest.mark.long, pytest.mark.allow_blocking("the clock is what is tested")]


async def test_a_commit_costs_by_changed_keys_and_not_by_the_size_of_the_state(tmp_path: Path) -> None:
    small, large = await flat(tmp_path, (20_000, 500_000), 7)
    # in processor time; what grows is what a larger dict costs Python. A commit that looks at every key takes 10 times
    assert large.middle()[1] < 2.5 * small.middle()[1]


async def test_a_commit_is_in_time_beside_a_loop_that_never_waits(tmp_path: Path) -> None:
    took = await saturated(tmp_path, passes=200)
    assert len(took) >= 2
    # neighbours may spoil most of them; starvation spoils all, by seconds
    assert took[0] < 50, took


async def test_an_epoch_of_very_many_keys_leaves_the_loop_free() -> None:
    longest = []
    for _ in range(3):
        seen = await asyncio.to_thread(turns_of_a_run, 2)
        longest.append(1000 * max(turn.cpu for turn in seen))
    # the loop's own processor time, which neighbours hardly change; encoded in one go it takes 100 ms and more
    assert min(longest) < 25, longest
