"""Batch steps: a function that takes the values of a whole fragment at once, for NumPy, Arrow or Polars."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from streamflow.batch import Fragment, Origin
from streamflow.graph import OnError
from streamflow.operators.bind import BoundStage


class MapBatch:
    """Calls the user's function once per fragment.

    GUARANTEE: with one output per input the result does not depend on how records are grouped: output i keeps the
    origin of input i. Otherwise the outputs of a call stand at the origin of its first record.
    """

    def __init__(self, bound: BoundStage, taps: int = 0) -> None:
        self._bound = bound
        self._step = bound.stage.steps[0]
        self._taps = taps

    def run(self, part: Fragment) -> Iterator[tuple[Fragment, ...]]:
        """A Transform."""
        values, origins = part.values, part.origins or []
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
        yield tuple(self._exit(part, x, outputs, origins) for x in range(len(self._bound.stage.exits) + self._taps))

    def _exit(self, part: Fragment, x: int, outputs: list[Any], origins: list[Origin]) -> Fragment:
        exits = self._bound.stage.exits
        edge = exits[x].edge if x < len(exits) else None
        if edge is None:
            return Fragment(part.batch, outputs, part.last, upto=part.upto)
        number = next(
            at for at, port in enumerate(edge.entries) if port.step == self._step.id
        )
        keys = [None] * len(outputs) if edge.keyed else None
        ports = [number] * len(outputs)
        if len(exits) > 1:
            origins = [(*origin, x) for origin in origins]
        return Fragment(part.batch, outputs, part.last, keys, ports, origins, part.upto)
