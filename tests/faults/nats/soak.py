"""The soak: a flow killed every few seconds for many minutes, and one beside it that is left alone; prints figures.

Every record is accounted for while it runs. Run it with `python -m tests.faults.nats.soak --minutes 20`; it fails with
what was wrong, or prints how long recoveries took, and whether memory and WAL stay flat.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nats.js.api import AckPolicy, ConsumerConfig

from tests.brokers import NatsServer
from tests.faults.nats.outside import NatsFeeder, Outsider
from tests.faults.nats.trial import Kind, Trial

KEPT_MESSAGES = 300_000
"""What the streams keep: the soak must not fill the disk."""
WARM_UP_SHARE = 0.25
"""The part of the run in which memory may grow: until every key has been seen."""
WAL_BYTES_MAX = 64 * 1024 * 1024
RECOVERY_P99_SECONDS_MAX = 5.0
MEMORY_GROWTH_SHARE_MAX = 0.05
JUDGED_SECONDS_MIN = 600
"""In less time memory is still warming up."""
BURST_SECONDS = 0.1


@dataclass
class Oracle:
    """Reads the results as they come, and knows for each key which must be next."""

    trial: Trial
    seen: Counter[str] = field(default_factory=Counter)
    total: int = 0
    stop_at: int = -1

    async def run(self) -> None:
        """Reads until `stop_at` results were checked, and for a moment longer."""
        async with Outsider(self.trial.server) as outsider:
            config = ConsumerConfig(ack_policy=AckPolicy.NONE)
            reader = await outsider.js.pull_subscribe(self.trial.sink.lower(), stream=self.trial.sink, config=config)
            while True:
                try:
                    messages = await reader.fetch(500, timeout=1)
                except TimeoutError:
                    if 0 <= self.stop_at <= self.total:
                        return
                    continue
                for message in messages:
                    self.check(json.loads(message.data))

    def check(self, result: dict[str, Any]) -> None:
        self.total += 1
        key, due = result["key"], self.seen[result["key"]] + 1
        got = (result["n"], result["count"], result["gap"])
        assert got == (due, due, 1), f"{self.trial.kind} result {self.total}: {key} has {got}, {due} was due"
        self.seen[key] = due


class SteadyFeeder(NatsFeeder):
    """Feeds at a steady rate, whatever the flow does; fails when the flow falls far behind."""

    keys = 5000
    behind_max = KEPT_MESSAGES // 2

    async def _may_feed(self, outsider: Outsider) -> bool:
        await asyncio.sleep(BURST_SECONDS)
        return True

    def _key(self, rng: random.Random) -> str:
        return f"k{rng.randrange(self.keys)}"


@dataclass
class Samples:
    """What was measured of one flow."""

    memory_bytes: list[tuple[float, int]] = field(default_factory=list)
    last_of_life_bytes: list[tuple[float, int]] = field(default_factory=list)
    wal_bytes: list[int] = field(default_factory=list)
    recoveries: list[float] = field(default_factory=list)
    starts: list[float] = field(default_factory=list)

    def take(self, trial: Trial, at: float) -> None:
        flow = trial.flow
        if flow.alive:
            pages = int(Path(f"/proc/{flow.pid}/statm").read_text().split()[1])
            self.memory_bytes.append((at, pages * 4096))
        wal = trial.flow.setup.state.with_name("flow.db-wal")
        if wal.exists():
            self.wal_bytes.append(wal.stat().st_size)


class Soak:
    """Two trials on one server: the flow of the first is killed, that of the second is not."""

    def __init__(self, options: argparse.Namespace, server: NatsServer, folder: Path) -> None:
        self.seconds, self.every, self.rate = options.minutes * 60, options.every, options.rate
        limits = {"max_msgs": KEPT_MESSAGES}
        kinds = (Kind(), Kind(mode="batch", atomic=True))
        self.trials = [Trial(server, folder, kind, stream_options=limits, sink_options=limits) for kind in kinds]
        burst = max(1, int(self.rate * BURST_SECONDS))
        self.feeders = [
            SteadyFeeder(server, trial.source, trial.sink, seed, (burst,)) for seed, trial in enumerate(self.trials)
        ]
        self.oracles = [Oracle(trial) for trial in self.trials]
        self.samples = [Samples() for _ in self.trials]
        self._began = 0.0
        self._life_began = 0.0

    async def run(self) -> None:
        for trial, feeder in zip(self.trials, self.feeders, strict=True):
            await trial.__aenter__()
            await feeder.__aenter__()
            trial.flow.start()
        self._began = self._life_began = time.monotonic()
        oracles = [asyncio.create_task(oracle.run()) for oracle in self.oracles]
        try:
            while time.monotonic() < self._began + self.seconds:
                await asyncio.sleep(1)
                for oracle in oracles:
                    if oracle.done():
                        oracle.result()
                self._sample()
                if time.monotonic() > self._life_began + self.every:
                    self._kill()
            await self._finish(oracles)
        finally:
            for trial in self.trials:
                trial.flow.stop()
            for task in oracles:
                task.cancel()

    def _sample(self) -> None:
        at = time.monotonic() - self._began
        for trial, feeder, oracle, samples in zip(self.trials, self.feeders, self.oracles, self.samples, strict=True):
            assert trial.flow.alive, trial.flow.account()
            assert feeder.total - oracle.total < SteadyFeeder.behind_max, "the flow falls behind"
            samples.take(trial, at)

    def _kill(self) -> None:
        """SIGKILL, and at once the next life; first notes how long this one took to publish."""
        flow, samples = self.trials[0].flow, self.samples[0]
        published = flow.events("published", life=flow.lives)
        assert published, f"life {flow.lives} published nothing in {self.every} s: {flow.account()}"
        samples.recoveries.append(published[0]["at"] - self._life_began)
        samples.starts.append(flow.events("started", life=flow.lives)[0]["at"] - self._life_began)
        samples.last_of_life_bytes.append(samples.memory_bytes[-1])
        flow.kill()
        self._life_began = time.monotonic()
        flow.start()

    async def _finish(self, oracles: Sequence[asyncio.Task[None]]) -> None:
        for feeder, oracle in zip(self.feeders, self.oracles, strict=True):
            await feeder.stop()
            oracle.stop_at = feeder.total
        async with asyncio.timeout(120):
            await asyncio.gather(*oracles)
        for feeder, oracle in zip(self.feeders, self.oracles, strict=True):
            assert oracle.seen == feeder.sent

    def report(self) -> None:
        """Prints the figures, and refuses those that are out of bounds."""
        killed, companion = self.samples
        lives = [each for each in killed.last_of_life_bytes if each[0] > WARM_UP_SHARE * self.seconds]
        steady = [each for each in companion.memory_bytes if each[0] > WARM_UP_SHARE * self.seconds]
        recoveries = sorted(killed.recoveries)
        p50, p99 = statistics.median(recoveries), recoveries[min(len(recoveries) - 1, int(len(recoveries) * 0.99))]
        print(f"flow killed: {self.trials[0].flow.kills} times; records {self.feeders[0].total:,}, all there once")
        print(f"flow left alone: records {self.feeders[1].total:,}, all there once")
        print(f"recovery (kill to first publish): p50 {p50:.2f} s, p99 {p99:.2f} s, worst {recoveries[-1]:.2f} s")
        starts = sorted(killed.starts)
        print(f"of that, until the state was loaded: p50 {statistics.median(starts):.2f} s, worst {starts[-1]:.2f} s")
        within = []
        for name, points in (("last of each life", lives), ("flow left alone", steady)):
            slope, mean = line(points)
            within.append(slope * self.seconds / 3600 / mean)
            thirds = " ".join(f"{part / 1e6:.1f}" for part in means(points, 3))
            print(
                f"memory, {name}: mean {mean / 1e6:.1f} MB, slope {slope / 1e6:+.2f} MB/h ({slope / mean:+.2%}/h) over "
                f"{len(points)} samples; means of three thirds: {thirds} MB"
            )
        for name, samples in (("killed flow", killed), ("flow left alone", companion)):
            first, second = halves(samples.wal_bytes)
            print(f"WAL, {name}: largest in the first half {first / 1e6:.2f} MB, in the second {second / 1e6:.2f} MB")
            assert second < WAL_BYTES_MAX
        assert p99 < RECOVERY_P99_SECONDS_MAX, p99
        if self.seconds >= JUDGED_SECONDS_MIN:
            assert all(share < MEMORY_GROWTH_SHARE_MAX for share in within), within


def line(points: Sequence[tuple[float, int]]) -> tuple[float, float]:
    """The slope of the best line through the points, per hour, and their mean."""
    slope = statistics.linear_regression([at for at, _ in points], [value for _, value in points]).slope
    return slope * 3600, statistics.fmean(value for _, value in points)


def means(points: Sequence[tuple[float, int]], parts: int) -> list[float]:
    """The mean of each part of the points."""
    size = len(points) // parts
    return [statistics.fmean(value for _, value in points[at * size : (at + 1) * size]) for at in range(parts)]


def halves(values: Sequence[int]) -> tuple[int, int]:
    middle = len(values) // 2
    return max(values[:middle]), max(values[middle:])


async def main() -> None:
    """Runs the soak that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--every", type=float, default=15, help="seconds from one kill to the next")
    parser.add_argument("--rate", type=int, default=1000, help="records per second and flow")
    with tempfile.TemporaryDirectory(prefix="streamflow-soak-") as folder:
        async with NatsServer(sync="2m") as server:
            soak = Soak(parser.parse_args(), server, Path(folder))
            await soak.run()
    soak.report()


if __name__ == "__main__":
    asyncio.run(main())
