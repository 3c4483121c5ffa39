"""Schedules that found a defect once: they stay."""

from __future__ import annotations

import dataclasses
from collections import Counter

from streamflow.runtime.settings import Settings
from streamflow.testing.simulation import quiet
from tests.simulation.cells import BY_NAME


def test_outputs_spill_while_the_commit_before_is_under_way() -> None:
    settings = Settings(commit_min="0ms", epoch_bytes_max=1, chunk_bytes=1, epoch_records_max=1, fragment_rows_max=2)
    labels: Counter[str] = Counter()
    BY_NAME["linear"].run(30, dataclasses.replace(quiet(settings=settings), store_seconds=0.02), labels)
    assert labels["spilled"] > 3
