"""The topic that is read goes back, is made anew, loses its beginning, or grows: refused or exact, never silent."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from tests.brokers import KAFKA, KafkaServer
from tests.brokers.required import need
from tests.connectors.kafka.broker import Broker, cut_log
from tests.faults.flow import Trap
from tests.faults.kafka.trial import Trial


async def refuses(trial: Trial, error: str, words: str) -> None:
    """Starts the flow, which must refuse to go on and name a way out."""
    trial.flow.start()
    last = await trial.flow.ended()
    assert last["error"] == error, trial.flow.account()
    assert words in last["message"]
    assert last["hint"]


async def fed(trial: Trial, broker: Broker, numbers: range, partition: int = 0, key: str = "k0") -> None:
    """Appends records of one key, each in a batch of its own."""
    for number in numbers:
        value = json.dumps({"key": key, "n": number}).encode()
        await broker.feed(trial.source, value, partition=partition)


async def counted(trial: Trial, count: int) -> None:
    """Waits until so many results are there, in order and each once."""
    async with trial.outsider() as outsider:
        async with asyncio.timeout(30):
            while await outsider.count(trial.sink) < count:
                await asyncio.sleep(0.05)
        await asyncio.sleep(0.3)
        found = [each for each in await outsider.results(trial.sink) if each["key"] == "k0"]
    assert [(each["n"], each["count"], each["gap"]) for each in found] == [(n, n, 1) for n in range(1, len(found) + 1)]


@pytest.mark.long
@pytest.mark.timeout(120)
async def test_the_broker_comes_back_with_less(tmp_path: Path) -> None:
    """Its disk has lost the end of the topic; when these records are written again, the flow still does not go on."""
    need(KAFKA)
    async with KafkaServer() as server, Trial(server, tmp_path) as trial:
        broker = Broker(server)
        await broker.connect()
        await fed(trial, broker, range(1, 21))
        trial.flow.start()
        await counted(trial, 20)
        await trial.flow.stop_cleanly()
        await broker.close()
        await server.kill_async()
        cut_log(server, trial.source, 15)
        await server.start_async()
        await refuses(trial, "PositionAhead", f"{trial.source}:0 at {server.url} ends at 15, but 19 was already read")


@pytest.mark.timeout(120)
async def test_the_topic_is_made_anew_and_its_beginning_expires(server: KafkaServer, tmp_path: Path) -> None:
    broker = Broker(server)
    await broker.connect()
    async with Trial(server, tmp_path) as trial:
        await fed(trial, broker, range(1, 21))
        trial.flow.start()
        await counted(trial, 20)
        await trial.flow.stop_cleanly()
        # what was read may expire; what was not, may not
        await broker.delete_records(trial.source, 20)
        await fed(trial, broker, range(21, 31))
        trial.flow.start()
        await counted(trial, 30)
        await trial.flow.stop_cleanly()
        await fed(trial, broker, range(31, 41))
        await broker.delete_records(trial.source, 35)
        await refuses(trial, "RetentionGap", "begins at 35, but 30 comes next")
        await broker.delete(trial.source)
        await broker.topic(3, trial.source)
        await fed(trial, broker, range(1, 41))
        await refuses(trial, "SourceReplaced", "it was deleted and made again")
        await counted(trial, 30)
    await broker.close()


@pytest.mark.timeout(120)
async def test_partitions_are_added_and_the_flow_dies_around_it(server: KafkaServer, tmp_path: Path) -> None:
    """At the very instant that a new partition's start is stored, and while it is down."""
    broker = Broker(server)
    await broker.connect()
    async with Trial(server, tmp_path, options={"refresh_seconds": 0.2}) as trial:
        async with trial.feeder(bursts=(20,)) as feeder:
            trap = Trap("source.pinned", 2)
            trial.flow.start(trap)
            await trial.flow.until(lambda: trial.flow.said("published"), "a publish")
            await broker.grow(trial.source, 4)
            await fed(trial, broker, range(1, 31), 3, "new")
            feeder.sent["new"], feeder.total = 30, feeder.total + 30
            await trial.flow.killed(trap)
            trial.flow.start()
            await trial.flow.until(lambda: trial.flow.said("published"), "a publish")
            trial.flow.kill()
            await broker.grow(trial.source, 5)
            await fed(trial, broker, range(1, 31), 4, "newer")
            feeder.sent["newer"], feeder.total = 30, feeder.total + 30
            trial.flow.start()
            await trial.flow.until(lambda: trial.flow.said("published"), "a publish")
            trial.flow.kill()
        trial.flow.start()
        await trial.check(feeder)
        assert trial.flow.kills == 3
    await broker.close()
