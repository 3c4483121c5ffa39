"""Poison on a real Kafka, under kills: each record once, each dead letter once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer

from tests.brokers import KafkaServer
from tests.faults.kafka.outside import Outsider, make_topics
from tests.faults.poison import PoisonSetup, Policy
from tests.faults.poison_trial import PoisonTrial


@pytest.mark.long
@pytest.mark.parametrize(("policy", "point"), [("dead_letter", ""), ("retry", "record.buried")])
async def test_poison_under_kills(server: KafkaServer, tmp_path: Path, policy: Policy, point: str) -> None:
    source, sink = f"poison-in-{policy}", f"poison-out-{policy}"
    await make_topics(server, source, partitions=1)
    await make_topics(server, sink, partitions=1, **{"max.message.bytes": "2500"})
    setup = PoisonSetup(
        state=tmp_path / "flow.db", url=server.url, broker="kafka", source=source, sink=sink, policy=policy
    )
    producer = AIOKafkaProducer(bootstrap_servers=server.url)
    await producer.start()

    async def publish(payloads: Sequence[bytes]) -> None:
        for payload in payloads:
            await producer.send(source, payload)
        await producer.flush()

    try:
        async with Outsider(server) as outsider:
            trial = PoisonTrial(setup, tmp_path, publish, lambda: outsider.count(sink), lambda: outsider.results(sink))
            await trial.run(records=280, kills=4, seed=5, point=point)
    finally:
        await producer.stop()
