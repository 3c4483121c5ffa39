"""The Nexmark queries that RisingWave tests, each as a flow over the three streams of an auction site.

The SQL of each stands in `data/risingwave/views.json`. A view that changes with every record is a table here; one that
only grows is a stream.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
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
