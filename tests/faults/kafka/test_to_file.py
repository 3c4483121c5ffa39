"""A flow from a topic into a file, killed at random and at every point that a source passes: nothing lost or twice."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path
from typing import Any, Self

import pytest

from tests.brokers import KafkaServer
from tests.faults.feeder import AHEAD_RECORDS_MAX
from tests.faults.flow import Trap
from tests.faults.kafka.flow import ToFileSetup
from tests.faults.kafka.outside import KafkaFeeder, Outsider
from tests.faults.kafka.trial import Trial

POINTS = (
    "source.opened",
    "source.pinned",
    "number.formed",
    "barrier.formed",
    "commit.begun",
    "commit.written",
    "commit.done",
    "epoch.appended",
    "ack.begun",
    "ack.done",
)


class Lines:
    """Reads a file of results."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None: ...

    async def count(self, path: str, /) -> int:
        return Path(path).read_bytes().count(b"\n") if Path(path).exists() else 0

    async def results(self, path: str, /) -> list[dict[str, Any]]:
        return [json.loads(line) for line in Path(path).read_text().splitlines()]


class FileFeeder(KafkaFeeder):
    """Keeps ahead of a file."""

    async def _may_feed(self, results: Outsider) -> bool:
        return not self.paused and self.total - await Lines().count(self._results) < AHEAD_RECORDS_MAX


class FileTrial(Trial):
    """A trial whose results are lines of a file."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.topic, self.sink = self.sink, str(self.folder / "results.jsonl")

    async def __aenter__(self) -> Self:
        path, self.sink = self.sink, self.topic
        await super().__aenter__()
        self.sink = path
        return self

    def outsider(self) -> Any:
        return Lines()

    def setup(self, **other: Any) -> Any:
        given = {
            "url": self.server.url,
            "source": self.source,
            "file": self.folder / "results.jsonl",
            "state": self.folder / "flow.db",
            "options": {"timeout_seconds": 5.0, "refresh_seconds": 2.0},
        }
        return ToFileSetup(**{**given, **other})

    def feeder(self, seed: int = 7, bursts: Any = (1, 20, 150, 400)) -> KafkaFeeder:
        return FileFeeder(self.server, self.source, self.sink, seed, bursts)


@pytest.mark.long
@pytest.mark.timeout(180)
async def test_killed_at_random_and_at_every_point_of_a_source(server: KafkaServer, tmp_path: Path) -> None:
    rng = random.Random(3)
    async with FileTrial(server, tmp_path) as trial:
        async with trial.feeder() as feeder:
            for point in ("source.pinned", *rng.sample(POINTS, len(POINTS)), *rng.sample(POINTS, len(POINTS))):
                if point == "source.pinned" and trial.flow.lives:
                    continue
                trap = Trap(point, rng.randint(1, 3) if point not in ("source.opened", "source.pinned") else 1)
                trial.flow.start(trap)
                await trial.flow.killed(trap)
            for _ in range(20):
                trial.flow.start()
                await asyncio.sleep(rng.uniform(0.01, 0.5))
                trial.flow.kill()
        trial.flow.start()
        await trial.check(feeder)
        assert {event["point"] for event in trial.flow.events("trapped")} == set(POINTS)
        assert trial.flow.kills == 20 + 1 + 2 * (len(POINTS) - 1)
