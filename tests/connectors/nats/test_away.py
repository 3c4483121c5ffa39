"""A server that is away for longer than ``idle`` is no silence: no window closes, and nothing held is released."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import streamflow as sf
from streamflow.flow import Flow
from tests.connectors.nats.broker import Broker

IDLE_SECONDS = 0.8
AWAY_SECONDS = 1.8


class Watching(sf.Instrument):
    """Notes how often the source failed."""

    def __init__(self) -> None:
        self.failed = 0

    def connector_failed(self, kind: str, name: str, error: Exception, retry_in_seconds: float) -> None:
        self.failed += 1


def seconds(record: str) -> int:
    return int(record) * 1000


async def test_no_window_closes_while_the_server_is_away(mortal: Broker, tmp_path: Path) -> None:
    stream = await mortal.stream("times.{}")
    await mortal.feed(f"times.{stream}", b"3", b"4")
    flow = Flow("away", state=tmp_path / "away.db")
    spec = mortal.nats.stream(stream, value=str)
    records = flow.source(spec, name="in", time=seconds, idle=f"{IDLE_SECONDS}s", order="time")
    counts = records.key_by(lambda record: "k").window(sf.tumbling("10s")).count(name="counts")
    watching = Watching()
    async with flow.running(watching) as run:
        seen: list[Any] = []
        told: list[Any] = []

        async def listen(to: sf.Stream[Any], into: list[Any]) -> None:
            async for row in run.subscribe(to):
                into.append(row)  # noqa: PERF401 - it never ends

        listeners = [asyncio.create_task(listen(records, seen)), asyncio.create_task(listen(counts, told))]
        await until(lambda: seen == ["3"])  # what came last is held until the watermark is behind it
        await mortal.server.kill_async()
        await asyncio.sleep(AWAY_SECONDS)
        assert watching.failed > 0
        assert (seen, told) == (["3"], [])
        await mortal.server.start_async()
        await until(lambda: bool(told))
        assert seen == ["3", "4"]
        assert [row.value for row in told] == [2]
        for listener in listeners:
            listener.cancel()


async def until(holds: Any) -> None:
    """Waits until something is so."""
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0.02)
