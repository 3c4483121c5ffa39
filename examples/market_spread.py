"""Market spread: orders are checked against the latest quote of their symbol, in the order in which both arrive.

Shows: one feed of two record types (tagged msgspec Structs), both keyed alike, meeting in one `process` step.

    streamflow run examples.market_spread:flow
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

import streamflow as sf

HERE = Path(__file__).parent
SPREAD_MAX = 0.05  # in money, and as a share of the price between bid and offer


class Quote(msgspec.Struct, frozen=True, tag=True):
    symbol: str
    bid: float
    offer: float


class Order(msgspec.Struct, frozen=True, tag=True):
    number: int
    symbol: str
    quantity: int
    price: float


class Rejected(msgspec.Struct, frozen=True):
    order: Order
    bid: float
    offer: float


class Market(msgspec.Struct):
    """What is known about one symbol; nothing may be sold before its first quote."""

    bid: float = 0.0
    offer: float = 0.0

    @property
    def too_wide(self) -> bool:
        spread, middle = self.offer - self.bid, (self.offer + self.bid) / 2
        return spread >= SPREAD_MAX or spread >= SPREAD_MAX * middle


flow = sf.Flow("market-spread", state=HERE / "out/market_spread.db")
Event: Any = Quote | Order  # typed Any, since type checkers take no union for a type; the stream's type is said below
feed: sf.Stream[Quote | Order] = flow.source(sf.jsonl(HERE / "data/market.jsonl", value=Event))


@feed.key_by(lambda event: event.symbol).process(state=Market)
def rejected(ctx: sf.Context[str, Market], event: Quote | Order) -> Iterator[Rejected]:
    market = ctx.state
    if isinstance(event, Quote):
        market.bid, market.offer = event.bid, event.offer
    elif market.too_wide:
        yield Rejected(event, market.bid, market.offer)


rejected.to(sf.jsonl(HERE / "out/market_spread.jsonl", value=Rejected))
