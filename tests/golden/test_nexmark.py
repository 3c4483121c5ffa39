"""Nexmark as RisingWave tests it: each query gives its rows, clean and through crashes."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest

import streamflow as sf
from streamflow.testing.harness import FlowTest
from tests.golden import nexmark_joins, nexmark_queries
from tests.golden.nexmark import EXPECTED, QUERIES, Auction, Bid, Person, Rows, comparable, printed, read, site
from tests.golden.playing import CRASHES, WORK_TURNS, played, turns

TOPICS = {"person": read("person", Person), "auction": read("auction", Auction), "bid": read("bid", Bid)}
SEEDS = 20
"""Ways in which the topics interleave, in a long run."""


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


async def rows_of(name: str, seed: int, crashes: int) -> Counter[str]:
    """The rows of a query, as text, when the flow dies so often while it is at work."""
    build, show = QUERIES[name]
    on = site(name)
    result = build(on)
    streams: dict[str, sf.Stream[Any]] = {"person": on.persons, "auction": on.auctions, "bid": on.bids}
    rows: list[Rows] = []

    async def feed(t: FlowTest, crashes: int) -> None:
        chance = random.Random(f"{name} {seed}")
        events = shuffled(chance)
        cuts = set(chance.sample(range(1, len(events)), crashes))
        for at, (topic, event) in enumerate(events):
            if at in cuts:
                await turns(chance.randrange(WORK_TURNS))
                await t.crash()
            await t.send(streams[topic], event, settle=False)
        await t.settle()
        await t.advance("31s")
        items: Iterable[tuple[Any, Any]]
        if isinstance(result, sf.Table):
            items = t.state(result).items()
        else:
            items = [(None, record) for record in t.out(result)]
        rows[:] = [show(key, value) for key, value in items]

    streams_of_result = [] if isinstance(result, sf.Table) else [result]
    await played(on.flow, feed, crashes, *streams_of_result, ordered=False)
    return Counter(comparable(" ".join(map(printed, row))) for part in rows for row in part)


def expected(name: str) -> Counter[str]:
    return Counter(map(comparable, EXPECTED[name]))


def test_every_view_is_there() -> None:
    assert sorted(QUERIES) == sorted(EXPECTED)
    assert len(QUERIES) == 26
    assert {build.__module__ for build, _ in QUERIES.values()} == {nexmark_joins.__name__, nexmark_queries.__name__}


@CRASHES
@pytest.mark.parametrize("name", QUERIES)
async def test_a_query_gives_its_rows(name: str, crashes: int) -> None:
    assert await rows_of(name, crashes, crashes) == expected(name)


@pytest.mark.longest
@pytest.mark.parametrize("name", QUERIES)
async def test_a_query_gives_its_rows_however_the_topics_interleave(name: str) -> None:
    for seed in range(SEEDS):
        assert await rows_of(name, 100 + seed, 5) == expected(name)
