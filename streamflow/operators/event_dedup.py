"""Dedup by event time: an identity is remembered for so long from the time of its first record."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from streamflow.batch import Watermark
from streamflow.graph import Graph, Step
from streamflow.keys import Key
from streamflow.operators.due import Due
from streamflow.operators.step_clock import clock_of
from streamflow.state.key_check import KeyCheck
from streamflow.state.keyed import MISSING, Table


@dataclass(frozen=True, slots=True)
class Remembering:
    """How long an identity is remembered, in microseconds of event time."""

    within_us: int
    timed: ClassVar[bool] = True

    def closes(self, time_us: int) -> int:
        """The watermark at which an identity is forgotten that came at that time."""
        return time_us + self.within_us


class EventDedup:
    """One dedup step by event time, at run time.

    GUARANTEE: a record is dropped iff its identity was let through by a record after which it happened less than
    ``within`` later, or earlier, unless the watermark of its own partition was behind that span when it came. So what
    passes depends on the order of records, not on where numbers end.
    BOUND: the identities of one span of ``within`` before the watermark, and ``max_keys``.

    Args:
        graph: The graph.
        step: The step.
        table: Its table: the event time of the record that was let through, by identity.
    """

    def __init__(self, graph: Graph, step: Step, table: Table[Any]) -> None:
        self.table = table
        self.clock = clock_of(graph, step)
        self.late = 0
        self._due = Due()
        self._within_us = step.options["dedup"].within_us
        self._check = KeyCheck(step.name, step.options["key_type"])

    def first(self, key: Key, time_us: int, mark_us: int) -> bool:
        """Whether a record is to be let through."""
        if key.__class__ is not self._check.kind:
            self._check.check(key)
        seen_us = self.table.peek(key)
        if seen_us is not MISSING and max(time_us, mark_us) < seen_us + self._within_us:
            return False
        if mark_us < time_us + self._within_us:
            self.table.put(key, time_us)
            self._due.arm(time_us + self._within_us, key, None)
        return True

    def advance(self, watermarks: Sequence[Watermark]) -> bool:
        """Moves the step's clock to what a number says at its end; says whether it moved."""
        return self.clock.advance(watermarks)

    def closing(self) -> Iterator[None]:
        """Forgets identities; each is a place to pause at."""
        for due_us, key, _ in self._due.take(self.clock.at_us):
            if self.table.peek(key) == due_us - self._within_us:
                self.table.delete(key)
            yield None

    def installed(self) -> None:
        """Ends loading: finds out when each identity is forgotten."""
        for key, time_us in self.table.snapshot().items():
            self._due.arm(time_us + self._within_us, key, None)
