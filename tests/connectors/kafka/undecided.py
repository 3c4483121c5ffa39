"""What a killed broker leaves undecided of a transaction, made on a real server that lives.

The server is told not to verify transactions, and the sink leaves the group, or some partitions, out of its
transaction: so its end is never written there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.protocol.transaction import AddOffsetsToTxnRequest, AddPartitionsToTxnRequest

from streamflow.connect.contracts import SinkContext, SinkOptions
from streamflow_kafka import Options
from streamflow_kafka.client import Cluster
from streamflow_kafka.marker import Hidden, read_marker
from streamflow_kafka.repair import REPAIRING
from streamflow_kafka.sink import KafkaSink
from streamflow_kafka.tail import topic_ends
from streamflow_kafka.transactions import TRANSACTION
from tests.connectors.kafka.broker import QUICK, Broker
from tests.connectors.kafka.stage import Stage

VERIFY = "transaction.partition.verification.enable"


async def set_broker(broker: Broker, configs: dict[str, str]) -> None:
    resource = ConfigResource(ConfigResourceType.BROKER, "1", configs=configs)
    answers = await broker.admin.alter_configs([resource])
    assert all(code == 0 for answer in answers for code, *_ in answer.resources), answers


def leave_undecided(sink: KafkaSink, monkeypatch: Any, left_out: Sequence[int] = (), *, group: bool = True) -> None:
    """From now on the end of a transaction does not decide its marker, or its records in some partitions."""

    async def add(partitions: Sequence[int]) -> None:
        transactions = sink._transactions
        transactions.open = True
        name = transactions._name, *transactions.producer
        added = [each for each in partitions if each not in left_out]
        if added:
            topics = [(sink._name, added)]
            await transactions._asked(TRANSACTION, lambda: AddPartitionsToTxnRequest(*name, topics))
        if not group:
            await transactions._asked(TRANSACTION, lambda: AddOffsetsToTxnRequest(*name, transactions._name))

    monkeypatch.setattr(sink._transactions, "add", add)


async def is_undecided(sink: KafkaSink) -> None:
    """The broker itself says so, for as long as the sink waits."""
    assert sink._cluster is not None
    with pytest.raises(Hidden):
        await read_marker(sink._cluster, sink._transactions, sink._fence, sink._name, stable=True)


async def is_decided(sink: KafkaSink, next_seq: int) -> None:
    assert sink._cluster is not None
    marker = await read_marker(sink._cluster, sink._transactions, sink._fence, sink._name, stable=True)
    assert marker is not None
    assert marker.next_seq == next_seq


async def stable_ends(stage: Stage, sink: KafkaSink | None = None) -> list[int]:
    """Where readers of committed records stop, once the end of the transaction has arrived elsewhere."""
    sink = sink or stage.sinks[-1]
    cluster = await Cluster.connect(stage.broker.kafka, QUICK, "test")
    await asyncio.sleep(0.3)
    try:
        return await topic_ends(cluster, sink._topic, committed=True)
    finally:
        await cluster.close()


class Death(Exception):
    """The process dies in the middle of a repair."""


def die_at(name: str) -> None:
    if name == REPAIRING:
        raise Death


async def drop(sink: KafkaSink) -> None:
    """Cuts its connections, as the end of its process does: nothing more is sent."""
    cluster, sink._cluster = sink._cluster, None
    assert cluster is not None
    await cluster.close()


async def opened(stage: Stage, generation: int, options: Options = QUICK) -> KafkaSink:
    """A sink that dies when it repairs."""
    sink = stage.spec(options).sink(SinkOptions(partition=int))
    assert isinstance(sink, KafkaSink)
    stage.sinks.append(sink)
    await sink.open(SinkContext("f", "out", 0, stage.topic, generation, point=die_at))
    return sink
