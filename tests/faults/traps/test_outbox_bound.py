"""An outbox at its bound stops intake and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import streamflow as sf
from streamflow.clock import VirtualClock
from streamflow.flow import Flow
from tests.faults.traps.lives import BRISK, Lives

BOUND = 4000


class Told(sf.Instrument):
    def __init__(self) -> None:
        self.stalls: list[str] = []
        self.epochs: list[int] = []

    def stalled(self, reason: str) -> None:
        self.stalls.append(reason)

    def committed(self, epoch: int, records: int, size_bytes: int, seconds: float) -> None:
        self.epochs.append(epoch)


async def test_intake_stops_and_everything_else_goes_on(tmp_path: Path) -> None:
    numbers: sf.MemoryTopic[int] = sf.MemoryTopic("numbers", value=int)
    away: sf.MemoryTopic[int] = sf.MemoryTopic("away", value=int)
    other: sf.MemoryTopic[int] = sf.MemoryTopic("other", value=int)
    rung: sf.MemoryTopic[int] = sf.MemoryTopic("rung", value=int)

    def make() -> Flow:
        flow = Flow("bounded")
        source = flow.source(numbers)

        @source.key_by(lambda _: "k").process(state=int)
        def total(ctx: sf.Context[str, int], n: int) -> Iterator[int]:
            ctx.state += 1
            ctx.timer("quiet", after="10s")
            yield ctx.state

        total.on_timer("quiet")(lambda ctx: [ctx.state])
        total.filter(lambda n: n > 0, name="all").to(away)
        source.to(other)
        total.filter(lambda n: n < 0, name="none").to(rung)
        return flow

    told, clock = Told(), VirtualClock()
    settings = replace(BRISK, outbox_bytes_max=BOUND)
    async with Lives(make, tmp_path / "flow.db", settings, clock=clock, instrument=told).life() as life:
        await life.until(life.started)
        away.unreachable = True
        sent = 0
        while not life.engine.intake.stall:
            numbers.send_all(range(sent, sent + 100))
            sent += 100
            clock.advance_to(clock.now_ms() + 20)
            await life.turns(200)
        taken = life.engine.intake.records
        # what was taken is committed and leaves by the other sink
        clock.advance_to(clock.now_ms() + 20)
        await life.until(lambda: len(other) == taken)
        await life.until(lambda: life.engine.pacer.idle)
        assert life.engine.tables["total"].snapshot() == {"k": taken}
        assert len(told.stalls) == 1
        assert "'away'" in told.stalls[0]
        assert "'away'" in life.engine.intake.stall
        assert BOUND <= life.engine.outboxes["away"].size_bytes < 2 * BOUND
        # nothing more is taken, however long it lasts, and no timer fires into a full outbox
        numbers.send_all(range(sent, sent + 500))
        epochs = len(told.epochs)
        for _ in range(30):
            clock.advance_to(clock.now_ms() + 1000)
            await life.turns()
        assert life.engine.intake.records == taken
        assert len(told.epochs) == epochs
        assert len(away) == 0
        away.unreachable = False
        while len(away) < sent + 501:
            clock.advance_to(clock.now_ms() + 1000)
            await life.turns()
        assert life.engine.intake.stall == ""
    # the timer that was due in the stall fires once intake goes on; its output shows where
    counts = away.values
    assert [n for at, n in enumerate(counts) if at == 0 or n != counts[at - 1]] == list(range(1, sent + 501))
    assert other.values == list(range(sent + 500))
