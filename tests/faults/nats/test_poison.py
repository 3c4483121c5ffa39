"""Poison on a real NATS, under kills: each record once, each dead letter once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.brokers import NatsServer
from tests.faults.nats.outside import Outsider, make_stream
from tests.faults.poison import PoisonSetup, Policy
from tests.faults.poison_trial import PoisonTrial


@pytest.mark.long
@pytest.mark.parametrize("policy", ["skip", "dead_letter"])
async def test_poison_under_kills(server: NatsServer, tmp_path: Path, policy: Policy) -> None:
    source, sink = f"PIN{policy}", f"POUT{policy}"
    await make_stream(server, source)
    await make_stream(server, sink, max_msg_size=2_500)
    setup = PoisonSetup(
        state=tmp_path / "flow.db", url=server.url, broker="nats", source=source, sink=sink, policy=policy
    )
    async with Outsider(server) as outsider:

        async def publish(payloads: Sequence[bytes]) -> None:
            for payload in payloads:
                await outsider.js.publish(source.lower(), payload)

        trial = PoisonTrial(setup, tmp_path, publish, lambda: outsider.count(sink), lambda: outsider.results(sink))
        await trial.run(records=420, kills=6, seed=3)
