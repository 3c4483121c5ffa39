"""Killed again and again while it repairs what a killed broker left undecided: what was acknowledged stays."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamflow.errors import Unavailable
from streamflow_kafka.repair import REPAIRING
from tests.brokers import KAFKA, KafkaServer
from tests.brokers.required import need
from tests.connectors.kafka.broker import Broker
from tests.connectors.kafka.stage import Stage, chunk, values_of
from tests.connectors.kafka.undecided import VERIFY, Death, drop, leave_undecided, opened, stable_ends
from tests.faults.flow import Trap
from tests.faults.kafka.trial import Trial

LEFT_OUT = 1
"""The partition in which the ends of transactions are not written."""


@pytest.fixture(scope="module")
def careless() -> Iterator[KafkaServer]:
    """A broker that takes records that no transaction was opened on; who kills it starts it again."""
    need(KAFKA)
    with KafkaServer(extra_config={VERIFY: "false"}) as server:
        yield server


@pytest.mark.long
@pytest.mark.timeout(180)
async def test_killed_in_the_middle_of_a_repair(careless: KafkaServer, tmp_path: Path) -> None:
    """The flow by SIGKILL, twice; then the broker, while the repair is open; then both are back."""
    server, starts = careless, careless.starts
    async with Trial(server, tmp_path) as trial:
        flow, repairing = trial.flow, Trap(REPAIRING)
        async with trial.feeder() as feeder:
            for _ in range(2):
                hidden = await leave_something(trial)
                flow.start(repairing)
                await flow.killed(repairing)
                assert await stands_at(trial) == hidden
            hidden = await leave_something(trial)
            gate = trial.folder / "gate"
            flow.start(Trap(REPAIRING, action="hold", gate=gate))
            await flow.held(gate)
            await server.kill_async()
            gate.unlink()
            await server.start_async()
            await flow.until(lambda: flow.said("published"), "going on")
        await trial.check(feeder)
        assert await stands_at(trial) > hidden
        assert [event["point"] for event in flow.events("trapped")] == [REPAIRING] * 3
        assert flow.kills == 5 and server.starts == starts + 1


async def leave_something(trial: Trial) -> int:
    """A life whose transactions stay undecided in one partition; returns how much of that is visible."""
    flow = trial.flow
    flow.start(left_out=(LEFT_OUT,))
    await flow.until(lambda: len(flow.events("published", life=flow.lives)) > 2, "some publishes")
    flow.kill()
    return await stands_at(trial)


async def stands_at(trial: Trial) -> int:
    """How many committed records a plain consumer sees of the partition that was left out."""
    async with trial.outsider() as outsider:
        return await outsider.seen(trial.sink, LEFT_OUT)


@pytest.mark.long
@pytest.mark.timeout(120)
async def test_an_idle_sink_repairs_too(careless: KafkaServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """It notices that its broker was killed though nothing is to be published, and makes visible what was hidden."""
    broker = Broker(careless)
    await broker.connect()
    stage = Stage(broker, await broker.topic(partitions=3))
    sink, baseline = await stage.begun(partition=int)
    leave_undecided(sink, monkeypatch, [1], group=False)
    at = await sink.publish([chunk(sink, 1, 1, ["0", "1", "2"])], baseline)
    losing = asyncio.ensure_future(sink.lost())
    await asyncio.sleep(0.1)
    assert not losing.done()
    await broker.close()
    await careless.kill_async()
    async with asyncio.timeout(5):
        with pytest.raises(Unavailable, match="closed the connection"):
            await losing
    await sink.close()
    await careless.start_async()
    await broker.connect()
    assert await stable_ends(stage) == [2, 0, 2]
    sink = await opened(stage, 1)
    with pytest.raises(Death):
        await sink.recover(at, [])
    # and the broker dies once more, with the repair open
    await broker.close()
    await careless.kill_async()
    await drop(sink)
    await careless.start_async()
    await broker.connect()
    sink = await opened(stage, 1)
    assert (await sink.recover(at, [])).next_seq == 4
    assert values_of(await stage.records()) == ["0", "1", "2"]
    await stage.close()
    await broker.close()
