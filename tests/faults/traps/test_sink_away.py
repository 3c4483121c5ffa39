"""One of two sinks is away: the other one does not notice, and the one that was away catches up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

import streamflow as sf
from streamflow.batch import Chunk, Progress
from streamflow.clock import VirtualClock
from streamflow.connect.contracts import SinkOptions
from streamflow.flow import Flow
from tests.faults.traps.lives import BRISK, Life, Lives
from tests.faults.traps.tally import Tally, TallySink


class Hanging(Tally):
    """A tally whose publish does not return while it is away, as behind a network that swallows packets."""

    def sink(self, options: SinkOptions) -> TallySink:
        return HangingSink(self)


class HangingSink(TallySink):
    def _check(self) -> None:
        """It can be opened at any time."""

    async def publish(self, chunks: Sequence[Chunk], at: Progress) -> Progress:
        while self._tally.away:
            await asyncio.sleep(0.001)
        return await super().publish(chunks, at)


class TwoSinks:
    """Numbers go to a sink that stays and to one that can be away; both check what they get."""

    def __init__(self, away: type[Tally]) -> None:
        self.numbers: sf.MemoryTopic[int] = sf.MemoryTopic("numbers", value=int)
        self.stays: sf.MemoryTopic[int] = sf.MemoryTopic("stays", value=int)
        self.other = away("other", lambda: (b"%d" % number for number in range(1 << 40)))
        self.sent = 0

    def flow(self) -> Flow:
        flow = Flow("two")
        numbers = flow.source(self.numbers)
        numbers.to(self.stays)
        numbers.map(lambda n: b"%d" % n, name="bytes").to(self.other)
        return flow

    def send(self) -> None:
        self.numbers.send(self.sent)
        self.sent += 1

    def arrived(self) -> bool:
        return len(self.stays) == self.sent

    def check(self) -> None:
        assert self.stays.values == list(range(self.sent))
        assert self.other.wrong == []
        assert self.other.count == self.sent


def p99(found: list[float]) -> float:
    return sorted(found)[int(len(found) * 0.99)]


async def turns_until(life: Life, arrived: object) -> int:
    """Turns of the event loop until a record has arrived: what waits for nothing takes the same number each time."""
    for turn in range(10_000):
        if arrived():  # type: ignore[operator]
            return turn
        await asyncio.sleep(0)
        assert not life.dead
    raise AssertionError("it did not arrive")


@pytest.mark.parametrize("kind", [Tally, Hanging])
async def test_away_for_a_minute_of_virtual_time(tmp_path: Path, kind: type[Tally]) -> None:
    two, clock = TwoSinks(kind), VirtualClock()
    async with Lives(two.flow, tmp_path / "flow.db", BRISK, clock=clock).life() as life:
        await life.until(lambda: life.started() and two.other.count == two.sent)
        turns: dict[bool, list[float]] = {False: [], True: []}
        late_ms = 0
        for away in (False, True):
            two.other.away = away
            before = two.other.count
            for _ in range(600):
                clock.advance_to(clock.now_ms() + 100)
                sent_ms = clock.now_ms()
                two.send()
                turns[away].append(await turns_until(life, two.arrived))
                late_ms = max(late_ms, clock.now_ms() - sent_ms)
            assert (two.other.count - before < 5) == away, "it was away for sixty seconds, and only then"
        assert late_ms == 0
        assert p99(turns[True]) <= 2 * p99(turns[False])
        two.other.away = False
        while two.other.count < two.sent:
            clock.advance_to(clock.now_ms() + 100)
            await asyncio.sleep(0.001)
    two.check()


@pytest.mark.parametrize("kind", [Tally, Hanging])
async def test_away_for_a_while_of_real_time(tmp_path: Path, kind: type[Tally]) -> None:
    two = TwoSinks(kind)
    async with Lives(two.flow, tmp_path / "flow.db", thread=True).life() as life:
        await life.until(life.started)
        ratios = []
        for _ in range(5):
            latest = [await latencies(two, life, away=away) for away in (False, True)]
            ratios.append(latest[1] / latest[0])
            if ratios[-1] <= 2:
                break
            two.other.away = False
            await life.until(lambda: two.other.count == two.sent)
        assert min(ratios) <= 2, f"p99 with one away against p99 with both: {ratios}"
        two.other.away = False
        await life.until(lambda: two.other.count == two.sent)
    two.check()


async def latencies(two: TwoSinks, life: Life, *, away: bool) -> float:
    """The 99th percentile of the time until a record stands in the sink that stays."""
    two.other.away = away
    found, before = [], two.other.count
    for _ in range(150):
        sent = time.perf_counter()
        two.send()
        while not two.arrived():
            await asyncio.sleep(0)
        found.append(time.perf_counter() - sent)
        await asyncio.sleep(0.003)
    assert not away or two.other.count - before < 5
    return p99(found)
