"""The golden cases: per example what goes in, and whether what came out is right, to the last record."""

from __future__ import annotations

import importlib
import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from streamflow import Flow, Stream
from tests.golden.inputs import EXAMPLES, EXPECTED, GOLDEN, frames

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Case:
    """One example with one input.

    Args:
        name: Name of the case.
        module: The example's module.
        source: Name of its variable that holds the source's stream.
        result: Name of its variable that holds the stream before the last map or the sink.
        sink: Name of its sink and of the file that it writes.
        payloads: The records as a source reads them, undecoded.
        check: Asserts that the outputs, as plain JSON values, are right and complete, and none is there twice.
    """

    name: str
    module: str
    source: str
    result: str
    sink: str
    payloads: Callable[[], Sequence[bytes]]
    check: Callable[[Sequence[Row]], None]

    @property
    def flow(self) -> Flow:
        return self._get("flow")  # type: ignore[no-any-return]

    @property
    def input(self) -> Stream[Any]:
        return self._get(self.source)  # type: ignore[no-any-return]

    @property
    def output(self) -> Stream[Any]:
        return self._get(self.result)  # type: ignore[no-any-return]

    def _get(self, name: str) -> Any:
        return getattr(importlib.import_module(f"examples.{self.module}"), name)


def rows(values: Sequence[Any]) -> list[Row]:
    """Typed values as plain JSON values."""
    return [msgspec.to_builtins(value) for value in values]


def rows_in(file: Path) -> list[Row]:
    """The JSON values in a file."""
    assert not file.exists() or file.read_bytes().endswith(b"\n")
    return list(map(json.loads, file.read_bytes().splitlines()))


def _data(name: str) -> Callable[[], Sequence[bytes]]:
    return lambda: (EXAMPLES / "data" / name).read_bytes().splitlines()


def _grouped(found: Sequence[Row], key: str, value: str) -> dict[str, list[Any]]:
    groups: dict[str, list[Any]] = defaultdict(list)
    for row in found:
        groups[row[key]].append(row[value])
    return groups


def check_words(found: Sequence[Row]) -> None:
    expected = EXPECTED["word_count"]
    updates = _grouped(found, "word", "count")
    # each word is counted 1, 2, 3, ... n: none missing, none twice, in order
    assert updates == {word: list(range(1, n + 1)) for word, n in expected["final_counts"].items()}
    assert (len(found), len(updates)) == (expected["nonempty_words"], expected["distinct"]) == (482, 217)


def check_votes(expected: Mapping[str, Any], file: Path) -> Callable[[Sequence[Row]], None]:
    def check(found: Sequence[Row]) -> None:
        totals: Counter[str] = Counter()
        wanted = []
        for frame in frames(file):
            letter = frame[4:5].decode()
            totals[letter] += int.from_bytes(frame[5:9])
            wanted.append({"letter": letter, "votes": totals[letter]})
        assert list(found) == wanted
        assert {letter: votes[-1] for letter, votes in _grouped(found, "letter", "votes").items()} == expected["totals"]
        assert (len(found), sum(totals.values())) == (expected["records"], expected["grand_total"])

    return check


def check_celsius(found: Sequence[Row]) -> None:
    expected = EXPECTED["celsius"]
    assert [row["celsius"] for row in found] == [float(degrees) for degrees in range(expected["records"])]
    fahrenheit = [row["fahrenheit"] for row in found]
    assert (fahrenheit[0], fahrenheit[-1]) == (expected["first"], expected["last"])
    assert math.isclose(math.fsum(fahrenheit), expected["sum_fahrenheit"], rel_tol=1e-12)


def check_windows(found: Sequence[Row]) -> None:
    assert len(found) == 10_000
    padded = [0, 0, 0, *range(1, 1001)]
    wanted = [padded[at : at + 4] for at in range(1000)]
    assert _grouped(found, "key", "values") == dict.fromkeys("abcdefghij", wanted)


def check_market(found: Sequence[Row]) -> None:
    assert len(found) == 1000
    assert [row["order"]["number"] for row in found] == list(range(1, 2001, 2))
    assert len({row["order"]["symbol"] for row in found}) == 10
    assert {(row["bid"], row["offer"]) for row in found} == {(20.99, 21.07)}


_VOTES, _MORE_VOTES = GOLDEN / "alphabet_votes.msg", GOLDEN / "alphabet_partitioned__test.txt"

EXAMPLE_CASES = (
    Case("word_count", "word_count", "text", "counts", "word_count", _data("bill_of_rights.txt"), check_words),
    Case(
        "alphabet_votes", "alphabet_votes", "records", "totals", "alphabet_votes", _data("votes.hex"),
        check_votes(EXPECTED["alphabet_votes"], _VOTES),
    ),
    Case("celsius", "celsius", "celsius", "readings", "fahrenheit", _data("celsius.jsonl"), check_celsius),
    Case(
        "sequence_window", "sequence_window", "readings", "windows", "sequence_window", _data("sequence.jsonl"),
        check_windows,
    ),
    Case("market_spread", "market_spread", "feed", "rejected", "market_spread", _data("market.jsonl"), check_market),
)  # fmt: skip

CASES = (
    *EXAMPLE_CASES,
    Case(
        "alphabet_partitioned", "alphabet_votes", "records", "totals", "alphabet_votes",
        lambda: [frame.hex().encode() for frame in frames(_MORE_VOTES)],
        check_votes(EXPECTED["alphabet_partitioned"], _MORE_VOTES),
    ),
)  # fmt: skip
