"""Merge: one inlet made of several channels, in the tuple order of origins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from streamflow.batch import END, Fragment, Origin

_WHOLE: Origin = (END + 1,)
"""Behind every origin: an edge that has given its last fragment of a number is complete up to here."""


class Inlet(Protocol):
    """Where an operator takes its fragments from."""

    async def get(self) -> Fragment: ...


class Merge:
    """Joins the fragments that several edges carry of each number.

    GUARANTEE: rows come in the tuple order of their origins, whatever the sizes of batches and channels; that is
    the order in which one loop over the whole graph would give them.
    BOUND: the rows of the fragments taken and not yet complete, one fragment ahead per edge that is not behind.
    """

    def __init__(self, inlets: Sequence[Inlet]) -> None:
        self._inlets = inlets
        self._rows: list[tuple[Origin, int, Any, Any, int, Any, Any]] = []
        self._timed = False
        self._upto: list[Origin] = [()] * len(inlets)

    async def get(self) -> Fragment:
        behind = min(range(len(self._inlets)), key=self._upto.__getitem__)
        part = await self._inlets[behind].get()
        origins, ports = part.origins, part.ports
        assert origins is not None and ports is not None, "an edge into a merge carries origins"
        assert not origins or origins[0] > self._upto[behind], "an edge is complete up to where it said"
        keys = part.keys or [None] * len(origins)
        none: list[Any] = [None] * len(origins)
        times, marks = part.times or none, part.marks or none
        self._timed = part.times is not None
        self._rows += zip(origins, [behind] * len(origins), part.values, keys, ports, times, marks, strict=True)
        assert part.last or part.upto is not None, "a fragment says how far its edge is complete"
        self._upto[behind] = _WHOLE if part.last else part.upto or ()
        return self._release(part)

    def _release(self, part: Fragment) -> Fragment:
        """Gives the rows that nothing can come before any more."""
        bound = min(self._upto)
        self._rows.sort(key=lambda row: row[0])
        ready = [row for row in self._rows if row[0] <= bound]
        del self._rows[: len(ready)]
        last = bound == _WHOLE
        if last:
            assert not self._rows
            self._upto = [()] * len(self._inlets)
        return Fragment(
            part.batch,
            [row[2] for row in ready],
            last,
            [row[3] for row in ready],
            [row[4] for row in ready],
            [row[0] for row in ready],
            None if last else bound,
            [row[5] for row in ready] if self._timed else None,
            [row[6] for row in ready] if self._timed else None,
        )
