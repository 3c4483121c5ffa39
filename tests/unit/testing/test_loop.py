"""The simulated loop: one seed is one order, time is virtual, and the dead do nothing."""

from __future__ import annotations

import asyncio
import random

import pytest

from streamflow.testing.simulation.loop import Host, Killed, Order, SimulatedClock, SimulatedLoop


def new_loop(seed: int = 0, order: Order | None = None) -> SimulatedLoop:
    return SimulatedLoop(random.Random(seed), order or Order(shuffled=True))  # type: ignore[abstract]


def order_of(seed: int) -> list[int]:
    loop, seen = new_loop(seed), []

    async def count(number: int) -> None:
        for _ in range(3):
            seen.append(number)
            await asyncio.sleep(0)

    tasks = [loop.spawn(Host("host"), lambda number=number: count(number)) for number in range(5)]  # type: ignore[misc]
    assert loop.run(lambda: all(task.done() for task in tasks), 1000, 1.0)
    return seen


def test_one_seed_is_one_order() -> None:
    assert order_of(1) == order_of(1)
    assert len({tuple(order_of(seed)) for seed in range(20)}) > 15
    assert sorted(order_of(3)) == sorted([*range(5)] * 3)


def test_time_jumps() -> None:
    loop = new_loop()
    clock = SimulatedClock(loop)
    woken: list[float] = []

    async def sleep() -> None:
        await asyncio.sleep(3600)
        woken.append(clock.monotonic())

    task = loop.spawn(Host("host"), sleep)
    assert not loop.run(task.done, 1000, 3599.0)
    assert loop.run(task.done, 1000, 7200.0)
    assert woken == [3600.0]


def test_the_dead_run_no_finally() -> None:
    loop, host, other = new_loop(), Host("host"), Host("other")
    seen: list[str] = []

    async def inner() -> None:
        try:
            await asyncio.sleep(1)
            seen.append("inner woke")
        finally:
            seen.append("inner finally")
            await asyncio.sleep(0)

    async def outer() -> None:
        try:
            await asyncio.gather(inner(), inner())
        except BaseException:
            seen.append("outer except")
            raise
        finally:
            seen.append("outer finally")

    async def lives() -> None:
        await asyncio.sleep(2)
        seen.append("other woke")

    loop.spawn(host, outer)
    task = loop.spawn(other, lives)
    assert not loop.run(task.done, 1000, 0.5)
    host.kill()
    assert loop.run(task.done, 1000, 5.0)
    assert seen == ["other woke"]
    other.kill()
    loop.world.kill()
    loop.bury(loop.world, host, other)  # their blocks run now, and nothing warns; the world has ended


def test_a_host_that_dies_at_its_turn_or_in_the_middle_of_a_call() -> None:
    loop, host, seen = new_loop(), Host("host"), []

    async def count() -> None:
        for number in range(10):
            seen.append(number)
            await asyncio.sleep(0)

    host.acts_at, host.act = 4, host.kill
    loop.spawn(host, count)
    assert not loop.run(lambda: False, 1000, 1.0)
    assert seen == [0, 1, 2]

    async def die() -> None:
        other.kill()
        raise Killed("here")

    other = Host("other")
    loop.spawn(other, die)
    assert not loop.run(lambda: False, 1000, 2.0)
    loop.world.kill()
    loop.bury(loop.world, host, other)


def test_a_frozen_host_goes_on_where_it_was() -> None:
    loop, host, seen = new_loop(), Host("host"), []

    async def count() -> None:
        for number in range(4):
            seen.append(number)
            await asyncio.sleep(0.1)

    task = loop.spawn(host, count)
    assert not loop.run(task.done, 1000, 0.15)
    host.frozen = True
    assert not loop.run(task.done, 1000, 9.0)
    assert seen == [0, 1]
    loop.thaw(host)
    assert loop.run(task.done, 1000, 10.0)
    assert seen == [0, 1, 2, 3]


def test_what_nobody_handles_ends_the_run() -> None:
    loop = new_loop()
    loop.inside(Host("host"), lambda: loop.call_soon(lambda: 1 / 0))
    with pytest.raises(ZeroDivisionError):
        loop.run(lambda: False, 1000, 1.0)


def test_an_endless_run_is_ended() -> None:
    loop = new_loop()

    def again() -> None:
        loop.call_soon(again)

    loop.inside(loop.world, again)
    with pytest.raises(AssertionError, match="and no end"):
        loop.run(lambda: False, 100, 1.0)
