"""Poison on streams of a real RabbitMQ, under kills: each record once, each dead letter once."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from tests.brokers import RabbitServer
from tests.faults.poison import PoisonSetup, Policy
from tests.faults.poison_trial import PoisonTrial
from tests.faults.rabbitmq.stream_trial import Outsider, Watched, make


@pytest.mark.long
@pytest.mark.parametrize("policy", ["skip", "dead_letter"])
async def test_poison_under_kills(server: RabbitServer, tmp_path: Path, policy: Policy) -> None:
    name = secrets.token_hex(3)
    source, sink = f"poison-in-{name}", f"poison-out-{name}"
    setup = PoisonSetup(
        state=tmp_path / "flow.db",
        url=server.url,
        broker="rabbitmq stream",
        source=source,
        sink=sink,
        policy=policy,
        stream_port=server.stream_port,
    )
    async with Outsider(server, Watched(), partitioned=False) as outsider:
        for stream in (source, sink):
            await make(outsider, stream, partitioned=False)
        trial = PoisonTrial(
            setup,
            tmp_path,
            lambda payloads: outsider.feed(source, payloads),
            lambda: outsider.count(sink),
            lambda: outsider.results(sink),
        )
        await trial.run(records=420, kills=6, seed=11)
