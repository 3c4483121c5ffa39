"""Feeding a flow under test while it crashes: at rest, at work, behind a sink that is down or loses its answers."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise

from streamflow.errors import Unavailable
from streamflow.testing.harness import FlowTest
from tests.golden.cases import Case
from tests.golden.playing import WORK_TURNS, turns

RECONNECTED = "10s"
"""Longer than any wait between two attempts to open a sink."""


async def feed(t: FlowTest, case: Case, payloads: Sequence[bytes]) -> None:
    """Lets records arrive and waits until all is done."""
    arrive(t, case, payloads)
    await t.settle()


def arrive(t: FlowTest, case: Case, payloads: Sequence[bytes]) -> None:
    """Lets records arrive and waits for nothing."""
    for payload in payloads:
        t.topic(case.input.name).send_bytes(payload)


async def with_three_crashes(t: FlowTest, case: Case, work_turns: int) -> None:
    """Feeds all records through three crashes, each at another kind of place."""
    payloads = case.payloads()
    cuts = [len(payloads) * part // 4 for part in range(5)]
    first, second, third, fourth = (payloads[start:stop] for start, stop in pairwise(cuts))

    await feed(t, case, first)
    await t.crash()  # at rest: everything is committed and published

    arrive(t, case, second)
    await turns(work_turns)
    await t.crash()  # at work: read, processed, committed or published, as far as it got

    t.topic(case.sink).unreachable = True
    published, committed = len(t.sink(case.sink)), len(t.out(case.output))
    await feed(t, case, third)
    assert len(t.out(case.output)) > committed
    await t.crash()  # behind a sink that is down: committed, but not published
    assert len(t.sink(case.sink)) == published
    t.topic(case.sink).unreachable = False
    await t.advance(RECONNECTED)

    await feed(t, case, fourth)


async def with_random_crashes(t: FlowTest, case: Case, crashes: int, seed: int) -> None:
    """Feeds all records in pieces of any size, with a crash after each, at any turn of the loop."""
    chance = random.Random(seed)
    payloads = case.payloads()
    cuts = [0, *sorted(chance.choices(range(len(payloads) + 1), k=crashes))]
    for start, stop in pairwise(cuts):
        _maybe_break(t, case, chance)
        arrive(t, case, payloads[start:stop])
        await turns(chance.randrange(WORK_TURNS))
        await t.crash()
    t.topic(case.sink).unreachable = False
    await feed(t, case, payloads[cuts[-1] :])
    await t.advance(RECONNECTED)


def _maybe_break(t: FlowTest, case: Case, chance: random.Random) -> None:
    sink = t.topic(case.sink)
    sink.unreachable = chance.random() < 0.2
    if chance.random() < 0.3:
        stored = chance.choice([0, 1, None])  # nothing, one record, or all of them without an answer
        sink.fail_next_publish(Unavailable("the answer got lost"), after=stored)
