"""One flow that reads all brokers and writes to all of them, with one commit point, killed again and again."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.across.kills import SETTINGS, kill, schedule
from tests.faults.across.trial import SINKS, Servers, Trial

FIRST = 7
"""The first number of its schedule: it then dies in a publish at once."""


@pytest.mark.timeout(180)
async def test_a_flow_across_all_of_them_is_killed(servers: Servers, tmp_path: Path, long_run: bool) -> None:
    kills = 12 if long_run else 5
    trial = Trial(servers, tmp_path, SINKS, SINKS, SETTINGS)
    survived = await kill(trial, kills, schedule(FIRST, kills))
    assert len(survived.deaths) == kills
    assert [path.name for path in trial.folder.glob("*.db")] == ["flow.db"]
