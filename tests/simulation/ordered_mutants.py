"""Mutants of order="time": what is released, what a crash forgets of it, and how far the watermark then is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from streamflow.batch import TIME_MAX, Ahead, Position, SourceBatch
from streamflow.runtime import ordering
from streamflow.runtime.event_time import SourceTimes
from streamflow.runtime.known import Known
from streamflow.runtime.lane import Lane
from streamflow.runtime.ordering import TimeOrder
from streamflow.testing.simulation.record import Recorder

CELL = "ordered"


def released_ranges_forgotten(stack: ExitStack) -> None:
    """The checkpoint has the lowest position alone; its invariant, which would tell at once, looks away."""
    original = Lane.position

    def mutated(self: Lane, *rest: Any) -> Position:
        return replace(original(self, *rest), above=())

    stack.enter_context(patch.object(Lane, "position", mutated))
    _look_away(stack)


def resumes_behind_what_is_held(stack: ExitStack) -> None:
    def mutated(self: Lane, unread: Any = ()) -> Position:
        return Position(self.end, self.identity)

    stack.enter_context(patch.object(Lane, "position", mutated))
    _look_away(stack)


def _look_away(stack: ExitStack) -> None:
    def mutated(self: Recorder, place: Any, position: Position) -> bool:
        return place in self.released

    stack.enter_context(patch.object(Recorder, "_is_as_released", mutated))
    stack.enter_context(
        patch.object(
            Recorder,
            "_release",
            lambda self, share, epoch: self.released.setdefault((share.source, share.partition), set()),
        )
    )


def released_ranges_read_again(stack: ExitStack) -> None:
    def mutated(self: Known, batch: SourceBatch) -> Iterator[tuple[SourceBatch, Ahead | None]]:
        yield batch, None

    stack.enter_context(patch.object(Known, "cut", mutated))


def event_time_of_what_is_held_is_committed(stack: ExitStack) -> None:
    """After a crash, what is read again is held against itself."""
    stack.enter_context(patch.object(Lane, "clock_us", lambda self, latest_us: latest_us))


def watermark_ahead_of_what_is_held(stack: ExitStack) -> None:
    original = TimeOrder.look

    def mutated(self: TimeOrder) -> None:
        waiting, self._waiting = self._waiting, []
        try:
            original(self)
        finally:
            self._waiting = waiting

    stack.enter_context(patch.object(TimeOrder, "look", mutated))


def equal_times_released_before_they_are_complete(stack: ExitStack) -> None:
    def mutated(waiting: Any, at_us: int) -> int:
        return sum(each.place[0] <= at_us for each in waiting)

    stack.enter_context(patch.object(ordering, "_count_before", mutated))


def a_silent_partition_is_not_waited_for(stack: ExitStack) -> None:
    """What has given nothing yet does not hold the others back."""
    original = SourceTimes.active

    def mutated(self: SourceTimes) -> Any:
        return [at for at in original(self) if at > -TIME_MAX]

    stack.enter_context(patch.object(SourceTimes, "active", mutated))
    stack.enter_context(patch.object(SourceTimes, "known", True))


MUTANTS = (
    (released_ranges_forgotten, CELL),
    (resumes_behind_what_is_held, CELL),
    (released_ranges_read_again, CELL),
    (event_time_of_what_is_held_is_committed, CELL),
    (watermark_ahead_of_what_is_held, CELL),
    (equal_times_released_before_they_are_complete, CELL),
    (a_silent_partition_is_not_waited_for, CELL),
)
"""With the cell that can show each."""
