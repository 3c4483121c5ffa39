"""Wallaroo's grid of sink faults: the sink refuses or accepts, and hangs up not at all, before its reply, or after it.

There a sink votes in two phases. Here a publish is the vote: refused, nothing of it is stored and the flow must try
again; accepted, all is stored. Who hangs up before the reply leaves the outcome unknown; who hangs up at all is away
when the flow calls again. Every cell of the grid must end as the run without a fault does, each record once, in order.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

import pytest

import streamflow as sf
from streamflow.batch import Chunk, Fragment, Progress
from streamflow.connect.contracts import Frames, Probe, Sink, SinkContext, SinkOptions
from streamflow.errors import Unavailable
from streamflow.testing.harness import FlowTest
from tests.golden.playing import CRASHES, die, play, turns

RECORDS = 60
PIECES = 12
VOTES_MIN = 4
Close = Literal["no close", "close before the reply", "close after the reply"]


@dataclass(frozen=True)
class Vote:
    """What becomes of every second publish."""

    accept: bool
    close: Close

    def __str__(self) -> str:
        return f"{'accept' if self.accept else 'refuse'}, {self.close}"


CLOSES: tuple[Close, ...] = ("no close", "close before the reply", "close after the reply")
GRID = [Vote(accept, close) for accept, close in product((False, True), CLOSES)]


class VotingTopic(sf.MemoryTopic[Any]):
    """A memory topic whose sinks vote; counts what happened."""

    vote: Vote | None = None
    away = False

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.seen: Counter[str] = Counter()

    def empty_copy(self) -> VotingTopic:
        return VotingTopic(self.name)

    def sink(self, options: SinkOptions) -> Sink:
        return VotingSink(super().sink(options), self)


class VotingSink:
    """A sink of the topic, behind a line that can be cut."""

    def __init__(self, inner: Sink, topic: VotingTopic) -> None:
        self.guarantee = inner.guarantee
        self._inner = inner
        self._topic = topic
        self._cut = asyncio.Event()

    async def probe(self) -> Probe:
        return await self._inner.probe()

    async def open(self, ctx: SinkContext) -> None:
        if self._topic.away:
            self._topic.away = False
            self._topic.seen["away when called again"] += 1
            raise Unavailable("it hung up, and does not answer yet")
        await self._inner.open(ctx)

    async def recover(self, stored: Progress | None, pending: Sequence[Chunk]) -> Progress:
        progress = await self._inner.recover(stored, pending)
        if stored is not None and progress.next_seq > stored.next_seq:
            self._topic.seen["found accepted"] += 1
        return progress

    def encode(self, records: Fragment) -> Frames:
        return self._inner.encode(records)

    async def publish(self, chunks: Sequence[Chunk], at: Progress) -> Progress:
        topic, vote = self._topic, self._topic.vote
        topic.seen["publishes"] += 1
        if vote is None or topic.seen["publishes"] % 2:
            return await self._inner.publish(chunks, at)
        topic.seen["votes"] += 1
        progress = await self._inner.publish(chunks, at) if vote.accept else None
        if vote.close != "no close":
            topic.away = True
        if vote.close == "close before the reply":
            raise Unavailable("it hung up instead of an answer")
        await asyncio.sleep(0)
        if vote.close == "close after the reply":
            self._cut.set()
        if progress is None:
            raise Unavailable("refused: nothing is stored")
        return progress

    async def lost(self) -> None:
        await self._cut.wait()
        raise Unavailable("it hung up behind its answer")

    async def close(self) -> None:
        await self._inner.close()


def counting() -> tuple[sf.Flow, Any, Any]:
    flow = sf.Flow("grid")
    source = flow.source(sf.MemoryTopic[Any]("in"))

    @source.key_by(lambda n: n % 3).process(state=dict)
    def counts(ctx: sf.Context[int, dict[str, int]], number: int) -> Iterator[list[int]]:
        ctx.state["count"] = ctx.state.get("count", 0) + 1
        yield [number, ctx.state["count"]]

    counts.to(VotingTopic("out"))
    return flow, source, counts


@CRASHES
@pytest.mark.parametrize("vote", GRID, ids=str)
async def test_every_cell_ends_as_the_run_without_a_fault(vote: Vote, crashes: int) -> None:
    flow, source, counts = counting()
    seen: Counter[str] = Counter()

    async def feed(t: FlowTest, crashes: int, vote: Vote | None = None) -> None:
        topic = t.topic("out")
        assert isinstance(topic, VotingTopic)
        topic.vote = vote
        for piece in range(PIECES):
            for number in range(piece * RECORDS // PIECES, (piece + 1) * RECORDS // PIECES):
                await t.send(source, number, settle=False)
            await die(t, piece, PIECES, crashes)
            await turns(20)
            await t.settle()
            await t.advance("10s")
        seen.clear()
        seen.update(topic.seen)

    async def voting(t: FlowTest, crashes: int) -> None:
        await feed(t, crashes, vote)

    clean = await play(flow, feed, 0, counts)
    assert clean.rows == [[[number, number // 3 + 1] for number in range(RECORDS)]]
    assert seen == {"publishes": seen["publishes"]}
    found = await play(flow, voting, crashes, counts)
    assert found.digests == clean.digests
    assert seen["votes"] >= VOTES_MIN
    assert (seen["away when called again"] > 0) == (vote.close != "no close")
    if vote.accept and vote.close == "close before the reply":
        assert seen["found accepted"] >= VOTES_MIN
    elif not crashes:
        assert seen["found accepted"] == 0
