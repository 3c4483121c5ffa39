"""Streams that come back with less, or are not the ones they were: refused, each by its name."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.brokers import RabbitServer
from tests.connectors.rabbitmq.streams_outside import SEGMENT_BYTES, Streams
from tests.faults.process import copy_state
from tests.faults.proxy import Line
from tests.faults.rabbitmq.stream_flow import Way
from tests.faults.rabbitmq.stream_trial import Trial, make


async def ends_as(trial: Trial, error: str, **changed: Any) -> None:
    """Starts the flow, which ends by itself, with that error and a way out."""
    trial.flow.start(**changed)
    words = await trial.flow.ended()
    assert words["error"] == error, words
    assert words["hint"]


async def fed_singly(trial: Trial, count: int) -> None:
    """Feeds records, each in a segment of its own, and runs the flow over them."""
    feeder = trial.feeder()
    for _ in range(count):
        await feeder.feed(1)
    await trial.run_through(feeder)


def segments(server: RabbitServer, stream: str) -> list[Path]:
    (folder,) = server.folder.glob(f"data/*/stream/__{stream}_*")
    return sorted(folder.glob("*.*"))


@pytest.mark.long
async def test_the_input_lost_its_end(server: RabbitServer, tmp_path: Path) -> None:
    """The broker comes back without the last segments; so does a stream that was restored from a backup."""
    async with Trial(server, tmp_path, segment_bytes=SEGMENT_BYTES) as trial:
        await fed_singly(trial, 10)
        await asyncio.sleep(1)  # what the broker notes of its first streams reaches the disk half a second later
        await server.kill_async()
        for path in segments(server, trial.source)[-6:]:
            path.unlink()
        await server.start_async()
        async with Streams(server) as streams:
            await streams.available(trial.source)
        await ends_as(trial, "PositionAhead")


async def test_the_input_is_made_anew(server: RabbitServer, tmp_path: Path) -> None:
    """Under the running flow, and found again at each start, also if it has grown as long as the old one."""
    async with Trial(server, tmp_path) as trial:
        feeder = trial.feeder()
        await feeder.feed(50)
        trial.flow.start()
        await trial.wait_for(feeder)
        async with Streams(server) as streams:
            await streams.delete(trial.source)
            await make(streams, trial.source, partitioned=False)
            await streams.feed(trial.source, [b"{}"] * 80)
        words = await trial.flow.ended()
        assert words["error"] == "SourceReplaced", words
        await ends_as(trial, "SourceReplaced")


async def test_retention_passes_the_position(server: RabbitServer, tmp_path: Path) -> None:
    async with Trial(server, tmp_path, segment_bytes=SEGMENT_BYTES) as trial:
        await fed_singly(trial, 5)
        feeder = trial.feeder()
        for _ in range(5):
            await feeder.feed(1)
        for path in segments(server, trial.source)[:14]:
            path.unlink()
        await ends_as(trial, "RetentionGap")


async def test_the_stream_of_results_is_made_anew(server: RabbitServer, tmp_path: Path) -> None:
    async with Trial(server, tmp_path) as trial:
        feeder = trial.feeder()
        await feeder.feed(50)
        await trial.run_through(feeder)
        async with Streams(server) as streams:
            await streams.delete(trial.sink)
            await make(streams, trial.sink, partitioned=False)
        await ends_as(trial, "ProgressUnknown")


async def test_an_older_state_is_refused(server: RabbitServer, tmp_path: Path) -> None:
    async with Trial(server, tmp_path) as trial:
        feeder = trial.feeder()
        await feeder.feed(50)
        await trial.run_through(feeder)
        state = trial.folder / "flow.db"
        older = copy_state(state, trial.folder / "older")
        await feeder.feed(50)
        await trial.run_through(feeder)
        for path in (state, state.with_name(state.name + ".epoch")):
            shutil.copy2(older.with_name(path.name), path)
        state.with_name(state.name + "-wal").unlink(missing_ok=True)
        async with Line(server, server.stream_port) as slow:
            # the sink asks first: had the flow made the same results anew by then, there would be nothing to refuse
            slow.delay_seconds = 0.5
            await ends_as(trial, "SinkAhead", way_in=Way(server.url, slow.near_port))


@pytest.mark.timeout(60)
async def test_a_stream_may_be_shared(server: RabbitServer, tmp_path: Path) -> None:
    """Others write to the stream of results: all of ours are there, once and in order."""
    async with Trial(server, tmp_path) as trial:
        feeder = trial.feeder()
        async with Streams(server) as streams:
            trial.flow.start()
            for _ in range(10):
                await feeder.feed(30)
                await streams.feed(trial.sink, [b'{"key": "theirs", "n": 0, "count": 0, "gap": 0}'] * 7)
                await asyncio.sleep(0.05)
        await trial.flow.until(lambda: trial.flow.said("published"), "a publish")
        async with trial.outsider() as outsider, asyncio.timeout(20):
            while await outsider.count(trial.sink) < feeder.total + 70:
                await asyncio.sleep(0.05)
        await trial.flow.stop_cleanly()
        found = await trial.results()
        ours = [result for result in found if result["key"] != "theirs"]
        assert len(found) - len(ours) == 70
        per_key: dict[str, list[int]] = {}
        for result in ours:
            per_key.setdefault(result["key"], []).append(result["n"])
        assert per_key == {key: list(range(1, count + 1)) for key, count in feeder.sent.items()}
