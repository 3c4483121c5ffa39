"""Market spread by event time over the partitions of two topics, killed while it is fed: the ordered run."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from examples.market_spread import Rejected
from streamflow_kafka import Kafka, KafkaTopic, Options
from tests.brokers import KafkaServer
from tests.faults.kafka.outside import Outsider, Producer, make_topics
from tests.faults.market import PARTITIONS, SIDES, Lane, MarketSetup, MarketTrial, Timed, die_again_and_again
from tests.faults.process import FlowProcess

_numbers = itertools.count(1)


@dataclass(frozen=True, kw_only=True)
class KafkaMarket(MarketSetup):
    """Two topics of three partitions, and one of a single one for the results."""

    url: str
    name: str

    def reads(self) -> Sequence[KafkaTopic[Timed]]:
        return [self._kafka.topic(f"{self.name}-{side}", value=Timed) for side in SIDES]

    def writes(self) -> KafkaTopic[Rejected]:
        return self._kafka.topic(f"{self.name}-rejected", value=Rejected)

    @property
    def _kafka(self) -> Kafka:
        return Kafka(self.url, options=Options(timeout_seconds=5.0))


class KafkaMarketTrial(MarketTrial):
    def __init__(self, server: KafkaServer, folder: Path, outsider: Outsider, producer: Any) -> None:
        self.name, self.folder = f"market{next(_numbers)}", folder
        self.flow = FlowProcess(KafkaMarket(state=folder / "flow.db", url=server.url, name=self.name), folder)
        self._outsider, self._producer = outsider, producer

    async def feed(self, lane: Lane, payloads: Sequence[bytes]) -> None:
        side, partition = lane
        topic = f"{self.name}-{side}"
        await asyncio.gather(*[await self._producer.send(topic, each, partition=partition) for each in payloads])

    async def results(self) -> list[dict[str, Any]]:
        found = await self._outsider.results(f"{self.name}-rejected")
        return [{name: each[name] for name in each if name != "partition"} for each in found]


@asynccontextmanager
async def trial_in(server: KafkaServer, folder: Path) -> AsyncIterator[MarketTrial]:
    async with Outsider(server) as outsider, Producer(server) as producer:
        trial = KafkaMarketTrial(server, folder, outsider, producer)
        await make_topics(server, *(f"{trial.name}-{side}" for side in SIDES), partitions=PARTITIONS)
        await make_topics(server, f"{trial.name}-rejected", partitions=1)
        yield trial


@pytest.mark.timeout(240)
async def test_partitions_out_of_order_give_the_ordered_run(
    server: KafkaServer, tmp_path: Path, long_run: bool
) -> None:
    await die_again_and_again(tmp_path, partial(trial_in, server), long_run=long_run)
