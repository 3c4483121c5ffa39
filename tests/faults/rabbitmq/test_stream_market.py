"""Market spread by event time over the partitions of two super streams, killed while fed: the ordered run."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from examples.market_spread import Rejected
from streamflow_rabbitmq import RabbitMQ, RabbitStream, Times, UserPassword
from tests.brokers import RabbitServer
from tests.connectors.rabbitmq.streams_outside import Streams
from tests.faults.market import SIDES, Lane, MarketSetup, MarketTrial, Timed, die_again_and_again
from tests.faults.process import FlowProcess
from tests.faults.rabbitmq.stream_flow import Way
from tests.faults.rabbitmq.stream_trial import Watched, make, streams_of

_numbers = itertools.count(1)


@dataclass(frozen=True, kw_only=True)
class RabbitMarket(MarketSetup):
    """Two super streams of three partitions, and a stream for the results."""

    way: Way
    name: str

    def reads(self) -> Sequence[RabbitStream[Timed]]:
        return [self._rabbit.super_stream(f"{self.name}-{side}", value=Timed) for side in SIDES]

    def writes(self) -> RabbitStream[Rejected]:
        return self._rabbit.stream(f"{self.name}-rejected", value=Rejected)

    @property
    def _rabbit(self) -> RabbitMQ:
        way, times = self.way, Times(heartbeat_seconds=2, timeout_seconds=5)
        return RabbitMQ(way.url, auth=UserPassword("guest", "guest"), stream_port=way.stream_port, times=times)


class RabbitMarketTrial(MarketTrial):
    def __init__(self, server: RabbitServer, folder: Path, streams: Streams) -> None:
        self.name, self.folder = f"market{next(_numbers)}", folder
        way = Way(server.url, server.stream_port)
        self.flow = FlowProcess(RabbitMarket(state=folder / "flow.db", way=way, name=self.name), folder)
        self._streams, self._watched = streams, Watched()

    async def feed(self, lane: Lane, payloads: Sequence[bytes]) -> None:
        side, partition = lane
        await self._streams.feed(streams_of(f"{self.name}-{side}", True)[partition], payloads)

    async def results(self) -> list[dict[str, Any]]:
        return [json.loads(body) for body in await self._watched.read(self._streams, f"{self.name}-rejected")]


@asynccontextmanager
async def trial_in(server: RabbitServer, folder: Path) -> AsyncIterator[MarketTrial]:
    async with Streams(server) as streams:
        trial = RabbitMarketTrial(server, folder, streams)
        for side in SIDES:
            await make(streams, f"{trial.name}-{side}", partitioned=True)
        await make(streams, f"{trial.name}-rejected", partitioned=False)
        yield trial


@pytest.mark.timeout(240)
async def test_partitions_out_of_order_give_the_ordered_run(
    server: RabbitServer, tmp_path: Path, long_run: bool
) -> None:
    await die_again_and_again(tmp_path, partial(trial_in, server), long_run=long_run)
