"""Feeding a flow under test with what a property test has drawn: without a pause, or with silences and deaths."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Any

from streamflow.testing.harness import FlowTest
from tests.unit.operators.arrivals import IDLE, Death, Pause

TURNS = 20
"""Turns of the loop in which a record is read, worked on and committed."""

SourceOf = Callable[[Any], Any]
"""The source that a record comes from."""


async def without_a_pause(t: FlowTest, source_of: SourceOf, records: Sequence[Any], deaths: int = 0) -> None:
    """Records come one by one, and wait for nothing; the process dies before so many of them, at any turn of the loop.

    At the end nobody is waited for any more.
    """
    chance = random.Random(len(records))
    before = set(chance.sample(range(len(records)), min(deaths, len(records))))
    for at, record in enumerate(records):
        if at in before:
            for _ in range(chance.randrange(TURNS)):
                await asyncio.sleep(0)
            await t.crash()
        await t.send(source_of(record), record, partition=record.partition, settle=False)
    await t.settle()
    await t.advance(f"{IDLE + 1}s")
    assert t.crashes == len(before)


async def through_silences(t: FlowTest, source_of: SourceOf, events: Sequence[Any]) -> None:
    """Each record is a number of its own, with pauses and deaths between them."""
    for event in events:
        if isinstance(event, Pause):
            await t.advance(f"{event.seconds}s")
        elif isinstance(event, Death):
            await t.crash()
        else:
            await t.send(source_of(event), event, partition=event.partition)
