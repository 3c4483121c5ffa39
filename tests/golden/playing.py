"""How every golden case is played: clean, then through crashes, and both must end with the same content, to the digest.

The store's own digests are per epoch, and crashes cut epochs differently. What is compared here is what they come to:
of each stateful step the entries in the state file, of each sink what its broker holds, of each result its records.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import msgspec
import pytest

import streamflow as sf
from streamflow.graph import SINK
from streamflow.state.views import ENTRIES
from streamflow.testing.harness import FlowTest

MANY = pytest.param(20, id="20 crashes", marks=pytest.mark.long)
CRASHES = pytest.mark.parametrize("crashes", [pytest.param(0, id="clean"), pytest.param(3, id="3 crashes"), MANY])

WORK_TURNS = 20
"""Turns of the loop in which a piece of input is read, processed, committed and published, and a few more."""

Feed = Callable[[FlowTest, int], Awaitable[None]]
"""Feeds a flow all of its input, lets it die so many times on the way, and waits until all is done."""


@dataclass(frozen=True)
class Final:
    """What a flow came to.

    Args:
        rows: What each result gave.
        digests: By step, sink and result.
    """

    rows: Sequence[list[Any]]
    digests: Mapping[str, str]


async def played(
    flow: sf.Flow, feed: Feed, crashes: int, *results: sf.Stream[Any], ordered: bool = True
) -> Sequence[list[Any]]:
    """Plays a flow clean and, if it shall crash, again through crashes; gives what its results gave at last.

    Args:
        flow: The flow.
        feed: What happens to it; it must crash exactly as often as it is told to.
        crashes: How often.
        *results: Streams to look at.
        ordered: Whether the order of records, and of what a dictionary in the state holds, is part of the content.
            Where sources meet, it is a fact of each run.
    """
    clean = await play(flow, feed, 0, *results, ordered=ordered)
    if not crashes:
        return clean.rows
    crashed = await play(flow, feed, crashes, *results, ordered=ordered)
    assert crashed.digests == clean.digests
    return crashed.rows


async def play(flow: sf.Flow, feed: Feed, crashes: int, *results: sf.Stream[Any], ordered: bool = True) -> Final:
    """Plays a flow once."""
    async with FlowTest(flow) as t:
        await feed(t, crashes)
        assert t.crashes == crashes
        rows = [t.out(result) for result in results]
        return Final(rows, _content(flow, t, rows, ordered=ordered))


def _content(flow: sf.Flow, t: FlowTest, rows: Sequence[list[Any]], *, ordered: bool) -> dict[str, str]:
    entries, sinks = _stored(t), [step.name for step in flow.graph().steps if step.kind == SINK]
    assert entries or sinks or rows, "there is nothing to compare"
    if not ordered:
        entries = {name: list(map(_in_any_order, found)) for name, found in entries.items()}
    found = {f"step {name}": _digest(map(msgspec.json.encode, found)) for name, found in entries.items()}
    for name, values in [*((f"sink {name}", t.sink(name)) for name in sinks), *enumerate(rows)]:
        lines = list(map(msgspec.json.encode, values))
        found[f"{name}"] = _digest(lines if ordered else sorted(lines))
    return found


def _stored(t: FlowTest) -> dict[str, list[tuple[Any, ...]]]:
    """The entries of each stateful step, as the state file has them after the last commit."""
    connection = sqlite3.connect(f"file:{t.path}?mode=ro", uri=True)
    try:
        steps = connection.execute("SELECT name, id FROM step").fetchall()
        query = ENTRIES.format(step=":step") + "SELECT k, s, v, x FROM entries ORDER BY k, s"
        return {name: connection.execute(query, {"step": step}).fetchall() for name, step in steps}
    finally:
        connection.close()


def _in_any_order(entry: tuple[Any, ...]) -> tuple[Any, ...]:
    key, sub, value, expires = entry
    return key, sub, msgspec.json.encode(msgspec.json.decode(value), order="deterministic").decode(), expires


def _digest(parts: Iterable[bytes]) -> str:
    digest = blake2b(digest_size=16)
    for part in parts:
        digest.update(len(part).to_bytes(8))
        digest.update(part)
    return digest.hexdigest()


# -- feeding ----------------------------------------------------------------------------------------------------------


async def turns(count: int) -> None:
    """Lets the event loop turn: the flow gets that far and no further."""
    for _ in range(count):
        await asyncio.sleep(0)


async def die(t: FlowTest, piece: int, pieces: int, crashes: int) -> None:
    """Lets a flow die in front of one of so many pieces of its input.

    The crashes lie evenly, each at another turn of the work; where there are few pieces it dies several times in front
    of one.
    """
    for number in range(crashes):
        if pieces * (number + 1) // (crashes + 1) == piece:
            await turns(7 * number % WORK_TURNS)
            await t.crash()


def records_of(*fed: tuple[sf.Stream[Any], Any], silent_for: str = "31s") -> Feed:
    """Feeds records, one by one, each to its source; then the input falls silent."""

    async def feed(t: FlowTest, crashes: int) -> None:
        for at, (source, record) in enumerate(fed):
            await die(t, at, len(fed), crashes)
            await t.send(source, record, settle=False)
        await t.settle()
        await t.advance(silent_for)

    return feed


async def fed(
    flow: sf.Flow, source: sf.Stream[Any], records: Iterable[Any], crashes: int, result: sf.Stream[Any]
) -> list[Any]:
    """What one stream gives of all records of one source."""
    (rows,) = await played(flow, records_of(*((source, record) for record in records)), crashes, result)
    return rows
