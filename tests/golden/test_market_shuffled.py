"""Market spread from two sources, shuffled: merged by event time it gives the result of the ordered run, exactly."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import streamflow as sf
from examples.market_spread import Market, Order, Quote, Rejected
from streamflow.testing.harness import FlowTest
from tests.golden.inputs import market
from tests.golden.playing import CRASHES, played, turns

START_MS = 1_767_225_600_000
APART_MS = 10
SHUFFLED_WITHIN = 40
"""A record arrives at most so many places from its own; what lateness waits for is longer."""

Event = tuple[int, Quote | Order]
"""When it happened, in milliseconds, and what."""


def events() -> list[Event]:
    """The 2,000 quotes and 2,000 orders of the ordered run, ten milliseconds apart."""
    found: list[Event] = []
    for at, row in enumerate(market()):
        kind = row.pop("type")
        found.append((START_MS + at * APART_MS, Quote(**row) if kind == "Quote" else Order(**row)))
    return found


def plain(found: list[Event]) -> list[Rejected]:
    """What a loop over the events in order rejects."""
    books: dict[str, Market] = {}
    rejected = []
    for _, event in found:
        book = books.setdefault(event.symbol, Market())
        if isinstance(event, Quote):
            book.bid, book.offer = event.bid, event.offer
        elif book.too_wide:
            rejected.append(Rejected(event, book.bid, book.offer))
    return rejected


def market_flow() -> tuple[sf.Flow, dict[str, sf.Stream[Any]], sf.Stream[Any]]:
    flow = sf.Flow("market-shuffled")
    lateness = f"{2 * SHUFFLED_WITHIN * APART_MS}ms"
    sources = {
        name: flow.source(sf.MemoryTopic[Any](name), time=lambda event: event[0], lateness=lateness, future_max="3650d")
        for name in ("quotes", "orders")
    }
    joint = sf.merge(*sources.values(), order="time")

    @joint.map(lambda event: event[1], name="event").key_by(lambda event: event.symbol).process(state=Market)
    def rejected(ctx: sf.Context[str, Market], event: Quote | Order) -> Iterator[Rejected]:
        if isinstance(event, Quote):
            ctx.state.bid, ctx.state.offer = event.bid, event.offer
        elif ctx.state.too_wide:
            yield Rejected(event, ctx.state.bid, ctx.state.offer)

    return flow, sources, rejected


def shuffled(found: list[Event], chance: random.Random) -> list[Event]:
    """Out of order, but by no more than the lateness allows."""
    places = [(at + chance.uniform(0, SHUFFLED_WITHIN), event) for at, event in enumerate(found)]
    return [event for _, event in sorted(places, key=lambda place: place[0])]


@CRASHES
async def test_shuffled_arrival_gives_the_result_of_the_ordered_run(crashes: int) -> None:
    in_order = events()
    expected = plain(in_order)
    assert len(in_order) == 4000
    assert len(expected) == 1000
    flow, sources, rejected = market_flow()

    async def feed(t: FlowTest, crashes: int) -> None:
        # what is played clean is another shuffle
        chance = random.Random(crashes)
        lanes = {
            name: shuffled([event for event in in_order if isinstance(event[1], kind)], chance)
            for name, kind in (("quotes", Quote), ("orders", Order))
        }
        assert any(lane != sorted(lane, key=lambda event: event[0]) for lane in lanes.values())
        # the orders are all there before the last quote is
        waiting = {name: lane[::-1] for name, lane in lanes.items()}
        sent = 0
        while any(waiting.values()):
            name = chance.choice([name for name, lane in waiting.items() if lane])
            for _ in range(min(len(waiting[name]), chance.randrange(1, 200))):
                await t.send(sources[name], waiting[name].pop(), settle=False)
            sent += 1
            if t.crashes < crashes and sent % max(1, 24 // crashes) == 0:
                await turns(chance.randrange(30))
                await t.crash()
        await t.settle()
        await t.advance("31s")
        assert t.engine.mishaps.released_early.total() == 0

    (found,) = await played(flow, feed, crashes, rejected)
    assert found == expected


async def test_without_an_order_it_does_not() -> None:
    """The shuffle is one: in order of arrival another number of orders is rejected."""
    in_order = events()
    chance = random.Random(1)
    mixed = shuffled(in_order, chance)
    chance.shuffle(mixed)
    assert plain(mixed) != plain(in_order)
