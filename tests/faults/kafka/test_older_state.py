"""An older backup of the state in front of a topic that holds more: refused, and nothing is written twice."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.brokers import KafkaServer
from tests.faults.kafka.trial import Trial
from tests.faults.process import copy_state


@pytest.mark.timeout(120)
async def test_an_older_state_is_refused(server: KafkaServer, tmp_path: Path) -> None:
    async with Trial(server, tmp_path) as trial:
        state, feeder = trial.flow.setup.state, trial.feeder()
        await feeder.feed(300)
        await trial.run_through(feeder)
        kept = copy_state(state, trial.folder / "kept")
        await feeder.feed(300)
        await trial.run_through(feeder)
        for path in state.parent.glob(f"{state.name}*"):
            path.unlink()
        for path in kept.parent.iterdir():
            shutil.copy2(path, state.parent / path.name)
        await feeder.feed(100)
        trial.flow.start()
        words = await trial.flow.ended()
        # a copy that was opened as often as the newest is known by its process only
        assert words["error"] in ("SinkAhead", "Fenced"), words
        assert words["hint"]
        assert len(await trial.results()) == 600
