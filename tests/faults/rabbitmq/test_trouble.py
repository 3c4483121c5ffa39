"""Trouble: poison, a full disk, a beset queue, an older state, a sink that is away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import aio_pika
import pytest

from tests.brokers import RabbitServer
from tests.faults.flow import Trap
from tests.faults.oracle import check
from tests.faults.process import copy_state
from tests.faults.proxy import Line
from tests.faults.rabbitmq.flow import Target
from tests.faults.rabbitmq.outside import Collector, depth, make_queue
from tests.faults.rabbitmq.trial import KINDS, Kind, Trial

TrialOfKind = Callable[[RabbitServer, Path, Kind], Awaitable[None]]


async def at_once(trial: TrialOfKind, server: RabbitServer, folder: Path, *kinds: Kind) -> None:
    """Runs trials of several kinds beside each other: mostly they wait."""
    async with asyncio.TaskGroup() as group:
        for kind in kinds:
            group.create_task(_named(trial(server, folder, kind)), name=str(kind))


async def _named(work: Awaitable[None]) -> None:
    await work


async def left_in(trial: Trial, wanted: int) -> None:
    """Waits until so many messages are ready in the source's queue."""
    found = -1
    for _ in range(100):
        found = await depth(trial.server, trial.source)
        if found == wanted:
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"{trial}: {found} messages are in the queue, not {wanted}")


async def poison(server: RabbitServer, folder: Path, kind: Kind) -> None:
    async with Trial(server, folder, kind) as trial:
        feeder = trial.feeder()
        await feeder.feed(50)
        async with await aio_pika.connect(server.url) as connection:
            channel = await connection.channel()
            bad = aio_pika.Message(b"\xff no record", message_id="bad", delivery_mode=2)
            await channel.default_exchange.publish(bad, routing_key=trial.source)
        await feeder.feed(50)
        for _ in range(2):
            trial.flow.start()
            last = await trial.flow.ended()
            assert last["error"] == "DecodeError" and "no record" in last["message"] and last["hint"], last
            assert trial.flow.events("restarting") == []
            assert await depth(server, trial.source) >= 51
        trial.flow.start(on_error="skip")
        await trial.check(feeder)
        assert len(trial.flow.events("skipped")) == 1
        await trial.flow.stop_cleanly()
        await left_in(trial, 0)


@pytest.mark.long
async def test_a_poison_message_stops_the_flow_each_time(server: RabbitServer, tmp_path: Path) -> None:
    """It is named; it is never acknowledged; there is no loop of restarts. Leaving it out is a choice of the user."""
    await at_once(poison, server, tmp_path, *KINDS[:2])


async def full_disk(server: RabbitServer, folder: Path, kind: Kind) -> None:
    async with Trial(server, folder, kind) as trial:
        feeder = trial.feeder()
        async with feeder:
            trial.flow.start(file_bytes_max=1_500_000)
            last = await trial.flow.ended()
            assert last["error"] == "CheckpointError", trial.flow.account()
            committed = sum(event["records"] for event in trial.flow.events("committed"))
            assert await trial.progress() <= committed
            feeder.paused = True
            await asyncio.sleep(0.3)
            assert feeder.acknowledged - await depth(server, trial.source) <= committed
            feeder.paused = False
        trial.flow.start()
        await trial.check(feeder)


@pytest.mark.long
async def test_the_disk_is_full(server: RabbitServer, tmp_path: Path) -> None:
    """A commit fails: nothing of it leaves, nothing is acknowledged, the flow stops; with room again it goes on."""
    await at_once(full_disk, server, tmp_path, *KINDS)


async def lost_acknowledgements(server: RabbitServer, folder: Path, kind: Kind) -> None:
    async with Trial(server, folder, kind, limits={"prefetch": 100}) as trial:
        feeder = trial.feeder()
        await feeder.feed(1500)
        lost = 0
        for _ in range(6):
            trap = Trap("ack.begun", 1)
            trial.flow.start(trap)
            await trial.flow.killed(trap)
            lost += sum(event["records"] for event in trial.flow.events("committed", life=trial.flow.lives))
        assert lost > 100
        trial.flow.start()
        await trial.check(feeder)
        await trial.flow.stop_cleanly()
        await left_in(trial, 0)


@pytest.mark.long
async def test_a_small_prefetch_and_acknowledgements_that_get_lost(server: RabbitServer, tmp_path: Path) -> None:
    """Killed before each acknowledging, so that everything committed comes again, more than the prefetch holds."""
    await at_once(lost_acknowledgements, server, tmp_path, *KINDS)


async def older_state(server: RabbitServer, folder: Path, kind: Kind) -> None:
    async with Trial(server, folder, kind) as trial:
        feeder = trial.feeder()
        await feeder.feed(300)
        await trial.run_through(feeder)
        kept = copy_state(trial.flow.setup.state, trial.folder / "kept")
        for _ in range(2):
            await feeder.feed(300)
            await trial.run_through(feeder)
        await feeder.feed(300)
        ends = []
        for _ in range(4):
            trial.flow.start(state=kept)
            last = await trial.flow.ended()
            assert last["error"] in ("Fenced", "SinkAhead") and last["hint"], last
            ends.append(last["error"])
            await left_in(trial, 300)
        assert "SinkAhead" in ends, ends
        trial.flow.start()
        await trial.check(feeder)


@pytest.mark.long
async def test_an_older_state_eats_nothing_of_a_queue(server: RabbitServer, tmp_path: Path) -> None:
    """It is refused before one message is acknowledged, however often: the newest state still finds all of them."""
    await at_once(older_state, server, tmp_path, *KINDS)


async def sink_away(server: RabbitServer, folder: Path, kind: Kind) -> None:
    async with Line(server) as line, Trial(server, folder, kind) as trial:
        second = f"{trial.sink}B"
        await make_queue(server, second, "classic", collected=True)
        collector = Collector(server, second, exact=False)
        collector.start()
        first = trial.setup().targets[0]
        targets = (first, Target(second, "confirm", line.url))
        trial.flow.start(targets=targets)
        async with trial.feeder() as feeder:
            await asyncio.sleep(0.7)
            line.refuse()
            line.cut()
            await trial.flow.until(lambda: failures(trial, second) > 2, "failing again and again")
            there = await trial.progress()
            await asyncio.sleep(0.7)
            assert await trial.progress() > there, "the other sink did not go on"
            # also a flow that is started while the sink is away goes on for the other, and acknowledges nothing yet
            trial.flow.kill()
            trial.flow.start(targets=targets)
            await trial.flow.until(lambda: trial.flow.said("published"), "going on alone")
            line.admit()
        await trial.check(feeder)
        for _ in range(200):
            if await collector.count(second) >= feeder.total:
                break
            await asyncio.sleep(0.05)
        check(feeder.sent, await collector.results(second), f"{kind}: the sink that was away")
        await collector.stop()
        assert failures(trial, trial.sink) == 0
        assert trial.flow.events("restarting") == []


def failures(trial: Trial, sink: str) -> int:
    return sum(event["name"] == sink for event in trial.flow.events("failed"))


@pytest.mark.long
@pytest.mark.timeout(180)
async def test_one_of_two_sinks_is_away(server: RabbitServer, tmp_path: Path) -> None:
    """It fails after the commit: the other goes on; when its line is back, it catches up from the outbox."""
    await at_once(sink_away, server, tmp_path, KINDS[0], KINDS[2])
