"""The tasks of a shard: how they are told to end."""

from __future__ import annotations

import asyncio

from streamflow.runtime import tasks as module
from streamflow.runtime.tasks import Tasks


async def test_they_are_told_to_end_in_the_order_in_which_they_began() -> None:
    told: list[int] = []

    async def work(number: int) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            told.append(number)

    tasks = Tasks("f")
    for number in range(40):
        tasks.spawn(work(number), f"{number}")
    await asyncio.sleep(0)
    await tasks.end()
    assert told == list(range(40))
    assert len(tasks) == 0


async def test_one_that_did_not_hear_of_it_is_told_again_alone(monkeypatch) -> None:
    monkeypatch.setattr(module, "CANCEL_AGAIN_SECONDS", 0.01)
    told: list[str] = []

    async def work(name: str, times: int) -> None:
        while times:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                told.append(name)
                times -= 1

    tasks = Tasks("f")
    tasks.spawn(work("deaf", 3), "deaf")
    tasks.spawn(work("quick", 1), "quick")
    await asyncio.sleep(0)
    await tasks.end()
    assert told == ["deaf", "quick", "deaf", "deaf"]
