"""Cutting by a journal: what cannot be the same again is an error, not another result."""

from __future__ import annotations

from dataclasses import replace

import pytest

from streamflow.errors import DeterminismError
from streamflow.runtime.journal import RecordedEpoch, Share, read_epoch
from streamflow.testing.simulation import SimulatedRun, quiet
from tests.simulation.cell import Cell
from tests.simulation.cells import BY_NAME


def replay(cell: Cell, count: int, journal: list[RecordedEpoch]) -> SimulatedRun:
    run = SimulatedRun(cell.model, [a for a in cell.arrivals(count) if not a.pushed], quiet())
    run.journal = journal
    run.play()
    return run


def test_a_journal_ends_where_it_ends() -> None:
    cell = BY_NAME["linear"]
    first = cell.run(30, quiet())
    again = replay(cell, 40, first.recorder.journal)
    assert again.outputs("out") == first.outputs("out")
    assert again.recorder.digests == first.recorder.digests


def test_records_that_are_gone_are_an_error() -> None:
    cell = BY_NAME["linear"]
    journal = cell.run(30, quiet()).recorder.journal
    with pytest.raises(DeterminismError, match="ended before number"):
        replay(cell, 20, journal)


def test_other_messages_of_a_queue_are_an_error() -> None:
    cell = BY_NAME["queue"]
    journal = cell.run(10, quiet()).recorder.journal
    assert replay(cell, 10, journal).recorder.digests
    (number,) = journal[0].numbers
    (share,) = number.shares
    other = replace(share, ids=tuple(reversed(share.ids)))
    with pytest.raises(DeterminismError, match="where its journal has"):
        replay(cell, 10, [replace(journal[0], numbers=(replace(number, shares=(other,)),))])


def test_what_the_store_keeps_can_be_read() -> None:
    first = BY_NAME["pushes"].run(20, replace(quiet(), feed_seconds=0.1))
    assert sum(len(epoch.pushed) for epoch in first.recorder.journal) == len(first.pushes) == 10
    shares = [share for epoch in first.recorder.journal for number in epoch.numbers for share in number.shares]
    assert sum(share.count for share in shares) == 20
    assert read_epoch(1, b"\x90", b"") == RecordedEpoch(1, ())
    assert Share("a", "", 1) == Share("a", "", 1, ())
