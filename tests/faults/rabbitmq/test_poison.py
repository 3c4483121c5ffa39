"""Poison on a real RabbitMQ, under kills: each record once, each dead letter once, unroutable messages among them."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from pathlib import Path

import aio_pika
import pytest

from tests.brokers import RabbitServer
from tests.faults.poison import PoisonSetup, Policy
from tests.faults.poison_trial import PoisonTrial
from tests.faults.rabbitmq.outside import Collector, make_queue


@pytest.mark.long
@pytest.mark.parametrize(("policy", "point"), [("dead_letter", ""), ("retry", "record.buried")])
async def test_poison_under_kills(server: RabbitServer, tmp_path: Path, policy: Policy, point: str) -> None:
    name = secrets.token_hex(3)
    source, sink = f"poison-in-{name}", f"poison-out-{name}"
    await make_queue(server, source, "classic")
    await make_queue(server, sink, "quorum", f"ex-{sink}")
    setup = PoisonSetup(
        state=tmp_path / "flow.db", url=server.url, broker="rabbitmq", source=source, sink=sink, policy=policy
    )
    collector = Collector(server, sink, exact=False)  # the sink is effectively-once: its consumer remembers ids
    collector.start()
    connection = await aio_pika.connect(server.url)
    try:
        channel = await connection.channel()

        async def publish(payloads: Sequence[bytes]) -> None:
            for payload in payloads:
                message = aio_pika.Message(payload, message_id=secrets.token_hex(8))
                await channel.default_exchange.publish(message, source)

        trial = PoisonTrial(setup, tmp_path, publish, lambda: collector.count(sink), lambda: collector.results(sink))
        await trial.run(records=280, kills=4, seed=7, point=point)
    finally:
        await connection.close()
        await collector.stop()
