"""Market spread as events in time: the ordered run, what it rejects, and the same events out of order."""

from __future__ import annotations

import random

from examples.market_spread import Market, Order, Quote, Rejected
from tests.golden.inputs import market

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


def shuffled(found: list[Event], chance: random.Random) -> list[Event]:
    """Out of order, but by no more than the lateness allows."""
    places = [(at + chance.uniform(0, SHUFFLED_WITHIN), event) for at, event in enumerate(found)]
    return [event for _, event in sorted(places, key=lambda place: place[0])]
