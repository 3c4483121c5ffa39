"""Restarts of an idle flow double nothing, even on a sink that cannot tell what arrived."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import streamflow as sf
from streamflow.clock import VirtualClock
from streamflow.flow import Flow
from streamflow.runtime.engine import IDLE_NOTE_SECONDS
from tests.faults.traps.lives import BRISK, Lives

RESTARTS = 100


class Blind:
    """Words go to a topic that keeps no sequence number: what is published again stands there twice."""

    def __init__(self, folder: Path) -> None:
        self.words: sf.MemoryTopic[str] = sf.MemoryTopic("words", value=str)
        self.blind: sf.MemoryTopic[str] = sf.MemoryTopic("blind", value=str, blind=True)
        self.lines = folder / "lines.txt"
        self.clock = VirtualClock()
        self.lives = Lives(self.flow, folder / "flow.db", replace(BRISK, commit_min="0ms"), clock=self.clock)

    def flow(self) -> Flow:
        flow = Flow("idle", guarantee="at_least_once")
        words = flow.source(self.words)
        words.to(self.blind)
        words.to(sf.lines(self.lines))
        return flow

    def written(self) -> int:
        return self.lines.read_bytes().count(b"\n") if self.lines.exists() else 0

    def wait(self, seconds: float) -> None:
        self.clock.advance_to(self.clock.now_ms() + round(seconds * 1000))


@pytest.mark.parametrize("end", ["kill", "stop"])
async def test_a_hundred_restarts(tmp_path: Path, end: str) -> None:
    blind = Blind(tmp_path)
    sent = [f"word {number}" for number in range(700)]
    blind.words.send_all(sent)
    async with blind.lives.life() as life:
        await life.until(lambda: len(blind.blind) == blind.written() == 700)
        noted = life.passed["progress.noted"]
        blind.wait(2 * IDLE_NOTE_SECONDS)
        await life.until(lambda: life.passed["progress.noted"] > noted)
        await life.kill()
    for _ in range(RESTARTS):
        async with blind.lives.life() as life:
            await life.until(life.started)
            await life.turns(30)
            if end == "kill":
                await life.kill()
    assert blind.lives.kills == (RESTARTS + 1 if end == "kill" else 1)
    assert blind.blind.values == sent
    assert blind.lines.read_text().splitlines() == sent
    blind.words.send("last")
    async with blind.lives.life() as life:
        await life.until(lambda: len(blind.blind) > 700)
    assert blind.blind.values == [*sent, "last"]


async def test_that_sink_does_double_what_was_not_noted(tmp_path: Path) -> None:
    """The other tests could not fail otherwise."""
    blind = Blind(tmp_path)
    blind.words.send_all(["a", "b"])
    async with blind.lives.life("publish.done") as life:
        await life.until(lambda: False)
    async with blind.lives.life() as life:
        await life.until(lambda: len(blind.blind) >= 2 and blind.written() == 2)
        await life.turns()
    assert sorted(blind.blind.values) in (["a", "a", "b", "b"], ["a", "b"])
    assert blind.lines.read_text().splitlines() == ["a", "b"]
