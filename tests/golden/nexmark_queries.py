"""Nexmark queries over single streams: one event by itself, groups, windows."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any, Final, TypeVar

import streamflow as sf
from tests.golden.nexmark import Bid, Result, Rows, Site, query

K = TypeVar("K")
R = TypeVar("R")


# -- one event by itself -----------------------------------------------------------------------------------------------


@query("q0")
def all_bids(on: Site) -> Result:
    return on.bids.map(lambda b: [b.auction, b.bidder, b.price, b.date_time])


def _in_euros(bid: Bid) -> Decimal:
    return Decimal("0.908") * bid.price


@query("q1")
def in_euros(on: Site) -> Result:
    return on.bids.map(lambda b: [b.auction, b.bidder, _in_euros(b), b.date_time])


@query("q2")
def some_auctions(on: Site) -> Result:
    return on.bids.filter(lambda b: b.auction in (1007, 1020, 2001, 2019, 2087)).map(lambda b: [b.auction, b.price])


@query("q10")
def with_day_and_time(on: Site) -> Result:
    def row(b: Bid) -> list[Any]:
        return [b.auction, b.bidder, b.price, b.date_time, f"{b.date_time:%Y-%m-%d}", f"{b.date_time:%I:%M}"]

    return on.bids.map(row)


@query("q14")
def by_time_of_day(on: Site) -> Result:
    def kind(hour: int) -> str:
        return "dayTime" if 8 <= hour <= 18 else "nightTime" if hour <= 6 or hour >= 20 else "otherTime"

    def row(b: Bid) -> list[Any]:
        return [b.auction, b.bidder, _in_euros(b), kind(b.date_time.hour), b.date_time, b.extra.count("c")]

    return on.bids.filter(lambda b: 1_000_000 < _in_euros(b) < 50_000_000).map(row)


@query("q21")
def by_channel(on: Site) -> Result:
    known = {"apple": "0", "google": "1", "facebook": "2", "baidu": "3"}

    def rows(b: Bid) -> Iterator[list[Any]]:
        found = re.search(r"(?:&|^)channel_id=([^&]*)", b.url)
        channel = known.get(b.channel.lower(), found and found[1])
        if channel is not None:
            yield [b.auction, b.bidder, b.price, b.channel, channel]

    return on.bids.flat_map(rows)


@query("q22")
def by_folder(on: Site) -> Result:
    return on.bids.map(lambda b: [b.auction, b.bidder, b.price, b.channel, *b.url.split("/")[3:6]])


# -- groups ------------------------------------------------------------------------------------------------------------


RANKS: Final[Sequence[Callable[[Bid], bool]]] = (
    lambda b: b.price < 10_000,
    lambda b: 10_000 <= b.price < 1_000_000,
    lambda b: b.price >= 1_000_000,
)


def where(test: Callable[[Bid], bool], found: sf.Aggregator[Bid, Any, Any]) -> sf.Aggregator[Bid, Any, Any]:
    """``found FILTER (WHERE test)``."""
    return replace(found, add=lambda so_far, bid: found.add(so_far, bid) if test(bid) else so_far)


def per_rank(name: str, make: Callable[[], sf.Aggregator[Bid, Any, Any]]) -> dict[str, Any]:
    """An aggregator over all bids, and over those of each rank."""
    return {name: make()} | {f"{name}_{at}": where(test, make()) for at, test in enumerate(RANKS, start=1)}


def _day(bid: Bid) -> str:
    return f"{bid.date_time:%Y-%m-%d}"


def _price(bid: Bid) -> int:
    return bid.price


def auction_of(bid: Bid) -> int:
    """The auction that a bid is for."""
    return bid.auction


def _counts_and_distinct() -> dict[str, Any]:
    return {
        **per_rank("bids", sf.count),
        **per_rank("bidders", lambda: sf.distinct(lambda b: b.bidder)),
        **per_rank("auctions", lambda: sf.distinct(auction_of)),
    }


def result_of(row: tuple[K, R]) -> R:
    """What an aggregation gave, without its key."""
    return row[1]


@query("q15", lambda day, found: [[day, *found.values()]])
def per_day(on: Site) -> Result:
    return on.bids.key_by(_day).agg(name="counts", **_counts_and_distinct()).map(result_of).to_table(name="per_day")


@query("q16", lambda key, found: [[*key, *found.values()]])
def per_channel_and_day(on: Site) -> Result:
    def minute(bid: Bid) -> str:
        return f"{bid.date_time:%I:%m}"  # their HH:mm: hours of half a day, and the month

    days = on.bids.key_by(lambda b: (b.channel, _day(b)))
    counts = days.agg(name="counts", minute=sf.max(minute), **_counts_and_distinct())
    return counts.map(result_of).to_table(name="per_channel")


def _prices(key: Any, found: dict[str, Any]) -> Rows:
    *counts, total = found.values()
    return [[*key, *counts, Decimal(total) / found["bids"], total]]


@query("q17", _prices)
def per_auction_and_day(on: Site) -> Result:
    days = on.bids.key_by(lambda b: (b.auction, _day(b)))
    prices: dict[str, Any] = {"low": sf.min(_price), "high": sf.max(_price), "total": sf.sum(_price)}
    return days.agg(name="counts", **per_rank("bids", sf.count), **prices).map(result_of).to_table(name="per_auction")


def bid_row(b: Bid) -> list[Any]:
    """The columns of a bid."""
    return [b.auction, b.bidder, b.price, b.channel, b.url, b.date_time, b.extra]


@query("q18", lambda key, bid: [bid_row(bid)])
def last_bid_of_each_bidder(on: Site) -> Result:
    def later(a: Bid, b: Bid) -> Bid:
        same = a.date_time == b.date_time
        return b if (b.extra < a.extra if same else b.date_time > a.date_time) else a

    last = on.bids.key_by(lambda b: (b.bidder, b.auction)).reduce(later, name="last", of=Bid)
    return last.map(lambda row: row[1]).to_table(name="last_bids", of=Bid)


@query("q19", lambda key, bids: [[*bid_row(bid), at] for at, bid in enumerate(bids, start=1)])
def ten_best_bids(on: Site) -> Result:
    best = on.bids.key_by(auction_of).agg(sf.top_k(10, _price, kind=Bid), name="best")
    return best.map(lambda row: row[1]).to_table(name="best_bids", of=list[Bid])


# -- windows -----------------------------------------------------------------------------------------------------------


def _best(rows: list[Any], by: Callable[[Any], Any]) -> Iterator[Any]:
    """All rows that have the largest ``by``."""
    most = max(map(by, rows))
    return (row for row in rows if by(row) == most)


@query("q5")
def hot_auctions(on: Site) -> Result:
    counts = on.bids.key_by(auction_of).window(sf.sliding("10s", "2s")).count(name="counts")
    ends = counts.key_by(lambda row: "all", name="all").window(sf.tumbling("2s"))  # one end of windows in each
    every = ends.agg(sf.collect(kind=sf.Windowed[int, int]), name="every")
    return every.flat_map(lambda row: _best(row.value, lambda w: w.value)).map(lambda w: [w.key, w.value])


@query("q7")
def highest_bids(on: Site) -> Result:
    every = on.bids.key_by(lambda b: "all").window(sf.tumbling("10s")).agg(sf.collect(kind=Bid), name="every")
    best = every.flat_map(lambda row: _best(row.value, _price))
    return best.map(lambda b: [b.auction, b.price, b.bidder, b.date_time])
