"""Flows from each broker to each, killed by SIGKILL again and again: nothing lost, nothing twice."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.faults.across.kills import ON_THE_WAY, ON_THE_WAY_BACK, SETTINGS, Survived, kill, schedule
from tests.faults.across.trial import SINKS, SOURCES, Servers, Sink, Source, Trial

Pair = tuple[Source, Sink]
PAIRS: list[Pair] = [(source, sink) for source in SOURCES for sink in SINKS]
HANDFUL: list[Pair] = [("kafka", "nats"), ("nats", "stream"), ("stream", "kafka"), ("queue", "kafka")]
"""Every broker is read and written."""
AT_ONCE = 4


async def kill_pairs(servers: Servers, folder: Path, pairs: Sequence[Pair], kills: int) -> Survived:
    """Kills the flows of several pairs beside each other."""
    places = asyncio.Semaphore(AT_ONCE)

    async def one(number: int, source: Source, sink: Sink) -> Survived:
        async with places:
            trial = Trial(servers, folder, (source,), (sink,), SETTINGS)
            return await kill(trial, number, schedule(number, kills))

    return Survived.total(await asyncio.gather(*(one(number, *pair) for number, pair in enumerate(pairs))))


@pytest.mark.timeout(120)
async def test_flows_between_brokers_are_killed(servers: Servers, tmp_path: Path) -> None:
    deaths = (await kill_pairs(servers, tmp_path, HANDFUL, 3)).deaths
    assert len(deaths) == 3 * len(HANDFUL) and deaths.count("") == len(HANDFUL)


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_flows_from_each_broker_to_each_are_killed(servers: Servers, tmp_path: Path) -> None:
    assert len(PAIRS) == 12
    deaths = (await kill_pairs(servers, tmp_path, PAIRS, 6)).deaths
    assert len(deaths) == 6 * len(PAIRS) and deaths.count("") == 2 * len(PAIRS)
    assert {*deaths} >= {*ON_THE_WAY, *ON_THE_WAY_BACK}
