"""`yield ctx.state` while it goes on changing: every output is the state as it was when it was given."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import streamflow as sf
from streamflow.flow import Flow
from streamflow.graph import Port
from streamflow.runtime.settings import Settings
from tests.faults.traps.lives import BRISK, Lives


@dataclass
class Count:
    n: int = 0


@dataclass
class Last:
    n: int = 0
    gap: int = 0


class Sizes(sf.Instrument):
    """Notes how many records the numbers had."""

    def __init__(self) -> None:
        self.seen: set[int] = set()

    def number(self, number: int, records: int) -> None:
        self.seen.add(records)


class Topics:
    """A flow that yields its state to everything that can be behind a step."""

    def __init__(self) -> None:
        self.numbers: sf.MemoryTopic[int] = sf.MemoryTopic("numbers", value=int)
        self.direct: sf.MemoryTopic[Count] = sf.MemoryTopic("direct", value=Count)
        self.queued: sf.MemoryTopic[Count] = sf.MemoryTopic("queued", value=Count)
        self.second: sf.MemoryTopic[list[int]] = sf.MemoryTopic("second", value=list[int])
        self.keyed: sf.MemoryTopic[Count] = sf.MemoryTopic("keyed", value=Count)
        self.heard: list[int] = []
        self.port = Port("step:counted")

    def flow(self) -> Flow:
        flow = Flow("aliased")
        counted = flow.source(self.numbers).key_by(lambda _: "k").process(state=Count, name="counted")(self.count)
        counted.to(self.direct)
        counted.to(self.keyed, key=lambda count: str(count.n))
        counted.map_batch(list, name="whole").to(self.queued)

        # a second stateful step keeps what it is given, and shows later what it kept
        @counted.process(state=sf.list_state(Count), name="kept")
        def kept(ctx: sf.Context[str, Any], count: Any) -> Iterator[list[int]]:
            ctx.state.append(count)
            if len(ctx.state) == 2:
                yield [each.n for each in ctx.state]
                ctx.state.drop(1)

        kept.to(self.second)
        return flow

    def count(self, ctx: sf.Context[str, Count], _: int) -> Iterator[Count]:
        ctx.state.n += 1
        yield ctx.state

    def done(self, total: int) -> bool:
        return len(self.direct) == len(self.queued) == len(self.keyed) == len(self.heard) == total


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("size", [1, 2, 512])
async def test_outputs_are_one_to_n_everywhere(tmp_path: Path, size: int, plain: bool) -> None:
    topics, total = Topics(), 1024 if size == 512 else 200
    settings = Settings(commit_min="1ms", checkpoint_share=1.0, plain=plain, fragment_rows_max=size)
    sizes = Sizes()
    lives = Lives(topics.flow, tmp_path / "flow.db", settings, instrument=sizes)
    topics.numbers.send_all(range(total))
    async with lives.life() as life:
        life.supervisor.tap(topics.port, lambda rows: topics.heard.extend(row.n for row in rows))
        await life.until(lambda: topics.done(total))
    assert max(sizes.seen) == size, "the records came in batches of the size that is tested"
    expected = list(range(1, total + 1))
    assert topics.heard == expected
    assert [count.n for count in topics.direct.values] == expected
    assert [count.n for count in topics.queued.values] == expected
    assert [count.n for count in topics.keyed.values] == expected
    assert topics.second.values == [[n, n + 1] for n in range(1, total)]


async def test_side_outputs_and_timers_too(tmp_path: Path) -> None:
    side = sf.Output("side", Count)
    numbers: sf.MemoryTopic[int] = sf.MemoryTopic("numbers", value=int)
    sides: sf.MemoryTopic[Count] = sf.MemoryTopic("sides", value=Count)
    rung: sf.MemoryTopic[Count] = sf.MemoryTopic("rung", value=Count)

    def make() -> Flow:
        flow = Flow("sides")
        keyed = flow.source(numbers).key_by(lambda _: "k")

        @keyed.process(state=Count, outputs=[side])
        def counted(ctx: sf.Context[str, Count], n: int) -> Iterator[Count]:
            for _ in range(3):
                ctx.state.n += 1
                ctx.emit(side, ctx.state)
            if n == 9:
                ctx.timer("ring", after="1ms")
            return iter(())

        @counted.on_timer("ring")
        def ring(ctx: sf.Context[str, Count]) -> Iterator[Count]:
            for _ in range(5):
                ctx.state.n += 1
                yield ctx.state

        counted.output(side).map_batch(list, name="queue").to(sides)
        counted.map_batch(list, name="other").to(rung)
        return flow

    numbers.send_all(range(10))
    async with Lives(make, tmp_path / "flow.db", BRISK).life() as life:
        await life.until(lambda: len(rung) == 5)
    assert [count.n for count in sides.values] == list(range(1, 31))
    assert [count.n for count in rung.values] == list(range(31, 36))
