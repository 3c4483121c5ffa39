"""Cells of async steps: calls that take their time, fail at first, end in another order, and are killed half way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from weakref import WeakKeyDictionary

import streamflow as sf
from streamflow.flow import Flow
from tests.simulation.cell import Inputs, Outputs, by, counts, key, topic


def pause(v: int) -> float:
    """Seconds of virtual time that a call over a record takes; later records often end first."""
    return (v * 7 % 5) / 1000


async def doubled(ctx: sf.Context[Any, Any], v: int) -> list[Any]:
    await asyncio.sleep(pause(v))
    return [v * 2, ctx.id]


def awaiting() -> Flow:
    """An ordered window narrower than a batch, calls whose first attempts fail, and all kinds of async steps."""
    flow = Flow("awaiting")
    # the flow is made once and plays many runs, each with a loop of its own: what failed in one is no past of another
    failed: WeakKeyDictionary[asyncio.AbstractEventLoop, set[int]] = WeakKeyDictionary()

    async def flaky(v: int) -> int:
        await asyncio.sleep(pause(v + 1))
        before = failed.setdefault(asyncio.get_running_loop(), set())
        if v % 4 == 0 and v not in before:
            before.add(v)
            raise ConnectionError(v)
        return v

    async def twice(v: int) -> AsyncIterator[int]:
        for _ in range(2):
            await asyncio.sleep(pause(v + 2))
            yield v

    async def known(v: int) -> bool:
        if v % 2:
            await asyncio.sleep(pause(v))
        return v % 3 != 1

    source = flow.source(topic("a"))
    steady = source.map(flaky, concurrency=3, window=5, on_error=sf.retry(3, backoff="1ms"))
    expanded = steady.filter(known, concurrency=2).flat_map(twice, concurrency=4)
    expanded.key_by(key, name="by").count(name="counted").to(topic("out", list[Any]))
    source.map(doubled, concurrency=4, name="with-id").to(topic("ids", list[Any]))
    return flow


def check_awaiting(inputs: Inputs, outputs: Outputs) -> None:
    assert outputs["out"] == counts([v for v in inputs["a"] if v % 3 != 1 for _ in range(2)])
    assert [row[0] for row in outputs["ids"]] == [v * 2 for v in inputs["a"]]
    assert len({row[1] for row in outputs["ids"]}) == len(inputs["a"])


def awaiting_merged() -> Flow:
    """Async branches of a split, one of them without order, merged with one that awaits nothing."""
    flow = Flow("awaiting-merged")

    async def slow(v: int) -> list[Any]:
        await asyncio.sleep(pause(v))
        return [v, "slow"]

    async def batched(values: list[int]) -> list[list[Any]]:
        await asyncio.sleep(pause(len(values)))
        return [[v, "batched"] for v in values]

    async def maybe(v: int) -> int:
        await asyncio.sleep(pause(v))
        if v % 4 == 0:
            raise ValueError("no")
        return v

    routes = flow.source(topic("a")).split(lambda v: v % 3, [0, 1, 2])
    first = routes[0].map(slow, concurrency=3, ordered=False)
    second = routes[1].map_batch(batched, size=3, within="2ms", concurrency=2)
    third = routes[2].map(lambda v: [v, "plain"], name="plain")
    first.merge(second, third).to(topic("out", list[Any]))
    routes[2].map(maybe, concurrency=2, on_error=sf.skip).to(topic("some"))
    return flow


def check_awaiting_merged(inputs: Inputs, outputs: Outputs) -> None:
    kinds = ("slow", "batched", "plain")
    assert outputs["out"] == [[v, kinds[v % 3]] for v in inputs["a"]]
    assert outputs["some"] == [v for v in inputs["a"] if v % 3 == 2 and v % 4]


def unordered() -> Flow:
    flow = Flow("unordered")

    async def slow(v: int) -> int:
        await asyncio.sleep(pause(v))
        return v

    keyed = flow.source(topic("a")).key_by(key, name="by").map(slow, concurrency=6, ordered=False)
    keyed.reduce(lambda before, v: before + v, name="total", of=int).to(topic("out", list[Any]))
    return flow


def check_unordered(inputs: Inputs, outputs: Outputs) -> None:
    """Each key's records keep their order, so its totals are those of a plain loop."""
    totals: dict[str, int] = {}
    expected: dict[str, list[Any]] = {}
    for v in inputs["a"]:
        totals[key(v)] = totals.get(key(v), 0) + v
        expected.setdefault(key(v), []).append([key(v), totals[key(v)]])
    assert by(outputs["out"], lambda row: row[0]) == expected


def async_processing() -> Flow:
    """State and timers of calls that await, one key at a time; some fail half way and leave no trace."""
    flow = Flow("async-processing")

    @flow.source(topic("a")).key_by(key, name="by").process(state=dict[str, int], concurrency=3, on_error=sf.skip)
    async def account(ctx: sf.Context[str, dict[str, int]], v: int) -> AsyncIterator[Any]:
        ctx.state["n"] = ctx.state.get("n", 0) + 1
        await asyncio.sleep(pause(v))
        yield [v, ctx.state["n"]]
        if v % 4 == 3:
            raise ValueError("no")
        ctx.state["total"] = ctx.state.get("total", 0) + v

    @flow.source(topic("b")).key_by(key, name="by-b").process(state=int, concurrency=4)
    async def waiting(ctx: sf.Context[str, int], v: int) -> list[Any]:
        if ctx.state == 0:
            ctx.timer("tell", after="40ms")
        await asyncio.sleep(pause(v))
        ctx.state += 1
        return []

    @waiting.on_timer("tell")
    async def tell(ctx: sf.Context[str, int]) -> list[Any]:
        count = ctx.state
        await asyncio.sleep(0.001)
        ctx.clear()
        return [[ctx.key, count]]

    account.to(topic("out", list[Any]))
    waiting.to(topic("told", list[Any]))
    return flow


def check_async_processing(inputs: Inputs, outputs: Outputs) -> None:
    numbers: dict[str, int] = {}
    expected = []
    for v in inputs["a"]:
        if v % 4 != 3:
            numbers[key(v)] = numbers.get(key(v), 0) + 1
            expected.append([v, numbers[key(v)]])
    assert outputs["out"] == expected
    told: dict[str, int] = {}
    for name, count in outputs["told"]:
        assert count > 0
        told[name] = told.get(name, 0) + count
    assert told == {name: len(values) for name, values in by(inputs["b"], key).items()}


def refusing() -> Flow:
    """A broker that refuses records for good, and steps whose errors are put aside: nothing else is missing."""
    flow = Flow("refusing")

    def picky(v: int) -> int:
        if v % 7 == 3:
            raise ValueError("no")
        return v

    async def slow(v: int) -> int:
        await asyncio.sleep(pause(v))
        return picky(v + 1)

    sink = topic("out")
    sink.refuse(lambda v: v % 5 == 0)
    source = flow.source(topic("a"))
    source.map(picky, on_error=sf.dead_letter).to(sink, on_error=sf.dead_letter)
    source.map(slow, concurrency=3, on_error=sf.dead_letter).to(topic("slow"))
    return flow


def check_refusing(inputs: Inputs, outputs: Outputs) -> None:
    assert outputs["out"] == [v for v in inputs["a"] if v % 7 != 3 and v % 5]
    assert outputs["slow"] == [v + 1 for v in inputs["a"] if (v + 1) % 7 != 3]


def detaching() -> Flow:
    """Calls that no commit waits for: with keys, without, in a row, and failing; letters go to a sink."""
    flow = Flow("detaching")

    async def slow(ctx: sf.Context[Any, Any], v: int) -> list[Any]:
        await asyncio.sleep(pause(v) * 20)
        return [v, ctx.id]

    async def picky(v: int) -> int:
        await asyncio.sleep(pause(v + 1) * 10)
        if v % 7 == 3:
            raise ValueError("no")
        return v

    async def twice(v: int) -> list[int]:
        await asyncio.sleep(pause(v + 2))
        return [v, v]

    source = flow.source(topic("a"))
    source.key_by(key, name="by").map(slow, detached=True, concurrency=3).to(topic("out", list[Any]))
    accepted = source.map(picky, detached=True, concurrency=4, on_error=sf.dead_letter)
    accepted.flat_map(twice, detached=True).to(topic("twice"))
    flow.dead_letters.map(lambda letter: int(letter.letter.payload), name="payloads").to(topic("letters"))
    return flow


def check_detaching(inputs: Inputs, outputs: Outputs) -> None:
    of_keys = by(outputs["out"], lambda row: key(row[0]))
    assert {name: [row[0] for row in rows] for name, rows in of_keys.items()} == by(inputs["a"], key)
    assert len({row[1] for row in outputs["out"]}) == len(inputs["a"])
    assert sorted(outputs["twice"]) == sorted(v for v in inputs["a"] if v % 7 != 3 for _ in range(2))
    assert sorted(outputs["letters"]) == [v for v in inputs["a"] if v % 7 == 3]
