"""Batch steps: a function that takes the values of a whole fragment at once, for NumPy, Arrow or Polars."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from streamflow.batch import Fragment
from streamflow.graph import OnError, Port
from streamflow.operators.bind import BoundStage
from streamflow.operators.exits import Exits, Rows


class MapBatch:
    """Calls the user's function once per fragment.

    GUARANTEE: with one output per input the result does not depend on how records are grouped: output i keeps the
    origin of input i. Otherwise the outputs of a call stand at the origin of its first record.
    """

    def __init__(self, bound: BoundStage, taps: Sequence[Port] = ()) -> None:
        self._bound = bound
        self._step = bound.stage.steps[0]
        self._exits = Exits(bound, taps)

    def run(self, part: Fragment) -> Iterator[tuple[Fragment, ...]]:
        """A Transform."""
        values, origins, times, marks = part.values, part.origins or [], part.times, part.marks
        outputs: list[Any] = []
        if values:
            try:
                outputs = list(self._step.call(values))
            except Exception as error:
                if self._step.options.get("on_error", OnError.STOP) is OnError.STOP:
                    raise self._bound.fail(error, part, 0) from error
                for row in range(len(values)):
                    self._bound.lost(0, error, part, row)
        if len(outputs) != len(values):
            origins = [(*origins[0], j) for j in range(len(outputs))] if outputs else []
            if times and marks:
                # as of the latest of its records, and no later than any of them
                times, marks = [max(times)] * len(outputs), [min(marks)] * len(outputs)
        yield self._exits.fragments(part, Rows(outputs, None, origins, times=times, marks=marks))
