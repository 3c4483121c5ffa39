"""Others on the stream, and a second sink in the flow: who is alone stays alone, and who fails fails alone."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.brokers import NatsServer
from tests.faults.flow import Trap
from tests.faults.nats.flow import Target
from tests.faults.nats.outside import Outsider, make_stream
from tests.faults.nats.trial import KINDS, MSGID, Kind, Trial, at_once
from tests.faults.oracle import check
from tests.faults.proxy import Line

CHAINS = KINDS[:2]
SHARED = (KINDS[2], MSGID)


async def publish(server: NatsServer, stream: str, *contents: bytes) -> None:
    async with Outsider(server) as outsider:
        for content in contents:
            await outsider.js.publish(stream.lower(), content)


async def raw(server: NatsServer, stream: str) -> list[bytes]:
    """Everything on the stream's own subject, in order."""
    async with Outsider(server) as outsider:
        found = []
        reader = await outsider.js.pull_subscribe(stream.lower(), stream=stream)
        for _ in range(await outsider.count(stream)):
            found += [message.data for message in await reader.fetch(1, timeout=5)]
        return found


@pytest.mark.long
@at_once(*CHAINS)
async def test_somebody_else_publishes_to_a_chain(server: NatsServer, tmp_path: Path, kind: Kind) -> None:
    """In the middle of a publish, while the flow stands still: nothing of the flow lands behind it."""
    async with Trial(server, tmp_path, kind) as trial:
        gate = trial.folder / "gate"
        trial.flow.start(Trap("publish.part", action="hold", gate=gate))
        async with trial.feeder():
            await trial.flow.held(gate)
            await asyncio.sleep(0.2)
            await publish(server, trial.sink, b"foreign")
            gate.unlink()
            words = await trial.flow.ended()
        assert words["error"] == "ForeignWriter", words
        assert "--accept-head" in words["hint"]
        found = await raw(server, trial.sink)
        assert found[-1] == b"foreign"
        assert found.count(b"foreign") == 1
        # nor does anything when it is started again
        trial.flow.start()
        assert (await trial.flow.ended())["error"] == "ForeignWriter"
        assert await raw(server, trial.sink) == found


@pytest.mark.long
@at_once(*SHARED)
async def test_a_stream_may_be_shared(server: NatsServer, tmp_path: Path, kind: Kind) -> None:
    """Where the mode allows for it, others' messages stand between the flow's, and change nothing."""
    async with Trial(server, tmp_path, kind) as trial:
        async with trial.feeder() as feeder:
            for life in range(4):
                trial.flow.start()
                for number in range(5):
                    await publish(server, trial.sink, b'{"key": "foreign", "n": %d}' % (5 * life + number))
                    await asyncio.sleep(0.1)
                trial.flow.kill()
        trial.flow.start()
        feeder.taken_away = -20  # so many more are there
        await trial.wait_for(feeder)
        await asyncio.sleep(0.3)
        found = await trial.results()
        assert [each["n"] for each in found if each["key"] == "foreign"] == list(range(20))
        check(feeder.sent, [each for each in found if each["key"] != "foreign"], str(kind))


@pytest.mark.long
@at_once(*KINDS, MSGID)
async def test_one_of_two_sinks_is_away(server: NatsServer, tmp_path: Path, kind: Kind) -> None:
    """It fails after the commit: the other goes on; when its line is back, it catches up from the outbox."""
    async with Line(server) as line, Trial(server, tmp_path, kind) as trial:
        second = f"{trial.sink}B"
        await make_stream(server, second, allow_atomic=kind.atomic)
        targets = (Target(trial.sink, kind.mode, server.url), Target(second, kind.mode, line.url))
        trial.flow.start(targets=targets)
        async with Outsider(server) as outsider:
            async with trial.feeder() as feeder:
                await asyncio.sleep(0.7)
                line.refuse()
                line.cut()
                held = await outsider.count(second)
                await trial.flow.until(lambda: failures(trial, second) > 2, "failing again and again")
                there = await outsider.count(trial.sink)
                await asyncio.sleep(0.7)
                assert await outsider.count(trial.sink) > there, "the other sink did not go on"
                assert await outsider.count(second) - held < 3000
                # also a flow that is started while the sink is away goes on for the other
                trial.flow.kill()
                trial.flow.start(targets=targets)
                await trial.flow.until(lambda: trial.flow.said("published"), "going on alone")
                line.admit()
            await trial.check(feeder)
            for _ in range(200):
                if await outsider.count(second) >= feeder.total:
                    break
                await asyncio.sleep(0.05)
            check(feeder.sent, await outsider.results(second), f"{kind}: the failed sink")
        assert failures(trial, trial.sink) == 0
        assert trial.flow.events("restarting") == []


def failures(trial: Trial, sink: str) -> int:
    return sum(event["name"] == sink for event in trial.flow.events("failed"))
