"""Nexmark queries over several streams: joins, what became of each auction, and what each has got."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any, Final

import msgspec

import streamflow as sf
from tests.golden.nexmark import Auction, Bid, Person, Result, Rows, Site, query
from tests.golden.nexmark_queries import auction_of, bid_row

EVER: Final = "365d"
"""The SQL joins whole tables: whatever is there at some time."""


@query("q3")
def sellers_in_some_states(on: Site) -> Result:
    auctions = on.auctions.filter(lambda a: a.category == 10).key_by(lambda a: a.seller)
    persons = on.persons.filter(lambda p: p.state in ("or", "id", "ca")).key_by(lambda p: p.id)
    sold = auctions.join(persons, within=EVER, name="sold")
    return sold.map(lambda pair: [pair[1].name, pair[1].city, pair[1].state, pair[0].id])


@query("q20")
def bids_with_their_auctions(on: Site) -> Result:
    def row(pair: tuple[Bid, Auction]) -> list[Any]:
        b, a = pair
        about = [a.item_name, a.description, a.initial_bid, a.reserve, a.date_time, a.expires]
        return [*bid_row(b), *about, a.seller, a.category, a.extra]

    auctions = on.auctions.filter(lambda a: a.category == 10).key_by(_id)
    return on.bids.key_by(auction_of).join(auctions, within=EVER, name="of_auction").map(row)


def _id(auction: Auction) -> int:
    return auction.id


def _name(auction: Auction) -> str:
    return auction.item_name


@query("q8")
def new_sellers(on: Site) -> Result:
    window = sf.tumbling("10s")
    persons = on.persons.key_by(lambda p: p.id, name="person-id").window(window).agg(sf.last(_person), name="persons")
    sellers = on.auctions.key_by(lambda a: a.seller, name="seller").window(window).count(name="sellers")
    both = persons.join(sellers, window=window, name="both", types=(sf.Windowed[int, str], sf.Windowed[int, int]))
    return both.map(lambda row: [row.key, row.value[0].value, row.start])


def _person(person: Person) -> str:
    return person.name


# Nexmark joins bids with the auction as it is when they come, until it expires: as of their time.


def _in_time(on: Site) -> sf.KeyedStream[int, tuple[Bid, Auction]]:
    """Each bid with its auction, of those that come between its start and its end."""
    joined = on.bids.key_by(auction_of).join_asof(on.auctions.key_by(_id), name="in_time")
    return joined.filter(lambda pair: pair[0].date_time <= pair[1].expires)


class Sale(msgspec.Struct, frozen=True):
    """What became of an auction so far."""

    auction: Auction
    bid: Bid


def _winners(on: Site, better: Callable[[Bid, Bid], bool]) -> sf.Table[int, Sale]:
    """The best bid of each auction."""

    def best(a: Sale, b: Sale) -> Sale:
        return b if better(b.bid, a.bid) else a

    finals = _in_time(on).map(lambda pair: Sale(pair[1], pair[0])).reduce(best, name="best", of=Sale)
    return finals.map(lambda row: row[1]).to_table(name="finals", of=Sale)


def _higher(a: Bid, b: Bid) -> bool:
    return a.price > b.price


def _regrouped(table: sf.Table[int, Sale], key: Callable[[Sale], int], name: str) -> sf.Table[int, dict[int, Sale]]:
    """The rows of a table by another key, which none of them ever changes: what was there before is replaced."""

    def put(group: dict[int, Sale], change: sf.Change[Sale]) -> dict[int, Sale]:
        assert change.after is not None
        group[change.after.auction.id] = change.after
        return group

    def empty() -> dict[int, Sale]:
        return {}

    def group_of(change: sf.Change[Sale]) -> int:
        assert change.after is not None
        return key(change.after)

    groups = table.changes.key_by(group_of, name=f"{name}-key")
    return (
        groups.aggregate(empty, put, name=f"{name}-rows")
        .map(lambda row: row[1])
        .to_table(name=name, of=dict[int, Sale])
    )


@query("q4", lambda category, group: [[category, _mean([final.bid.price for final in group.values()])]])
def mean_price_per_category(on: Site) -> Result:
    return _regrouped(_winners(on, _higher), lambda final: final.auction.category, "categories")


def _mean(numbers: Sequence[int]) -> Decimal:
    return Decimal(sum(numbers)) / len(numbers)


def _moving_means(seller: int, group: dict[int, Sale]) -> Rows:
    prices = [final.bid.price for final in sorted(group.values(), key=lambda final: final.bid.date_time)]
    return [[seller, _mean(prices[max(0, at - 10) : at + 1])] for at in range(len(prices))]


@query("q6_group_top1", _moving_means)
def mean_of_the_last_ten_per_seller(on: Site) -> Result:
    lowest = _winners(on, lambda a, b: a.price < b.price)  # as the SQL ranks them
    return _regrouped(lowest, lambda final: final.auction.seller, "sellers")


@query("q106", lambda _, group: [[min(final.bid.price for final in group.values())]])
def lowest_of_the_highest(on: Site) -> Result:
    return _regrouped(_winners(on, _higher), lambda final: 0, "all")


def _winning(auction: int, final: Sale) -> Rows:
    a, b = final.auction, final.bid
    about = [a.id, a.item_name, a.description, a.initial_bid, a.reserve, a.date_time, a.expires, a.seller, a.category]
    return [[*about, b.auction, b.bidder, b.price, b.date_time]]


@query("q9", _winning)
def winning_bids(on: Site) -> Result:
    return _winners(on, lambda a, b: (a.price, b.date_time) > (b.price, a.date_time))


# -- what each auction has got -----------------------------------------------------------------------------------------


class Tally(msgspec.Struct):
    """The bids of one auction so far."""

    item_name: str = ""
    bids: int = 0
    price: int | None = None


def _tallies(on: Site) -> sf.KeyedStream[int, tuple[int, Tally]]:
    """The tally of each auction, with every bid, and once without any."""

    def add(tally: Tally, pair: tuple[Auction, Bid | None]) -> Tally:
        auction, bid = pair
        tally.item_name = auction.item_name
        if bid is not None:
            tally.bids += 1
            tally.price = max(bid.price, tally.price or 0)
        return tally

    pairs = on.auctions.key_by(_id).join(on.bids.key_by(auction_of), within=EVER, how="left", name="pairs")
    return pairs.aggregate(Tally, add, name="tally")


def _only(test: Callable[[Tally], bool]) -> Callable[[tuple[int, Tally]], Tally | None]:
    """What a table of tallies is given: one that does not pass is not in it, or no more."""
    return lambda row: row[1] if test(row[1]) else None


@query("q101", lambda auction, tally: [[auction, tally.item_name, tally.price]])
def highest_bid_so_far(on: Site) -> Result:
    return _tallies(on).map(lambda row: row[1]).to_table(name="tallies", of=Tally)


@query("q103", lambda auction, tally: [[auction, tally.item_name]])
def auctions_with_many_bids(on: Site) -> Result:
    return _tallies(on).map(_only(lambda tally: tally.bids >= 20)).to_table(name="many", of=Tally)


@query("q104", lambda auction, tally: [[auction, tally.item_name]])
def auctions_without_few_bids(on: Site) -> Result:
    return _tallies(on).map(_only(lambda tally: not 0 < tally.bids < 20)).to_table(name="not_few", of=Tally)


@query("q105", lambda auction, tally: [[auction, tally.item_name, tally.bids]])
def bids_per_auction(on: Site) -> Result:
    return _tallies(on).map(_only(lambda tally: tally.bids > 0)).to_table(name="counts", of=Tally)


def _above_mean(_: str, tallies: dict[int, Tally]) -> Rows:
    total = sum(tally.bids for tally in tallies.values())
    least = total // len(tallies)
    return [[auction, tally.item_name, tally.bids] for auction, tally in tallies.items() if tally.bids >= least]


@query("q102", _above_mean)
def auctions_with_more_bids_than_the_mean(on: Site) -> Result:
    def put(all_tallies: dict[int, Tally], row: tuple[int, Tally]) -> dict[int, Tally]:
        all_tallies[row[0]] = row[1]
        return all_tallies

    def empty() -> dict[int, Tally]:
        return {}

    with_bids = _tallies(on).filter(lambda row: row[1].bids > 0).key_by(lambda row: "all", name="all")
    return (
        with_bids.aggregate(empty, put, name="everything")
        .map(lambda row: row[1])
        .to_table(name="tallies", of=dict[int, Tally])
    )
