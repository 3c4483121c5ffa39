"""Zombies: a frozen flow, its store copied and taken over by another, goes on: it is refused and doubles nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.brokers import KafkaServer
from tests.faults import zombies
from tests.faults.flow import Trap
from tests.faults.kafka.trial import Trial

FREEZES = (*zombies.FREEZES, Trap("sink.fenced", 1, "freeze"))
"""The last: on the way back, it has begun its producer. In the middle of a publish everything has left, and the
transaction is open."""


PATIENT = {"timeout_seconds": 60.0}
"""A zombie whose requests are over their time when it is thawed begins its producer anew, and fences its successor."""


async def fail_over(server: KafkaServer, folder: Path, freeze: Trap) -> str:
    async with Trial(server, folder, options=PATIENT) as trial:
        ended = await zombies.fail_over(trial, trial.feeder(), freeze, refusals=["Fenced"], undisturbed=True)
        assert trial.flow.events("failed") == []
        return ended


@pytest.mark.timeout(240)
async def test_a_zombie_is_fenced(server: KafkaServer, tmp_path: Path, long_run: bool) -> None:
    """Frozen with an open transaction that holds its records, and wherever else."""
    freezes = FREEZES if long_run else FREEZES[:1]
    ends = await asyncio.gather(*(fail_over(server, tmp_path, freeze) for freeze in freezes))
    assert ends == ["Fenced"] * len(freezes)
