"""Batch steps: a function that takes the values of a whole fragment at once, for NumPy, Arrow or Polars."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from streamflow.batch import Fragment, Origin
from streamflow.graph import OnError, Port
from streamflow.operators.bind import BoundStage
from streamflow.plan import leaving


class _Rows(NamedTuple):
    values: list[Any]
    origins: list[Origin]
    times: list[Any]
    marks: list[Any]


class MapBatch:
    """Calls the user's function once per fragment.

    GUARANTEE: with one output per input the result does not depend on how records are grouped: output i keeps the
    origin of input i. Otherwise the outputs of a call stand at the origin of its first record.
    """

    def __init__(self, bound: BoundStage, taps: int = 0) -> None:
        self._bound = bound
        self._step = bound.stage.steps[0]
        self._taps = taps
        port = Port(self._step.id)
        self._leaving = [leaving(bound.stage, port, step) for step in bound.graph.consumers(port)]

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
        rows = _Rows(outputs, origins, times or [], marks or [])
        yield tuple(self._exit(part, x, rows) for x in range(len(self._bound.stage.exits) + self._taps))

    def _exit(self, part: Fragment, x: int, rows: _Rows) -> Fragment:
        outputs, origins, times, marks = rows
        exits = self._bound.stage.exits
        edge = exits[x].edge if x < len(exits) else None
        if edge is None:
            placed = x < len(exits) and part.batch.traced
            return Fragment(part.batch, outputs, part.last, origins=origins if placed else None, upto=part.upto)
        # a row goes to each step behind the edge, with the origin that a split gives it: its place among the consumers
        targets = [(c, number) for c, (to, number) in enumerate(self._leaving) if to == x]
        if len(self._leaving) > 1:
            origins = [(*origin, c) for origin in origins for c, _ in targets]
        values = [value for value in outputs for _ in targets] if len(targets) > 1 else outputs
        keys = [None] * len(values) if edge.keyed else None
        ports = [number for _ in outputs for _, number in targets]
        columns: list[list[Any] | None] = [None, None]
        if edge.timed:
            columns = [[cell for cell in column for _ in targets] for column in (times, marks)]
        return Fragment(part.batch, values, part.last, keys, ports, origins, part.upto, *columns)
