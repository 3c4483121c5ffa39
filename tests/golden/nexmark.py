"""The Nexmark queries that RisingWave tests, each as a flow over the three streams of an auction site.

The SQL of each stands in `data/risingwave/views.json`. A view that changes with every record is a table here; one that
only grows is a stream.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import msgspec

import streamflow as sf

DATA: Final = Path(__file__).parent / "data" / "risingwave"
EXPECTED: Final[Mapping[str, Sequence[str]]] = json.loads((DATA / "expected.json").read_bytes())


class Person(msgspec.Struct, frozen=True):
    id: int
    name: str
    email_address: str
    credit_card: str
    city: str
    state: str
    date_time: datetime.datetime
    extra: str


class Auction(msgspec.Struct, frozen=True):
    id: int
    item_name: str
    description: str
    initial_bid: int
    reserve: int
    date_time: datetime.datetime
    expires: datetime.datetime
    seller: int
    category: int
    extra: str


class Bid(msgspec.Struct, frozen=True):
    auction: int
    bidder: int
    price: int
    channel: str
    url: str
    date_time: datetime.datetime
    extra: str


def read(name: str, kind: type[Any]) -> list[Any]:
    """The events of one file; their times are UTC."""
    found = []
    for line in (DATA / f"{name}.jsonl").read_text().splitlines():
        row = json.loads(line)
        times = {key: row[key].replace(" ", "T") + "Z" for key in ("date_time", "expires") if key in row}
        found.append(msgspec.convert({**row, **times}, kind))
    return found


@dataclass(frozen=True)
class Site:
    """A flow over the three streams."""

    flow: sf.Flow
    persons: sf.Stream[Person]
    auctions: sf.Stream[Auction]
    bids: sf.Stream[Bid]


def site(name: str) -> Site:
    """A flow that reads the three streams."""
    flow = sf.Flow(name)

    def source(topic: str, kind: type[Any]) -> sf.Stream[Any]:
        return flow.source(sf.MemoryTopic(topic, value=kind), time=lambda event: event.date_time)

    return Site(flow, source("person", Person), source("auction", Auction), source("bid", Bid))


Rows = Iterable[Iterable[Any]]
Result = sf.Stream[Any] | sf.Table[Any, Any]
Build = Callable[[Site], Result]

Show = Callable[[Any, Any], Rows]

QUERIES: Final[dict[str, tuple[Build, Show]]] = {}
"""By name: what builds the query, and which rows one of its records stands for, or a key of its table and its value."""


def _one(_: None, row: Iterable[Any]) -> Rows:
    return [row]


def query(name: str, rows: Show = _one) -> Callable[[Build], Build]:
    """Registers a query."""

    def register(build: Build) -> Build:
        QUERIES[name] = build, rows
        return build

    return register


# -- how RisingWave prints ---------------------------------------------------------------------------------------------


def printed(value: Any) -> str:
    """A value as the expected rows have it."""
    if value is None:
        return "NULL"
    if isinstance(value, datetime.datetime):
        return value.replace(tzinfo=None).isoformat(" ", "milliseconds" if value.microsecond else "seconds")
    return str(value)


def comparable(row: str) -> str:
    """A row in which decimals do not depend on how many of their endless digits are printed, nor runs of blanks."""
    return " ".join(_rounded(part) for part in row.split())


def _rounded(part: str) -> str:
    if not re.fullmatch(r"-?\d+(\.\d+)?", part):
        return part
    return format(round(Decimal(part), 12).normalize(), "f")


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


def _auction(bid: Bid) -> int:
    return bid.auction


def _counts_and_distinct() -> dict[str, Any]:
    return {
        **per_rank("bids", sf.count),
        **per_rank("bidders", lambda: sf.distinct(lambda b: b.bidder)),
        **per_rank("auctions", lambda: sf.distinct(_auction)),
    }


def _of(row: tuple[Any, dict[str, Any]]) -> dict[str, Any]:
    return row[1]


@query("q15", lambda day, found: [[day, *found.values()]])
def per_day(on: Site) -> Result:
    return on.bids.key_by(_day).agg(name="counts", **_counts_and_distinct()).map(_of).to_table(name="per_day")


@query("q16", lambda key, found: [[*key, *found.values()]])
def per_channel_and_day(on: Site) -> Result:
    def minute(bid: Bid) -> str:
        return f"{bid.date_time:%I:%m}"  # their HH:mm: hours of half a day, and the month

    days = on.bids.key_by(lambda b: (b.channel, _day(b)))
    counts = days.agg(name="counts", minute=sf.max(minute), **_counts_and_distinct())
    return counts.map(_of).to_table(name="per_channel")


def _prices(key: Any, found: dict[str, Any]) -> Rows:
    *counts, total = found.values()
    return [[*key, *counts, Decimal(total) / found["bids"], total]]


@query("q17", _prices)
def per_auction_and_day(on: Site) -> Result:
    days = on.bids.key_by(lambda b: (b.auction, _day(b)))
    prices: dict[str, Any] = {"low": sf.min(_price), "high": sf.max(_price), "total": sf.sum(_price)}
    return days.agg(name="counts", **per_rank("bids", sf.count), **prices).map(_of).to_table(name="per_auction")


def _bid_row(b: Bid) -> list[Any]:
    return [b.auction, b.bidder, b.price, b.channel, b.url, b.date_time, b.extra]


@query("q18", lambda key, bid: [_bid_row(bid)])
def last_bid_of_each_bidder(on: Site) -> Result:
    def later(a: Bid, b: Bid) -> Bid:
        same = a.date_time == b.date_time
        return b if (b.extra < a.extra if same else b.date_time > a.date_time) else a

    last = on.bids.key_by(lambda b: (b.bidder, b.auction)).reduce(later, name="last", of=Bid)
    return last.map(lambda row: row[1]).to_table(name="last_bids", of=Bid)


@query("q19", lambda key, bids: [[*_bid_row(bid), at] for at, bid in enumerate(bids, start=1)])
def ten_best_bids(on: Site) -> Result:
    best = on.bids.key_by(_auction).agg(sf.top_k(10, _price, kind=Bid), name="best")
    return best.map(lambda row: row[1]).to_table(name="best_bids", of=list[Bid])


# -- windows -----------------------------------------------------------------------------------------------------------


def _best(rows: list[Any], by: Callable[[Any], Any]) -> Iterator[Any]:
    """All rows that have the largest ``by``."""
    most = max(map(by, rows))
    return (row for row in rows if by(row) == most)


@query("q5")
def hot_auctions(on: Site) -> Result:
    counts = on.bids.key_by(_auction).window(sf.sliding("10s", "2s")).count(name="counts")
    ends = counts.key_by(lambda row: "all", name="all").window(sf.tumbling("2s"))  # one end of windows in each
    every = ends.agg(sf.collect(kind=sf.Windowed[int, int]), name="every")
    return every.flat_map(lambda row: _best(row.value, lambda w: w.value)).map(lambda w: [w.key, w.value])


@query("q7")
def highest_bids(on: Site) -> Result:
    every = on.bids.key_by(lambda b: "all").window(sf.tumbling("10s")).agg(sf.collect(kind=Bid), name="every")
    best = every.flat_map(lambda row: _best(row.value, _price))
    return best.map(lambda b: [b.auction, b.price, b.bidder, b.date_time])


# -- joins -------------------------------------------------------------------------------------------------------------

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
        return [*_bid_row(b), *about, a.seller, a.category, a.extra]

    auctions = on.auctions.filter(lambda a: a.category == 10).key_by(_id)
    return on.bids.key_by(_auction).join(auctions, within=EVER, name="of_auction").map(row)


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
    joined = on.bids.key_by(_auction).join_asof(on.auctions.key_by(_id), name="in_time")
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

    groups = table.changes.key_by(lambda change: key(change.after or change.before), name=f"{name}-key")
    return groups.aggregate(empty, put, name=f"{name}-rows").map(_of).to_table(name=name, of=dict[int, Sale])


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

    pairs = on.auctions.key_by(_id).join(on.bids.key_by(_auction), within=EVER, how="left", name="pairs")
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
    return with_bids.aggregate(empty, put, name="everything").map(_of).to_table(name="tallies", of=dict[int, Tally])
