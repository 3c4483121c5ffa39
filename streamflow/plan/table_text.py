"""The text of table steps and of the steps that look tables up."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from streamflow.graph import Port, Step

if TYPE_CHECKING:
    from streamflow.plan.loop import LoopWriter
    from streamflow.plan.steps import Scope


def write_table(w: LoopWriter, n: int, step: Step, scope: Scope) -> None:
    """Writes what a table step does with a record: the change is made up only where somebody reads it."""
    port = Port(step.id)
    if step.options["pairs"]:
        w.line(f"k{n}, v{n} = {scope.value}")
        scope = replace(scope, key=f"k{n}", value=f"v{n}")
    call = f"attempt{n}" if w.handled(step) else f"take{n}"
    with w.guarded(n, step, f"r{n} = {call}({scope.key}, {scope.value}, now)"):
        if not w.view.reached[port] and not w.view.inside(port):
            w.line("pass")
            return
        with w.block(f"if r{n} is not None:"):
            w.line(f"v{n} = told{n}(r{n})")
            w.emit(port, replace(scope, value=f"v{n}"))


def write_lookup(w: LoopWriter, n: int, step: Step, scope: Scope) -> None:
    """Writes the look-up of one key."""
    key = w.call(n, step, scope) if step.function is not None else scope.key
    with w.guarded(n, step, f"a{n} = find{n}({key}, now)"):
        found = replace(scope, value=f"v{n}")
        if step.options["how"] == "left":
            w.line(f"v{n} = ({scope.value}, None if a{n} is MISSING else a{n})")
            w.emit(Port(step.id), found)
        else:
            with w.block(f"if a{n} is not MISSING:"):
                w.line(f"v{n} = ({scope.value}, a{n})")
                w.emit(Port(step.id), found)


def write_broadcast(w: LoopWriter, n: int, step: Step, scope: Scope) -> None:
    """Writes the walk over all values of a table."""
    call = f"pairs{n}({scope.value}, now)"
    path = (*scope.path, f"j{n}") if scope.path else ()
    call = f"all{n}({call})" if w.handled(step) else call
    with w.guarded(n, step, f"r{n} = {call}"), w.block(f"for j{n}, v{n} in enumerate(r{n}):"):
        w.emit(Port(step.id), replace(scope, value=f"v{n}", path=path))
        w.pause(Port(step.id), path, f"j{n}")
