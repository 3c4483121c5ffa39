"""`ctx.id`, `ctx.random` and `ctx.uuid` are the same in every grouping of records, after crashes and restarts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import streamflow as sf
from streamflow.clock import VirtualClock
from streamflow.flow import Flow
from tests.faults.traps.lives import BRISK, Lives

RECORDS = 40


class Ids:
    """A flow that tells the ids of everything: records, what they become, merged rows, timers and what follows."""

    def __init__(self) -> None:
        self.left: sf.MemoryTopic[int] = sf.MemoryTopic("left", value=int, partitions=("a", "b"))
        self.right: sf.MemoryTopic[int] = sf.MemoryTopic("right", value=int, ids=True)
        self.out: sf.MemoryTopic[list[Any]] = sf.MemoryTopic("out", value=list[Any])
        self.clock = VirtualClock()
        for n in range(RECORDS):
            self.left.send(n, "ab"[n % 2])
            self.right.send(1000 + n)

    def flow(self) -> Flow:
        flow = Flow("ids")
        left, right = flow.source(self.left), flow.source(self.right)
        doubled = left.flat_map(lambda n: [n, n], name="doubled").map(self.tell("expanded"), name="expanded")
        queued = left.map_batch(list, name="queue").map(self.tell("queued"), name="queued")
        both = left.merge(right, name="both").map(self.tell("merged"), name="merged")
        keyed = right.key_by(lambda n: n % 5)

        @keyed.process(state=int)
        def timed(ctx: sf.Context[int, int], n: int) -> Iterator[list[Any]]:
            ctx.timer("ring", at=self.at(n))
            yield self.told("called", ctx, n)

        @timed.on_timer("ring")
        def ring(ctx: sf.Context[int, int]) -> Iterator[list[Any]]:
            yield self.told("timer", ctx, ctx.key)
            yield self.told("timer", ctx, ctx.key)

        def behind_it(ctx: sf.Context[int, Any], row: list[Any]) -> list[Any]:
            return [*row, ctx.id]

        behind = timed.map(behind_it, name="behind")
        doubled.merge(queued, both, behind, name="all").to(self.out)
        return flow

    def at(self, n: int) -> Any:
        import datetime

        return datetime.datetime.fromtimestamp(self.clock.now_ms() // 1000 // 3600 * 3600 + 3600 + n % 5, datetime.UTC)

    def told(self, kind: str, ctx: sf.Context[Any, Any], value: Any) -> list[Any]:
        return [kind, value, ctx.id, ctx.random.random(), str(ctx.uuid())]

    def tell(self, kind: str) -> Any:
        def tell(ctx: sf.Context[Any, Any], value: int) -> list[Any]:
            return self.told(kind, ctx, value)

        return tell

    async def run(self, path: Path, rows_max: int, kills: list[tuple[str, int]]) -> list[list[Any]]:
        settings = replace(BRISK, commit_min="0ms", fragment_rows_max=rows_max)
        lives = Lives(self.flow, path, settings, clock=self.clock)
        for point, nth in kills:
            async with lives.life(point, nth) as life:
                await life.until(lambda: False)
        total = RECORDS * 6
        async with lives.life() as life:
            await life.until(lambda: len(self.out) == total)
            self.clock.advance_to(self.clock.now_ms() + 3_700_000)
            await life.until(lambda: len(self.out) == total + 10)
        assert lives.kills == len(kills)
        return sorted(self.out.values, key=str)


@pytest.mark.parametrize("rows_max", [1, 7, 512])
async def test_ids_are_the_same_however_records_were_grouped_and_interrupted(tmp_path: Path, rows_max: int) -> None:
    quiet = await Ids().run(tmp_path / "quiet.db", 512, [])
    kills = [("commit.begun", 1), ("epoch.encoded", 1), ("stage.sealed", 1), ("commit.done", 1), ("publish.done", 1)]
    found = await Ids().run(tmp_path / "killed.db", rows_max, kills)
    assert found == quiet
    calls = [tuple(row[2:5]) for row in found if row[0] != "timer"]
    assert len(set(calls)) == len(calls), "no two calls share an id"
    timers = {tuple(row[2:5]) for row in found if row[0] == "timer"}
    assert len(timers) == 5, "one per firing"
    assert not timers & set(calls)
    behind = [row[5] for row in found if len(row) > 5]
    assert len(set(behind)) == len(behind) == RECORDS + 10, "what one firing gives is told apart behind it"
