"""Wallaroo's opening book, in its own binary form, against orders from a second source: two streams merged."""

from collections.abc import Iterator

import pytest

import streamflow as sf
from examples.market_spread import Market, Order, Quote, Rejected
from streamflow.testing.harness import FlowTest
from tests.golden.inputs import GOLDEN, BookQuote, FixishQuoteCodec, frames, opening_book

QUOTES = list(frames(GOLDEN / "market_spread_350-symbols_initial-nbbo-fixish.msg"))
ORDERS = [Order(number, quote.symbol, 100, 20.0) for number, quote in enumerate(opening_book(), start=1)]

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


async def test_clean():
    async with flow.test() as t:
        await t.send(book, *opening_book())
        await t.send(orders, *ORDERS)
        check(t)


async def test_three_crashes_on_the_way():
    async with flow.test() as t:
        for quote in QUOTES[:200]:
            t.topic("book").send_bytes(quote)
        await t.settle()
        await t.crash()
        for quote in QUOTES[200:]:
            t.topic("book").send_bytes(quote)
        await t.crash()
        await t.send(orders, *ORDERS[:5])
        t.topic("rejected").unreachable = True
        await t.send(orders, *ORDERS[5:])
        assert 0 < len(t.sink("rejected")) < 15
        await t.crash()
        t.topic("rejected").unreachable = False
        await t.advance("10s")
        assert t.crashes == 3
        check(t)


async def test_a_record_that_is_no_quote_stops_the_flow_with_its_place():
    with pytest.raises(sf.StreamflowError, match=r"source 'book' cannot decode the record .*this has 3"):
        async with flow.test() as t:
            await t.send_bytes(book, b"abc")
