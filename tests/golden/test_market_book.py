"""Wallaroo's opening book, in its own binary form, against orders from a second source: two streams merged."""

from collections.abc import Iterator

import pytest

import streamflow as sf
from examples.market_spread import Market, Order, Quote, Rejected
from streamflow.testing.harness import FlowTest
from tests.golden.inputs import GOLDEN, BookQuote, FixishQuoteCodec, frames, opening_book
from tests.golden.playing import CRASHES, die, played

QUOTES = list(frames(GOLDEN / "market_spread_350-symbols_initial-nbbo-fixish.msg"))
ORDERS = [Order(number, quote.symbol, 100, 20.0) for number, quote in enumerate(opening_book(), start=1)]
PIECES = 10
QUOTES_A_PIECE = len(QUOTES) // PIECES
ORDER_PIECES = [*(ORDERS[at : at + 2] for at in range(0, 18, 2)), ORDERS[18:]]
"""The first 15 are for what is too wide."""
AWAY = range(13, 17)
"""Pieces during which the sink cannot be reached."""

flow = sf.Flow("market-book")
book = flow.source(sf.MemoryTopic("book", value=FixishQuoteCodec()))
orders = flow.source(sf.MemoryTopic("orders", value=Order))


@book.map
def quotes(quote: BookQuote) -> Quote | Order:
    return Quote(quote.symbol, quote.bid, quote.offer)


@orders.map
def events(order: Order) -> Quote | Order:
    return order


@quotes.merge(events).key_by(lambda event: event.symbol).process(state=Market)
def rejected(ctx: sf.Context[str, Market], event: Quote | Order) -> Iterator[Rejected]:
    if isinstance(event, Quote):
        ctx.state.bid, ctx.state.offer = event.bid, event.offer
    elif ctx.state.too_wide:
        yield Rejected(event, ctx.state.bid, ctx.state.offer)


rejected.to(sf.MemoryTopic("rejected", value=Rejected))


@pytest.fixture(autouse=True)
def empty_topics():
    """Memory topics outlive a test, since they are the broker that outlives a flow."""
    for step in flow.graph().steps:
        if "spec" in step.options:
            step.options["spec"].replace()


def check(t: FlowTest) -> None:
    found = t.sink("rejected")
    too_wide = {quote.symbol for quote in opening_book() if Market(quote.bid, quote.offer).too_wide}
    assert len(found) == len(too_wide) == 15
    assert [row.order.symbol for row in found] == [order.symbol for order in ORDERS if order.symbol in too_wide]


async def feed_in_pieces(t: FlowTest, crashes: int) -> None:
    """The whole book, then the orders; where it crashes, its sink is away for a while in the midst of them."""
    sink = t.topic("rejected")
    for piece in range(2 * PIECES):
        if piece < PIECES:
            for quote in QUOTES[piece * QUOTES_A_PIECE : (piece + 1) * QUOTES_A_PIECE]:
                t.topic("book").send_bytes(quote)
        else:
            if piece == PIECES:
                await t.settle()
            sink.unreachable = crashes > 0 and piece in AWAY
            await t.send(orders, *ORDER_PIECES[piece - PIECES], settle=False)
        await die(t, piece, 2 * PIECES, crashes)
        if crashes and piece == AWAY[-1]:
            await t.settle()
            assert 0 < len(t.sink("rejected")) < len(t.out(rejected)), "some are committed, and not published"
    await t.settle()
    await t.advance("10s")
    check(t)


@CRASHES
async def test_all_whose_spread_is_too_wide_are_rejected(crashes: int) -> None:
    await played(flow, feed_in_pieces, crashes, rejected)


async def test_a_record_that_is_no_quote_stops_the_flow_with_its_place():
    with pytest.raises(sf.StreamflowError, match=r"source 'book' cannot decode the record .*this has 3"):
        async with flow.test() as t:
            await t.send_bytes(book, b"abc")
