"""A flow from NATS to NATS, killed by SIGKILL again and again, and its server too: nothing lost, nothing twice."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from tests.brokers import NatsServer
from tests.faults.trial import Feeder, FlowProcess, check, make_streams, results

FLOW_KILLS = 20
SERVER_KILLS = 4


@pytest.mark.timeout(240)
async def test_the_flow_is_killed_at_random_instants(tmp_path: Path) -> None:
    async with NatsServer() as server:
        await make_streams(server)
        flow = FlowProcess(server.url, tmp_path / "flow.db", tmp_path / "flow.log")
        rng = random.Random(20)
        try:
            async with Feeder(server.url) as feeder:
                for _ in range(FLOW_KILLS):
                    flow.start()
                    # from before the state file is open to the middle of processing
                    await asyncio.sleep(rng.uniform(0.2, 1.3))
                    flow.kill()
            flow.start()
            found = await results(server, feeder.sent.total())
        finally:
            flow.stop()
        assert flow.lives == FLOW_KILLS + 1
        assert feeder.sent.total() > 1000
        check(feeder.sent, found)


@pytest.mark.timeout(240)
async def test_the_server_is_killed_under_the_flow(tmp_path: Path) -> None:
    async with NatsServer() as server:
        await make_streams(server)
        flow = FlowProcess(server.url, tmp_path / "flow.db", tmp_path / "flow.log")
        rng = random.Random(3)
        try:
            flow.start()
            async with Feeder(server.url) as feeder:
                for _ in range(SERVER_KILLS):
                    await asyncio.sleep(rng.uniform(1.5, 2.5))
                    await server.kill_async()
                    await asyncio.sleep(rng.uniform(0.1, 0.6))
                    await server.start_async()
                await asyncio.sleep(2)
            found = await results(server, feeder.sent.total())
        finally:
            flow.stop()
        assert server.starts == SERVER_KILLS + 1
        assert feeder.sent.total() > 1000
        check(feeder.sent, found)
