"""What the examples read, made from Wallaroo's files and from rules; `python -m tests.golden.inputs` writes it."""

from __future__ import annotations

import datetime
import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GOLDEN = Path(__file__).parent / "data" / "wallaroo"
EXAMPLES = Path(__file__).parents[2] / "examples"
EXPECTED: dict[str, Any] = json.loads((GOLDEN / "expected.json").read_bytes())

QUOTES_PER_SYMBOL = 100
ORDERS_PER_SYMBOL = 100
ORDERS = 200
OPENING = datetime.datetime(2025, 12, 1, 9, tzinfo=datetime.UTC)


def frames(path: Path) -> Iterator[bytes]:
    """Cuts a file of records that begin with their length, 4 bytes big-endian, which stays in front of them."""
    data, at = path.read_bytes(), 0
    while at < len(data):
        end = at + 4 + int.from_bytes(data[at : at + 4])
        assert end <= len(data), f"{path.name} ends inside a record"
        yield data[at:end]
        at = end


@dataclass(frozen=True)
class BookQuote:
    """A quote of Wallaroo's opening book."""

    symbol: str
    time: str
    bid: float
    offer: float


class FixishQuoteCodec:
    """Wallaroo's binary "fixish" quote, length in front: a codec of a user's own."""

    name = "fixish-quote"
    _layout = struct.Struct(">IB4s21sdd")

    def encode(self, quote: BookQuote, /) -> bytes:
        length = self._layout.size - 4
        symbol, time = quote.symbol.rjust(4).encode(), quote.time.encode()
        return self._layout.pack(length, 2, symbol, time, quote.bid, quote.offer)

    def decode(self, data: bytes, /) -> BookQuote:
        if len(data) != self._layout.size:
            raise ValueError(f"a quote has {self._layout.size} bytes, this has {len(data)}")
        length, kind, symbol, time, bid, offer = self._layout.unpack(data)
        if (length, kind) != (len(data) - 4, 2):
            raise ValueError(f"not a quote: length {length}, type {kind}")
        return BookQuote(symbol.decode().strip(), time.decode(), bid, offer)


def opening_book() -> list[BookQuote]:
    """The 350 opening quotes."""
    return list(map(FixishQuoteCodec().decode, frames(GOLDEN / "market_spread_350-symbols_initial-nbbo-fixish.msg")))


def market() -> Iterator[dict[str, Any]]:
    """2,000 quotes, then 2,000 orders over 10 symbols that end wide and 10 that end narrow.

    The first half of each symbol's quotes says the opposite of the second: only who applies every quote, in order,
    rejects 1,000 orders.
    """
    book = opening_book()
    wide = [quote.symbol for quote in book if quote.offer - quote.bid >= 0.05][:10]
    narrow = [quote.symbol for quote in book if quote.offer - quote.bid < 0.05][:10]
    symbols = [symbol for pair in zip(wide, narrow, strict=True) for symbol in pair]
    for turn in range(QUOTES_PER_SYMBOL):
        for symbol in symbols:
            is_wide = (symbol in wide) == (turn >= QUOTES_PER_SYMBOL // 2)
            bid = 20 + turn / 100
            yield {"type": "Quote", "symbol": symbol, "bid": bid, "offer": round(bid + (0.08 if is_wide else 0.01), 2)}
    for turn in range(ORDERS_PER_SYMBOL):
        for at, symbol in enumerate(symbols):
            number = turn * len(symbols) + at + 1
            yield {"type": "Order", "number": number, "symbol": symbol, "quantity": 100, "price": 21.0}


def sequence() -> Iterator[dict[str, Any]]:
    """1 to 1,000 for each of ten keys, in turn."""
    for value in range(1, 1001):
        for key in "abcdefghij":
            yield {"key": key, "value": value}


def orders() -> Iterator[dict[str, Any]]:
    """200 orders, one a minute."""
    for number in range(1, ORDERS + 1):
        yield {"id": f"o{number}", "at": _written(number * 60), "amount": number * 7 % 90 + 10}


def payments() -> Iterator[dict[str, Any]]:
    """A payment for each order but every fifth, within 15 minutes but for every seventh, in the order of time."""
    found = []
    for number in range(1, ORDERS + 1):
        if number % 5:
            behind = 901 if number % 7 == 0 else number * 379 % 901
            found.append((number * 60 + behind, number))
    for seconds, number in sorted(found):
        yield {"order": f"o{number}", "at": _written(seconds)}


def _written(seconds: int) -> str:
    return (OPENING + datetime.timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")


def contents() -> dict[str, bytes]:
    """What `examples/data` must hold, by file name."""
    return {
        "bill_of_rights.txt": (GOLDEN / "word_count_count_this.txt").read_bytes(),
        "votes.hex": b"".join(frame.hex().encode() + b"\n" for frame in frames(GOLDEN / "alphabet_votes.msg")),
        "celsius.jsonl": b"".join(b"%.1f\n" % celsius for celsius in range(1000)),
        "sequence.jsonl": _jsonl(sequence()),
        "market.jsonl": _jsonl(market()),
        "orders.jsonl": _jsonl(orders()),
        "payments.jsonl": _jsonl(payments()),
    }


def _jsonl(records: Iterator[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(record, separators=(",", ":")).encode() + b"\n" for record in records)


if __name__ == "__main__":
    for name, data in contents().items():
        (EXAMPLES / "data" / name).write_bytes(data)
