"""The text of join steps: what the loop of a stage does with a record of either side."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from streamflow.graph import Port, Step

if TYPE_CHECKING:
    from streamflow.plan.loop import LoopWriter
    from streamflow.plan.steps import Scope


def write_join(w: LoopWriter, n: int, step: Step, scope: Scope) -> None:
    """Writes what a join step does with a record: pairs with what it matches, or it is late."""
    take = ("left", "right")[scope.side]
    with w.guarded(n, step, f"r{n} = {take}{n}({scope.key}, {scope.value}, {scope.time}, {scope.mark})"):
        with w.block(f"if r{n} is LATE:"):
            late = (*scope.path, str(1 + scope.side)) if scope.path else ()
            w.emit(Port(step.id, 1 + scope.side), replace(scope, path=late))
        with w.block(f"elif r{n} is not None:"), w.block(f"for j{n}, (u{n}, h{n}) in enumerate(r{n}):"):
            _pair(w, n, step, scope)


def _pair(w: LoopWriter, n: int, step: Step, scope: Scope) -> None:
    """Writes a pair, which has the time of the later of the two."""
    path = (*scope.path, "0", f"j{n}") if scope.path else ()
    with w.block(f"if u{n} < {scope.time}:"):
        w.line(f"u{n} = {scope.time}")
    pair = f"(h{n}.left, {scope.value})" if scope.side else f"({scope.value}, h{n}.right)"
    w.emit(Port(step.id), replace(scope, value=pair, path=path, time=f"u{n}"))
    w.pause(Port(step.id), path, f"j{n}")
