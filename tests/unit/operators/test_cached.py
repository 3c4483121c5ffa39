"""Cached results of async steps: one call per key for some time, shared while it is under way, failures not kept."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import streamflow as sf
from streamflow.clock import VirtualClock
from streamflow.errors import DefinitionError
from streamflow.operators.cached import cached
from streamflow.policy import CacheSpec
from tests.unit.operators.test_async_map import Gate


async def test_records_of_one_key_share_a_call_for_some_time():
    flow = sf.Flow("f")
    source = flow.source(sf.MemoryTopic("in", value=int))
    calls: list[int] = []

    async def tens(v: int) -> int:
        calls.append(v)
        await asyncio.sleep(0)
        return v // 10

    out = source.map(tens, concurrency=4, cache=sf.cache("10m", by=lambda v: v // 10))
    async with flow.test() as t:
        await t.send(source, 11, 12, 21, 13)
        assert t.out(out) == [1, 1, 2, 1]
        assert calls == [11, 21]
        await t.advance("9m")
        await t.send(source, 14)
        assert calls == [11, 21]
        await t.advance("2m")
        await t.send(source, 15)
        assert calls == [11, 21, 15]
        await t.crash()
        await t.send(source, 16)
        assert calls[3:] == [16], "it is in memory only"
        assert t.out(out) == [1, 1, 2, 1, 1, 1, 1]


async def test_a_failed_call_is_not_kept_and_those_who_waited_try_themselves():
    gate, tries = Gate(), 0

    async def call(v: int) -> int:
        nonlocal tries
        tries += 1
        mine = tries
        await gate(mine)
        if mine == 1:
            raise ValueError("first")
        return mine

    shared = cached(call, CacheSpec(60), VirtualClock())
    first, second, third = (asyncio.create_task(shared(7)) for _ in range(3))  # type: ignore[arg-type, var-annotated]
    await asyncio.sleep(0.01)
    assert tries == 1
    gate.open(1, 2)
    with pytest.raises(ValueError, match="first"):
        await first
    assert await second == await third == 2
    assert tries == 2


async def test_it_holds_no_more_than_it_may_and_forgets_what_was_not_used_for_longest():
    calls: list[int] = []

    async def call(v: int) -> int:
        calls.append(v)
        return v

    shared = cached(call, CacheSpec(60, entries_max=2), VirtualClock())
    for v in (1, 2, 1, 3, 1, 2):
        await shared(v)
    assert calls == [1, 2, 3, 2]


async def test_cancelling_the_one_that_calls_leaves_the_others():
    gate = Gate()
    shared = cached(gate, CacheSpec(60), VirtualClock())
    first: asyncio.Task[Any] = asyncio.ensure_future(shared(1))
    second: asyncio.Task[Any] = asyncio.ensure_future(shared(1))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    first.cancel()
    gate.open(1)
    assert await second == 1
    assert gate.begun == [1, 1]


async def test_with_filter_flat_map_and_detached():
    flow = sf.Flow("f")
    source = flow.source(sf.MemoryTopic("in", value=int))
    calls: list[str] = []

    async def odd(v: int) -> bool:
        calls.append(f"odd {v}")
        return bool(v % 2)

    async def twice(v: int) -> list[int]:
        calls.append(f"twice {v}")
        return [v, v]

    async def later(v: int) -> int:
        calls.append(f"later {v}")
        return v

    kept = sf.cache("1m")
    out = source.filter(odd, cache=kept).flat_map(twice, cache=kept).map(later, detached=True, cache=kept)
    async with flow.test() as t:
        await t.send(source, 1, 2, 1, 2)
        assert t.out(out) == [1, 1, 1, 1]
    assert sorted(calls) == ["later 1", "odd 1", "odd 2", "twice 1"]


async def test_a_key_that_cannot_be_hashed_is_an_error_of_the_step():
    flow = sf.Flow("f")
    source = flow.source(sf.MemoryTopic("in", value=list[int]))

    async def same(v: list[int]) -> list[int]:
        return v

    out = source.map(same, cache=sf.cache("1m"), on_error=sf.dead_letter)
    async with flow.test() as t:
        await t.send(source, [1])
        assert t.out(out) == []


def test_what_cannot_be_cached_is_refused():
    flow = sf.Flow("f")
    source = flow.source(sf.MemoryTopic("in", value=int))

    async def batched(vs: list[int]) -> list[int]:
        return vs

    with pytest.raises(DefinitionError, match="map_batch has no cache"):
        source.map_batch(batched, cache=sf.cache("1m"))
    with pytest.raises(DefinitionError, match="is no cache"):
        source.map(batched, cache="1m")  # type: ignore[call-overload]
    with pytest.raises(DefinitionError, match="remembers nothing"):
        sf.cache("0s")
    keyed = source.key_by(lambda v: v)
    with pytest.raises(DefinitionError, match="takes no cache="):

        @keyed.process(state=int, cache=sf.cache("1m"))  # type: ignore[call-overload]
        async def kept(ctx: sf.Context[int, int], v: int) -> None: ...
