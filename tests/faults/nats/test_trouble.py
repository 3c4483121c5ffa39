"""Trouble inside: poison, failing steps, a full disk, a slow sink, a small outbox, a changed graph, a beset queue."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from tests.brokers import NatsServer
from tests.faults.flow import Trap
from tests.faults.nats.flow import Target
from tests.faults.nats.outside import Outsider, make_stream
from tests.faults.nats.trial import KINDS, MSGID, QUEUES, Kind, Trial, at_once
from tests.faults.oracle import check
from tests.faults.proxy import Line

SOURCES = (Kind(), Kind("workqueue", "batch", atomic=True), Kind("interest", atomic=True))
"""Each kind of source, each way to guard a sink."""


async def publish(trial: Trial, content: bytes) -> None:
    async with Outsider(trial.server) as outsider:
        await outsider.js.publish(trial.source.lower(), content)


async def stopped(trial: Trial, error: str, *words: str) -> None:
    last = await trial.flow.ended()
    assert last["error"] == error, trial.flow.account()
    assert all(word in last["message"] for word in words), last
    assert last["hint"] or error == "StepError"


async def unacknowledged(trial: Trial) -> int:
    async with Outsider(trial.server) as outsider:
        return await outsider.count(trial.source)


# -- bad records ------------------------------------------------------------------------------------------------------


@pytest.mark.long
@at_once(*SOURCES)
async def test_a_poison_message_stops_the_flow_each_time(server: NatsServer, tmp_path: Path, kind: Kind) -> None:
    """It is named; it is never acknowledged; there is no loop of restarts. Leaving it out is a choice of the user."""
    async with Trial(server, tmp_path, kind) as trial:
        await trial.begin()
        feeder = trial.feeder()
        await feeder.feed(50)
        await publish(trial, b"\xff no record")
        await feeder.feed(50)
        for _ in range(2):
            trial.flow.start()
            await stopped(trial, "DecodeError", trial.source, "no record")
            assert trial.flow.events("restarting") == []
            assert await unacknowledged(trial) >= 51
        trial.flow.start(on_error="skip")
        await trial.check(feeder)
        assert len(trial.flow.events("skipped")) == 1
        await empty_or_kept(trial)


@pytest.mark.long
@at_once(*SOURCES)
async def test_a_step_that_raises_stops_the_flow_each_time(server: NatsServer, tmp_path: Path, kind: Kind) -> None:
    async with Trial(server, tmp_path, kind) as trial:
        await trial.begin()
        feeder = trial.feeder()
        await feeder.feed(50)
        await publish(trial, json.dumps({"key": "bad", "n": 1}).encode())
        await feeder.feed(50)
        for _ in range(2):
            trial.flow.start(bad_key="bad")
            await stopped(trial, "StepError", "counted", "bad")
            assert trial.flow.events("restarting") == []
            assert await unacknowledged(trial) >= 51
        trial.flow.start(bad_key="bad", on_error="skip")
        await trial.check(feeder)
        assert len(trial.flow.events("skipped")) == 1
        await empty_or_kept(trial)


async def empty_or_kept(trial: Trial) -> None:
    """In the end a queue is empty: what was left out is acknowledged too."""
    if trial.kind.source != "limits":
        for _ in range(100):
            if not await unacknowledged(trial):
                return
            await asyncio.sleep(0.05)
        raise AssertionError(f"{await unacknowledged(trial)} messages are left")


# -- the disk ---------------------------------------------------------------------------------------------------------


@pytest.mark.long
@at_once(*SOURCES, MSGID)
async def test_the_disk_is_full(server: NatsServer, tmp_path: Path, kind: Kind) -> None:
    """A commit fails: nothing of it leaves, nothing is acknowledged, the flow stops; with room again it goes on."""
    async with Trial(server, tmp_path, kind) as trial:
        await trial.begin()
        feeder = trial.feeder()
        async with feeder:
            trial.flow.start(file_bytes_max=1_500_000)
            await stopped(trial, "CheckpointError")
            committed = sum(event["records"] for event in trial.flow.events("committed"))
            async with Outsider(server) as outsider:
                assert await outsider.count(trial.sink) <= committed
                if kind.source != "limits":
                    assert feeder.acknowledged - await outsider.count(trial.source) <= committed
        trial.flow.start()
        await trial.check(feeder)


# -- slow sinks and small outboxes ------------------------------------------------------------------------------------


@pytest.mark.long
@at_once(*KINDS, MSGID)
async def test_a_full_outbox_stops_intake_and_nothing_else(server: NatsServer, tmp_path: Path, kind: Kind) -> None:
    """One epoch is larger than the limit, and the sink is away: commits end, and go on when it is back."""
    settings = {"outbox_bytes_max": 2_000, "commit_min": "50ms"}
    async with Line(server) as line, Trial(server, tmp_path, kind, settings=settings) as trial:
        second = f"{trial.sink}B"
        await make_stream(server, second, allow_atomic=kind.atomic)
        targets = (Target(trial.sink, kind.mode, server.url), Target(second, kind.mode, line.url))
        feeder = trial.feeder()
        await feeder.feed(500)
        line.refuse()
        trial.flow.start(targets=targets)
        await trial.flow.until(lambda: trial.flow.said("stalled"), "a stall")
        await feeder.feed(1500)
        await asyncio.sleep(0.5)
        taken = sum(event["records"] for event in trial.flow.events("committed"))
        assert 0 < taken < 2000
        async with Outsider(server) as outsider:
            # what was committed has left by the other sink
            assert await outsider.count(trial.sink) == taken
            await asyncio.sleep(1)
            assert sum(event["records"] for event in trial.flow.events("committed")) == taken
            line.admit()
            await trial.check(feeder)
            for _ in range(200):
                if await outsider.count(second) >= feeder.total:
                    break
                await asyncio.sleep(0.05)
            check(feeder.sent, await outsider.results(second), f"{kind}: the sink that was away")
        assert trial.flow.events("restarting") == []


@pytest.mark.long
@at_once(*KINDS, MSGID)
async def test_a_slow_sink_holds_nobody_but_intake(server: NatsServer, tmp_path: Path, kind: Kind) -> None:
    settings = {"outbox_bytes_max": 20_000, "chunk_bytes": 2_000}
    async with Line(server) as line:
        line.delay_seconds = 0.1
        async with Trial(server, tmp_path, kind, sink_url=line.url, settings=settings) as trial:
            feeder = trial.feeder()
            await feeder.feed(3000)
            trial.flow.start()
            await trial.check(feeder)
            assert trial.flow.said("stalled")
            assert trial.flow.events("failed") == trial.flow.events("restarting") == []


# -- a changed graph --------------------------------------------------------------------------------------------------


@pytest.mark.long
@at_once(*SOURCES, MSGID)
async def test_the_graph_changes_while_outputs_wait(server: NatsServer, tmp_path: Path, kind: Kind) -> None:
    """A stateless step may come; the sink whose outputs wait may not go, until they have left."""
    async with Trial(server, tmp_path, kind) as trial:
        await trial.begin()
        second = f"{trial.sink}B"
        await make_stream(server, second, allow_atomic=kind.atomic)
        both = (Target(trial.sink, kind.mode, server.url), Target(second, kind.mode, server.url))
        feeder = trial.feeder()
        await feeder.feed(300)
        trap = Trap("epoch.appended")
        trial.flow.start(trap, targets=both)
        await trial.flow.killed(trap)
        trial.flow.start(targets=both[:1])
        await stopped(trial, "IncompatibleStateError", second)
        assert not trial.flow.said("started")
        trial.flow.start(targets=both, extra_step=True)
        await trial.check(feeder)
        async with Outsider(server) as outsider:
            check(feeder.sent, await outsider.results(second), f"{kind}: the second sink")
        await trial.flow.stop_cleanly()
        await feeder.feed(100)
        trial.flow.start(targets=both[:1])
        await trial.check(feeder)


# -- queues -----------------------------------------------------------------------------------------------------------


@pytest.mark.long
@at_once(*QUEUES)
async def test_a_small_prefetch_and_acknowledgements_that_get_lost(
    server: NatsServer, tmp_path: Path, kind: Kind
) -> None:
    """Killed before each acknowledging, so that everything committed comes again, more than may be unacknowledged."""
    limits = {"unacked_max": 100, "read_ahead_records": 64, "ack_wait_seconds": 0.3}
    async with Trial(server, tmp_path, kind, limits=limits) as trial:
        await trial.begin()
        feeder = trial.feeder()
        await feeder.feed(1000)
        lost = 0
        for _ in range(6):
            trap = Trap("ack.begun", 1)
            trial.flow.start(trap)
            await trial.flow.killed(trap)
            lost += sum(event["records"] for event in trial.flow.events("committed", life=trial.flow.lives))
        assert lost > 100
        trial.flow.start()
        await trial.check(feeder)
        await empty_or_kept(trial)


@pytest.mark.long
@at_once(*SOURCES)
async def test_a_producer_that_repeats_itself(server: NatsServer, tmp_path: Path, kind: Kind) -> None:
    """Under the same message id the server drops it; under another it is another record: ids are stream sequences."""
    async with Trial(server, tmp_path, kind) as trial:
        await trial.begin()
        feeder = trial.feeder()
        await feeder.feed(100)
        async with Outsider(server) as outsider:
            for message_id in ("once", "once", "twice"):
                headers = {"Nats-Msg-Id": message_id}
                await outsider.js.publish(trial.source.lower(), b'{"key": "x", "n": 1}', headers=headers)
            assert await outsider.last_seq(trial.source) == 102
        trial.flow.start()
        feeder.taken_away = -2
        await trial.wait_for(feeder)
        await asyncio.sleep(0.3)
        found = await trial.results()
        assert [each["count"] for each in found if each["key"] == "x"] == [1, 2]
        check(feeder.sent, [each for each in found if each["key"] != "x"], str(kind))
