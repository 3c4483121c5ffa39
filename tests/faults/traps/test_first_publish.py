"""A crash right behind the first publish of a new sink, before its progress is stored: nothing twice, nothing lost."""

from __future__ import annotations

from pathlib import Path

import pytest

import streamflow as sf
from streamflow.flow import Flow
from tests.faults.traps.lives import Lives

INSTANTS = ("sink.fenced", "sink.asked", "sink.baseline", "publish.begun", "publish.done", "epoch.appended")


@pytest.mark.parametrize("held_before", [False, True])
@pytest.mark.parametrize("instant", INSTANTS)
@pytest.mark.parametrize("kind", ["memory", "file"])
async def test_the_first_publish(tmp_path: Path, kind: str, instant: str, held_before: bool) -> None:
    words: sf.MemoryTopic[str] = sf.MemoryTopic("words", value=str)
    topic: sf.MemoryTopic[str] = sf.MemoryTopic("topic", value=str)
    path = tmp_path / "lines.txt"
    if held_before:
        # records of somebody else, from before the sink was new, are not its own
        topic.send("old")
        path.write_text("old\n")

    def make() -> Flow:
        flow = Flow("first")
        source = flow.source(words)
        if kind == "memory":
            source.to(topic)
        else:
            source.to(sf.lines(path))
        return flow

    def found() -> list[str]:
        return topic.values if kind == "memory" else path.read_text().splitlines() if path.exists() else []

    lives = Lives(make, tmp_path / "flow.db")
    words.send_all(["a", "b", "c"])
    expected = ["old"] * held_before + ["a", "b", "c"]
    async with lives.life(instant) as life:
        await life.until(lambda: False)
    assert lives.kills == 1
    if instant == "publish.done":
        assert found() == expected, "the publish arrived, and nobody noted it"
    # and again while it recovers from that
    async with lives.life("sink.asked") as life:
        await life.until(lambda: False)
    async with lives.life() as life:
        await life.until(lambda: len(found()) >= len(expected))
        await life.turns()
    assert found() == expected
    words.send("d")
    async with lives.life() as life:
        await life.until(lambda: len(found()) > len(expected))
    assert found() == [*expected, "d"]
