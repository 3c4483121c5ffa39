"""The text of each kind of step: what the loop of a stage does with one row."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from streamflow.codecs import immutable
from streamflow.graph import Port, Step
from streamflow.plan.join_text import write_join
from streamflow.plan.table_text import write_broadcast, write_lookup, write_table
from streamflow.plan.window_text import write_window

if TYPE_CHECKING:
    from streamflow.plan.loop import LoopWriter


@dataclass(slots=True)
class Scope:
    """Where text is being written: names of the row's value and key, its origin so far, its time and watermark.

    ``side`` is the input of the step at hand that the row comes by.
    """

    value: str
    key: str
    path: tuple[str, ...]
    time: str = ""
    mark: str = ""
    side: int = 0

    def origin(self) -> str:
        return f"({', '.join(self.path)},)"


def _map(w: LoopWriter, n: int, step: Step, scope: Scope) -> None:
    with w.guarded(n, step, f"v{n} = {w.call(n, step, scope)}"):
        w.emit(Port(step.id), replace(scope, value=f"v{n}"))


def _filter(w: LoopWriter, n: int, step: Step, scope: Scope) -> None:
    if w.handled(step):
        with w.guarded(n, step, f"b{n} = {w.call(n, step, scope)}"), w.block(f"if b{n}:"):
            w.emit(Port(step.id), scope)
    else:
        with w.block(f"if {w.call(n, step, scope)}:"):
            w.emit(Port(step.id), scope)


def _inspect(w: LoopWriter, n: int, step: Step, scope: Scope) -> None:
    with w.guarded(n, step, w.call(n, step, scope)):
        w.emit(Port(step.id), scope)


def _flat_map(w: LoopWriter, n: int, step: Step, scope: Scope) -> None:
    call = w.call(n, step, scope)
    if w.handled(step):
        call = f"all{n}({call})"
    with w.guarded(n, step, f"r{n} = {call}"):
        _each(w, n, step, scope, owned=True)


def _each(w: LoopWriter, n: int, step: Step, scope: Scope, *, owned: bool) -> None:
    """Writes the loop over what a step gave for one record."""
    path = (*scope.path, f"j{n}") if scope.path else ()
    with w.block(f"for j{n}, v{n} in enumerate(r{n}):"):
        if not owned:
            _own(w, f"v{n}")
        w.emit(Port(step.id), replace(scope, value=f"v{n}", path=path))
        w.pause(Port(step.id), path, f"j{n}")


def _own(w: LoopWriter, name: str) -> None:
    with w.block(f"if {name}.__class__ not in FROZEN:"):
        w.line(f"{name} = own({name})")


def _key_by(w: LoopWriter, n: int, step: Step, scope: Scope) -> None:
    with w.guarded(n, step, f"k{n} = {w.call(n, step, scope)}"):
        if w.handled(step):
            with w.guarded(n, step, f"q{n}.check(k{n})"):
                w.emit(Port(step.id), replace(scope, key=f"k{n}"))
            return
        with w.block(f"if k{n}.__class__ is not kind{n}:"):
            w.line(f"q{n}.check(k{n})")
        w.emit(Port(step.id), replace(scope, key=f"k{n}"))


def _merge(w: LoopWriter, n: int, step: Step, scope: Scope) -> None:
    w.emit(Port(step.id), scope)


def _branch(w: LoopWriter, n: int, step: Step, scope: Scope) -> None:
    choice = (
        " else ".join(f"{j} if f{n}_{j}({scope.value})" for j in range(step.ports)) + f" else none{n}({scope.value})"
    )
    with w.guarded(n, step, f"b{n} = {choice}"):
        _by_port(w, n, step, scope)


def _split(w: LoopWriter, n: int, step: Step, scope: Scope) -> None:
    with w.guarded(n, step, f"b{n} = route{n}({w.call(n, step, scope)})"):
        _by_port(w, n, step, scope)


def _by_port(w: LoopWriter, n: int, step: Step, scope: Scope) -> None:
    for j in range(step.ports):
        path = (*scope.path, str(j)) if scope.path else ()
        with w.block(f"{'if' if j == 0 else 'elif'} b{n} == {j}:"):
            w.emit(Port(step.id, j), replace(scope, path=path))


def _count(w: LoopWriter, n: int, step: Step, scope: Scope) -> None:
    key = scope.key
    if w.handled(step):
        with w.guarded(n, step, f"v{n} = attempt{n}({key}, {scope.value})"):
            w.emit(Port(step.id), replace(scope, value=f"v{n}"))
        return
    w.line(f"a{n} = get{n}({key})")
    with w.block(f"if a{n} is None:"):
        w.line(f"a{n} = miss{n}({key})")
    w.line(f"hot{n}[{key}] = a{n} = a{n} + 1")
    w.line(f"v{n} = ({key}, a{n})")
    w.emit(Port(step.id), replace(scope, value=f"v{n}"))


def _reduce(w: LoopWriter, n: int, step: Step, scope: Scope) -> None:
    key = scope.key
    if w.handled(step):
        with w.guarded(n, step, f"v{n} = attempt{n}({key}, {scope.value})"):
            w.emit(Port(step.id), replace(scope, value=f"v{n}"))
        return
    w.line(f"a{n} = get{n}({key}, MISSING)")
    with w.block(f"if a{n} is MISSING:"):
        w.line(f"a{n} = miss{n}({key})")
    if step.kind == "reduce":
        w.line(f"r{n} = own({scope.value}) if a{n} is MISSING else f{n}(a{n}, {scope.value})")
    else:
        w.line(f"r{n} = f{n}(a{n}, {scope.value})")
    with w.block(f"if r{n} is None and a{n} is not MISSING:"):
        w.line(f"none{n}()")
    w.line(f"hot{n}[{key}] = r{n}")
    if step.options.get("result") is not None:
        w.line(f"r{n} = result{n}(r{n})")
    if step.options.get("result") is not None or not immutable(step.options["state"].type):
        _own(w, f"r{n}")
    w.line(f"v{n} = ({key}, r{n})")
    w.emit(Port(step.id), replace(scope, value=f"v{n}"))


def _dedup(w: LoopWriter, n: int, step: Step, scope: Scope) -> None:
    times = f"{scope.time}, {scope.mark}" if step.options["dedup"] is not None else "now"
    call = f"first{n}({w.call(n, step, scope)}, {times})"
    if w.handled(step):
        with w.guarded(n, step, f"b{n} = {call}"), w.block(f"if b{n}:"):
            w.emit(Port(step.id), scope)
        return
    with w.block(f"if {call}:"):
        w.emit(Port(step.id), scope)


def _process(w: LoopWriter, n: int, step: Step, scope: Scope) -> None:
    key, origin = scope.key, scope.origin()
    if scope.time:
        w.line(f"c{n}.time = {scope.time}")
    if w.handled(step):
        with w.guarded(n, step, f"r{n} = attempt{n}({key}, {scope.value}, {origin})"):
            _each(w, n, step, scope, owned=True)
            write_side(w, n, step, scope)
        return
    if step.options["state"].kind == "value" and step.options["state"].ttl_ms is None:
        w.line(f"s{n} = get{n}({key}, MISSING)")
        with w.block(f"if s{n} is MISSING:"):
            w.line(f"s{n} = miss{n}({key})")
    else:
        w.line(f"s{n} = view{n}({key}, now)")
    w.line(f"c{n}.key = {key}; c{n}.origin = {origin}; c{n}.state = s{n}")
    w.line(f"r{n} = f{n}(c{n}, {scope.value})")
    with w.block(f"if r{n} is not None:"):
        _each(w, n, step, scope, owned=False)
    with w.block(f"if c{n}.state is not s{n}:"):
        w.line(f"put{n}({key}, c{n}.state)")
    write_side(w, n, step, scope)


def write_side(w: LoopWriter, n: int, step: Step, scope: Scope) -> None:
    """Writes what happens to the side outputs of the call that just ended."""
    if step.ports == 1:
        return
    with w.block(f"for j{n}, (b{n}, v{n}) in enumerate(side{n}()):"):
        for index in range(1, step.ports):
            path = (*scope.path, "END", f"j{n}") if scope.path else ()
            with w.block(f"{'if' if index == 1 else 'elif'} b{n} == {index}:"):
                w.emit(Port(step.id, index), replace(scope, value=f"v{n}", path=path))
                w.pause(Port(step.id, index), path, f"j{n}")


HELPERS = {
    "flat_map": ("all",),
    "key_by": ("q",),
    "branch": ("none",),
    "split": ("route",),
    "count": ("t", "miss", "attempt"),
    "reduce": ("t", "miss", "attempt", "none"),
    "aggregate": ("t", "miss", "attempt", "result", "none"),
    "dedup": ("first",),
    "process": ("t", "c", "miss", "view", "put", "attempt", "side"),
    "join": ("left", "right"),
    "window": ("take", "attempt", "open", "add", "clock", "pane", "near"),
    "table": ("take", "attempt", "told"),
    "lookup": ("find",),
    "broadcast": ("pairs", "all"),
}

STEPS = {
    "map": _map,
    "filter": _filter,
    "inspect": _inspect,
    "flat_map": _flat_map,
    "key_by": _key_by,
    "merge": _merge,
    "branch": _branch,
    "split": _split,
    "count": _count,
    "reduce": _reduce,
    "aggregate": _reduce,
    "dedup": _dedup,
    "process": _process,
    "window": write_window,
    "table": write_table,
    "lookup": write_lookup,
    "broadcast": write_broadcast,
    "join": write_join,
}
