"""Nexmark as RisingWave tests it: each query gives its rows, clean and through crashes."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

import streamflow as sf
from streamflow.testing.harness import FlowTest
from tests.golden import nexmark_joins, nexmark_queries
from tests.golden.nexmark import EXPECTED, QUERIES, Auction, Bid, Person, Rows, comparable, printed, read, site

TOPICS = {"person": read("person", Person), "auction": read("auction", Auction), "bid": read("bid", Bid)}
CRASHES = 3
WORK_TURNS = 20
"""Turns of the loop in which a piece of input is read, processed and committed, and a few more."""


def shuffled(chance: random.Random) -> list[tuple[str, Any]]:
    """All events, each topic's in its order, the topics interleaved at random."""
    waiting = {name: list(reversed(events)) for name, events in TOPICS.items()}
    found = []
    while waiting:
        name = chance.choice(sorted(waiting))
        found.append((name, waiting[name].pop()))
        if not waiting[name]:
            del waiting[name]
    return found


async def run(name: str, seed: int, crashes: int) -> Counter[str]:
    """The rows of a query, as text, when the flow dies so often while it is at work."""
    build, show = QUERIES[name]
    on = site(name)
    result = build(on)
    chance = random.Random(f"{name} {seed}")
    events = shuffled(chance)
    cuts = set(chance.sample(range(1, len(events)), crashes))
    streams: dict[str, sf.Stream[Any]] = {"person": on.persons, "auction": on.auctions, "bid": on.bids}
    async with FlowTest(on.flow) as t:
        for at, (topic, event) in enumerate(events):
            if at in cuts:
                for _ in range(chance.randrange(WORK_TURNS)):
                    await asyncio.sleep(0)
                await t.crash()
            await t.send(streams[topic], event, settle=False)
        await t.settle()
        await t.advance("31s")
        assert t.crashes == crashes
        items: Sequence[tuple[Any, Any]]
        if isinstance(result, sf.Table):
            items = list(t.state(result).items())
        else:
            items = [(None, record) for record in t.out(result)]
        rows: list[Rows] = [show(key, value) for key, value in items]
    return Counter(comparable(" ".join(map(printed, row))) for part in rows for row in part)


def expected(name: str) -> Counter[str]:
    return Counter(map(comparable, EXPECTED[name]))


def test_every_view_is_there() -> None:
    assert sorted(QUERIES) == sorted(EXPECTED)
    assert len(QUERIES) == 26
    assert {build.__module__ for build, _ in QUERIES.values()} == {nexmark_joins.__name__, nexmark_queries.__name__}


@pytest.mark.parametrize("name", QUERIES)
async def test_a_query_gives_its_rows(name: str) -> None:
    assert await run(name, 0, 0) == expected(name)


@pytest.mark.parametrize("name", QUERIES)
async def test_a_query_gives_its_rows_through_crashes(name: str) -> None:
    for seed in range(3):
        assert await run(name, seed, CRASHES) == expected(name)


@pytest.mark.long
@pytest.mark.parametrize("name", QUERIES)
async def test_a_query_gives_its_rows_through_many_crashes(name: str) -> None:
    for seed in range(3, 20):
        assert await run(name, seed, CRASHES) == expected(name)
