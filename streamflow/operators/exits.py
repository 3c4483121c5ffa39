"""Exits: how the rows of a stage of one step become the fragments that leave it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from streamflow.batch import Fragment, Origin
from streamflow.graph import Port
from streamflow.operators.bind import BoundStage
from streamflow.plan import leaving


class Exits:
    """Makes one fragment per exit, and one per tap, of the rows that a step gave.

    A row goes to each step behind an edge, with the origin that a split gives it: its place among the consumers.

    Args:
        bound: The stage.
        taps: Its ports that listeners want, besides.
    """

    def __init__(self, bound: BoundStage, taps: Sequence[Port] = ()) -> None:
        self._exits = bound.stage.exits
        step = bound.stage.steps[0]
        self.sided = step.ports > 1
        self._taps = [tap.out for tap in taps]
        self._consumers: list[list[tuple[int, int]]] = [
            [leaving(bound.stage, Port(step.id, out), consumer) for consumer in consumers]
            for out in range(step.ports)
            for consumers in [bound.graph.consumers(Port(step.id, out))]
        ]

    def fragments(self, like: Fragment, rows: Rows) -> tuple[Fragment, ...]:
        """The fragments of some rows.

        Args:
            like: Its number, mark and promise are theirs.
            rows: What leaves.
        """
        made = [self._exit(like, x, rows) for x in range(len(self._exits))]
        made += [self._tap(like, out, rows) for out in self._taps]
        return tuple(made)

    def _tap(self, like: Fragment, out: int, rows: Rows) -> Fragment:
        values = rows.values
        if rows.outs is not None:
            values = [value for value, at in zip(values, rows.outs, strict=True) if at == out]
        elif out:
            values = []
        return Fragment(like.batch, values, like.last, upto=like.upto)

    def _exit(self, like: Fragment, x: int, rows: Rows) -> Fragment:
        exit = self._exits[x]
        if rows.outs is not None or len(self._consumers[0]) > 1:
            rows = self._spread(x, rows)
        elif not self._consumers[0]:
            rows = Rows()
        keys = (rows.keys or [None] * len(rows.values)) if exit.keyed else None
        if exit.edge is None:
            return Fragment(like.batch, rows.values, like.last, keys, None, rows.origins, like.upto)
        ports = rows.outs
        if ports is None:
            ports = [self._consumers[0][0][1]] * len(rows.values)
        columns = (rows.times, rows.marks) if exit.edge.timed else (None, None)
        return Fragment(like.batch, rows.values, like.last, keys, ports, rows.origins, like.upto, *columns)

    def _spread(self, x: int, rows: Rows) -> Rows:
        """The rows for one exit, each once per consumer; ``outs`` are then the port numbers in the target."""
        found = Rows(outs=[])
        assert found.outs is not None
        for at, value in enumerate(rows.values):
            consumers = self._consumers[rows.outs[at] if rows.outs is not None else 0]
            for c, (to, number) in enumerate(consumers):
                if to == x:
                    origin = rows.origins[at]
                    found.values.append(value)
                    found.keys.append(rows.keys[at] if rows.keys else None)
                    found.origins.append((*origin, c) if len(consumers) > 1 else origin)
                    found.outs.append(number)
                    if rows.times and rows.marks:
                        found.times.append(rows.times[at])
                        found.marks.append(rows.marks[at])
        return found


class Rows:
    """Rows that leave: parallel lists; keys and times may be empty, ports of the step None: all the first one."""

    __slots__ = ("keys", "marks", "origins", "outs", "times", "values")

    def __init__(
        self,
        values: list[Any] | None = None,
        keys: list[Any] | None = None,
        origins: list[Origin] | None = None,
        *,
        outs: list[int] | None = None,
        times: list[Any] | None = None,
        marks: list[Any] | None = None,
    ) -> None:
        self.values = [] if values is None else values
        self.keys = [] if keys is None else keys
        self.origins = [] if origins is None else origins
        self.outs = outs
        self.times = [] if times is None else times
        self.marks = [] if marks is None else marks
