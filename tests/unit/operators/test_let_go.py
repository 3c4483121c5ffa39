"""What a stage has worked on is let go at once: rows are freed where they are still at hand."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Iterator
from typing import Any

import streamflow as sf
from streamflow.batch import Fragment, MicroBatch
from streamflow.operators.bind import BoundStage
from streamflow.operators.operator import Sync
from streamflow.plan import make_plan


class Row:
    """A record that can be watched."""


class Alone:
    """A shard that nobody asks."""

    def arrive(self, epoch: int, stage: int) -> None: ...

    def wake_at(self, stage: int, now_ms: int | None) -> None: ...

    def late(self, step: str, records: int) -> None: ...

    def point(self, name: str) -> None: ...

    def breathe(self) -> None: ...


class Taken:
    """An outlet that keeps nothing but a count."""

    rows = 0

    async def put(self, part: Fragment) -> None:
        self.rows += len(part.values)


class One:
    """An inlet that gives one fragment, and then notes whether its row is still there."""

    def __init__(self) -> None:
        row = Row()
        self.row = weakref.ref(row)
        self.parts = [Fragment(MicroBatch(1, 1), [row], True)]
        self.asked_again = asyncio.Event()
        self.held: Any = None

    async def get(self) -> Fragment:
        if self.parts:
            return self.parts.pop()
        self.held = self.row()
        self.asked_again.set()
        await asyncio.Event().wait()
        raise AssertionError("nobody sets it")


async def test_rows_are_let_go_before_the_loop_goes_on_and_what_came_in_before_the_next() -> None:
    topic: sf.MemoryTopic[Any] = sf.MemoryTopic("rows")
    flow = sf.Flow("rows")
    flow.source(topic).map(lambda row: row, name="same").to(sf.MemoryTopic("out"))
    plan = make_plan(flow.graph())
    left: list[Any] = []

    def transform(part: Fragment) -> Iterator[tuple[Fragment, ...]]:
        rows = [Row()]
        row = weakref.ref(rows[0])
        yield (Fragment(part.batch, [rows.pop()], False),)
        left.append(row())
        yield (Fragment(part.batch, [], part.last),)

    inlet, outlet = One(), Taken()
    stage = Sync(BoundStage(plan.graph, plan.stages[0], lambda *_: None), transform, [outlet], Alone())
    running = asyncio.create_task(stage.run(inlet))
    await inlet.asked_again.wait()
    running.cancel()
    await asyncio.wait([running])
    assert outlet.rows == 1
    assert left == [None], "a row that left was still held"
    assert inlet.held is None, "a row that came in was still held"
