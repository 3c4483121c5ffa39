"""Market spread by event time on a real broker: out of order over partitions, killed, held to the ordered run."""

from __future__ import annotations

import asyncio
import json
import random
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

import streamflow as sf
from examples.market_spread import Market, Order, Quote, Rejected
from streamflow.connect.contracts import SinkSpec, SourceSpec
from tests.faults.flow import FlowSetup
from tests.faults.process import FlowProcess, copy_state
from tests.golden.market import APART_MS, SHUFFLED_WITHIN, events, plain, shuffled

PARTITIONS = 3
SIDES = ("quotes", "orders")
LATENESS_MS = 2 * SHUFFLED_WITHIN * APART_MS
BURST_MAX = 120
WAIT_SECONDS = 30.0
FAR_MS = 3_600_000
"""So far behind the last event lies one in each partition, which lets all others go."""

Lane = tuple[str, int]
"""A side, and a partition of it."""


class Timed(msgspec.Struct, frozen=True):
    """An event and when it happened, in milliseconds since 1970."""

    at: int
    event: Quote | Order


@dataclass(frozen=True, kw_only=True)
class MarketSetup(FlowSetup):
    """How the flow is built; each broker says what is read and written."""

    @abstractmethod
    def reads(self) -> Sequence[SourceSpec[Timed]]:
        """Quotes and orders."""

    @abstractmethod
    def writes(self) -> SinkSpec[Rejected]:
        """Rejected orders, to a place that keeps one order."""

    def build(self, flow: sf.Flow) -> None:
        sources = [
            flow.source(
                spec, name=side, time=lambda timed: timed.at, lateness=f"{LATENESS_MS}ms", idle=None, future_max="3650d"
            )
            for side, spec in zip(SIDES, self.reads(), strict=True)
        ]
        joint = sf.merge(*sources, order="time")

        @joint.map(lambda timed: timed.event, name="event").key_by(lambda event: event.symbol).process(state=Market)
        def rejected(ctx: sf.Context[str, Market], event: Quote | Order) -> Iterator[Rejected]:
            if isinstance(event, Quote):
                ctx.state.bid, ctx.state.offer = event.bid, event.offer
            elif ctx.state.too_wide:
                yield Rejected(event, ctx.state.bid, ctx.state.offer)

        rejected.to(self.writes())


class MarketTrial(ABC):
    """A flow on a broker and what is fed to it; ``flow`` and ``folder`` are for each broker to make."""

    flow: FlowProcess
    folder: Path

    @abstractmethod
    async def feed(self, lane: Lane, payloads: Sequence[bytes]) -> None:
        """Publishes to one partition; returns when that is durable."""

    @abstractmethod
    async def results(self) -> list[dict[str, Any]]:
        """All that came out, in its order."""


class _Arrivals:
    """The events, each in some partition of its side and out of order there, in the order in which they are fed."""

    def __init__(self, chance: random.Random) -> None:
        in_order = events()
        self.expected: list[Any] = msgspec.to_builtins(plain(in_order))
        self.total = len(in_order)
        self.fed = 0
        self._chance = chance
        self._lanes: dict[Lane, list[bytes]] = {(side, n): [] for side in SIDES for n in range(PARTITIONS)}
        for at, event in shuffled(in_order, chance):
            lane = SIDES[isinstance(event, Order)], chance.randrange(PARTITIONS)
            self._lanes[lane].insert(0, msgspec.json.encode(Timed(at, event)))
        last = in_order[-1][0] + FAR_MS
        self.ends = {lane: msgspec.json.encode(Timed(last, Quote("end", 0.0, 0.0))) for lane in self._lanes}

    def burst(self) -> tuple[Lane, list[bytes]]:
        """The next few of some partition: they do not keep step with each other."""
        lane = self._chance.choice([lane for lane, waiting in self._lanes.items() if waiting])
        waiting = self._lanes[lane]
        found = [waiting.pop() for _ in range(min(len(waiting), self._chance.randint(1, BURST_MAX)))]
        self.fed += len(found)
        return lane, found


async def die_again_and_again(
    folder: Path, trial_in: Callable[[Path], AbstractAsyncContextManager[MarketTrial]], *, long_run: bool
) -> None:
    """Five deaths of one flow; in a long run ten of each of two. Some come while records are held, others released."""
    kills, with_runs = 10 if long_run else 5, 0
    for seed in range(2 if long_run else 1):
        own = folder / f"{seed}"
        own.mkdir()
        async with trial_in(own) as trial:
            try:
                with_runs += await die_while_fed(trial, seed, kills)
            finally:
                trial.flow.stop()
            assert trial.flow.kills == kills
    assert with_runs


async def die_while_fed(trial: MarketTrial, seed: int, kills: int) -> int:
    """Kills the flow again and again while it is fed; what came out must be the ordered run, in its order.

    Two of three lives have committed records of their own, the third is killed at any instant from its start on.

    Returns:
        After how many deaths records had been released ahead of others that were still held.
    """
    chance = random.Random(seed)
    arrivals = _Arrivals(chance)
    with_runs = 0
    for life in range(1, kills + 1):
        trial.flow.start()
        early = life % 3 == 0
        if not early:
            await trial.flow.until(lambda: trial.flow.said("listening"), "the start")
        share = arrivals.total * life // (kills + 1)
        while arrivals.fed < share or not (early or arrivals.fed == arrivals.total or _has_taken(trial.flow)):
            await trial.feed(*arrivals.burst())
            await asyncio.sleep(chance.uniform(0, 0.05))
        await asyncio.sleep(chance.uniform(0, 0.3))
        trial.flow.kill()
        with_runs += released_ahead(trial.folder / "flow.db", trial.folder / f"copy{life}")
    trial.flow.start()
    while arrivals.fed < arrivals.total:
        await trial.feed(*arrivals.burst())
    for lane, end in arrivals.ends.items():
        await trial.feed(lane, [end])
    found = await _all(trial, len(arrivals.expected))
    assert len(arrivals.expected) == 1000
    assert found == arrivals.expected, (
        f"{len(found)} came, wrong from the {_first_difference(found, arrivals.expected)}th"
    )
    assert not trial.flow.events("released_early")
    lives = {event["life"] for event in trial.flow.events("committed") if event["records"]}
    assert len(lives) > kills / 2, f"only lives {lives} have committed records"
    return with_runs


def _has_taken(flow: FlowProcess) -> bool:
    """Whether this life has committed records."""
    return any(event["records"] for event in flow.events("committed", life=flow.lives))


def released_ahead(state: Path, copy: Path) -> bool:
    """Whether a checkpoint holds records that were released ahead of others of their partition."""
    with closing(sqlite3.connect(copy_state(state, copy))) as found:
        if not found.execute("SELECT 1 FROM sqlite_master WHERE name = 'source'").fetchall():
            return False  # killed before it had a store
        return any(json.loads(above) for (above,) in found.execute("SELECT above FROM source"))


async def _all(trial: MarketTrial, count: int) -> list[dict[str, Any]]:
    """Waits for all results, and a moment longer."""
    async with asyncio.timeout(WAIT_SECONDS):
        while len(await trial.results()) < count:
            assert trial.flow.alive, f"the flow ended by itself: {trial.flow.account()}"
            await asyncio.sleep(0.05)
    await asyncio.sleep(0.3)
    return await trial.results()


def _first_difference(found: Sequence[object], wanted: Sequence[object]) -> int:
    return next((at for at, pair in enumerate(zip(found, wanted, strict=False)) if pair[0] != pair[1]), len(found))
