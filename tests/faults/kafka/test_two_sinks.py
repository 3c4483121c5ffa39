"""Two sinks of one flow, of which one is away or refuses: the other goes on, and the one that was away catches up."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.brokers import KafkaServer
from tests.faults.kafka.flow import Target
from tests.faults.kafka.outside import PARTITIONS, Outsider, make_topics
from tests.faults.kafka.trial import Trial
from tests.faults.oracle import check


@pytest.mark.timeout(180)
async def test_one_of_two_brokers_is_away(server: KafkaServer, tmp_path: Path) -> None:
    """Killed after commits whose outputs it has not got; the flow goes on writing to the other one."""
    async with KafkaServer() as second, Trial(server, tmp_path) as trial:
        await make_topics(second, "away", partitions=PARTITIONS)
        targets = (Target(trial.sink, server.url), Target("away", second.url))
        async with trial.feeder(bursts=(50, 200)) as feeder:
            trial.flow.start(targets=targets)
            for name in (trial.sink, "away"):
                await trial.flow.until(
                    lambda: any(event["sink"] == name for event in trial.flow.events("published")),  # noqa: B023
                    f"a publish to {name}",
                )
            await second.kill_async()
            await trial.flow.until(lambda: trial.flow.said("failed"), "the lost broker")
            here = [event for event in trial.flow.events("published") if event["sink"] == trial.sink]
            await trial.flow.until(
                lambda: len([e for e in trial.flow.events("published") if e["sink"] == trial.sink]) > len(here) + 5,
                "the other sink to go on",
            )
            await second.start_async()
        await trial.check(feeder)
        assert trial.flow.events("restarting") == []
        assert {event["name"] for event in trial.flow.events("failed")} == {"away"}
        async with Outsider(second) as outsider, asyncio.timeout(60):
            while await outsider.count("away") < feeder.total:
                await asyncio.sleep(0.05)
            check(feeder.sent, await outsider.results("away"), "the sink that was away")
