"""Wallaroo's product of topologies: each step plain or behind a key_by, with state or without, up to three in a row.

A record carries its trace: which steps it passed and, of those with state, how many of its key had passed it by then.
Each of the 84 graphs gives the traces of a plain loop, and the same through crashes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import msgspec
import pytest

import streamflow as sf
from tests.golden.playing import CRASHES, Feed, played, records_of

DEPTH = 3
RECORDS = 40
ALL = "all"
"""The key of a record before the first key_by."""


@dataclass(frozen=True)
class Kind:
    """One step of a graph."""

    keyed: bool
    stateful: bool

    def __str__(self) -> str:
        return f"{'key_by' if self.keyed else 'plain'}-{'stateful' if self.stateful else 'stateless'}"


class Traced(msgspec.Struct):
    """A record, and the steps that it has passed: their number, and how many of which key came before it."""

    number: int
    trace: list[tuple[int, str, int]]


class Passed(msgspec.Struct):
    """State of a step: how many records of a key passed it."""

    count: int = 0


KINDS = [Kind(keyed, stateful) for keyed, stateful in product((False, True), repeat=2)]
GRAPHS = [graph for depth in range(1, DEPTH + 1) for graph in product(KINDS, repeat=depth)]


def key_of(number: int, at: int) -> str:
    """The key by which step number ``at`` partitions: another one for each step."""
    return f"{at}:{number // (at + 1) % 3}"


class Builder:
    """A flow, and the streams of its steps by the path that leads to them."""

    def __init__(self) -> None:
        self.flow = sf.Flow("topology")
        self.source = self.flow.source(sf.MemoryTopic("in", value=Traced))
        self.streams: dict[Sequence[Kind], Any] = {(): self.source}

    def add(self, graph: Sequence[Kind]) -> Any:
        """Adds what is not there yet of a graph."""
        if graph not in self.streams:
            self.streams[graph] = self._step(self.add(graph[:-1]), graph)
        return self.streams[graph]

    def _step(self, stream: Any, graph: Sequence[Kind]) -> Any:
        at, kind = len(graph) - 1, graph[-1]
        name = f"step-{'-'.join(str(KINDS.index(each)) for each in graph)}"
        if kind.keyed:
            stream = stream.key_by(lambda record: key_of(record.number, at), name=f"{name}-key")
        if not kind.stateful:
            return stream.map(lambda record: passed(record, at, "", 0), name=name)
        if not isinstance(stream, sf.KeyedStream):
            stream = stream.key_by(lambda record: ALL, name=f"{name}-all")
        return counting(stream, at, name)

    def feed(self) -> Feed:
        """Feeds all records."""
        return records_of(*((self.source, Traced(number, [])) for number in range(RECORDS)))


def counting(stream: sf.KeyedStream[str, Traced], at: int, name: str) -> Any:
    @stream.process(state=Passed, name=name)
    def step(ctx: sf.Context[str, Passed], record: Traced) -> Iterator[Traced]:
        ctx.state.count += 1
        yield passed(record, at, ctx.key, ctx.state.count)

    return step


def passed(record: Traced, at: int, key: str, count: int) -> Traced:
    return Traced(record.number, [*record.trace, (at, key, count)])


def plain(graph: Sequence[Kind]) -> Iterator[Traced]:
    """What a loop gives."""
    counts: Counter[tuple[int, str]] = Counter()
    for number in range(RECORDS):
        key, record = ALL, Traced(number, [])
        for at, kind in enumerate(graph):
            if kind.keyed:
                key = key_of(number, at)
            if kind.stateful:
                counts[at, key] += 1
            record = passed(record, at, key, counts[at, key]) if kind.stateful else passed(record, at, "", 0)
        yield record


def test_they_are_84() -> None:
    assert len(set(GRAPHS)) == 4 + 16 + 64 == 84


@CRASHES
async def test_traces_are_those_of_a_loop_where_all_are_paths_of_one_flow(crashes: int) -> None:
    """The graphs share their beginnings: a tree of 84 steps, and each of them is the end of one graph."""
    tree = Builder()
    ends = [tree.add(graph) for graph in GRAPHS]
    rows = await played(tree.flow, tree.feed(), crashes, *ends)
    for graph, found in zip(GRAPHS, rows, strict=True):
        assert found == list(plain(graph)), "+".join(map(str, graph))


def alone(graph: Sequence[Kind]) -> Any:
    """A graph that is played as a flow of its own; the largest only in the longest runs."""
    level = pytest.mark.longest if len(graph) == DEPTH else pytest.mark.long
    return pytest.param(graph, id="+".join(map(str, graph)), marks=level)


@pytest.mark.parametrize("graph", list(map(alone, GRAPHS)))
async def test_traces_are_those_of_a_loop(graph: Sequence[Kind]) -> None:
    one = Builder()
    last = one.add(graph)
    last.to(sf.MemoryTopic("out", value=Traced))
    (found,) = await played(one.flow, one.feed(), 20, last)
    assert found == list(plain(graph))
