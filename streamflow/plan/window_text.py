"""The text of window steps and of what watermarks make due: a record's way into its window, and windows' way out."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from streamflow.graph import Port, Step
from streamflow.plan.event_time import acts_on_watermarks, closes_by_watermark

if TYPE_CHECKING:
    from streamflow.plan.loop import LoopWriter
    from streamflow.plan.steps import Scope


def inlined(step: Step) -> bool:
    """Whether the common case of a window step is written into the loop: a record that no window is closed for."""
    return step.options["pane"] is not None


def write_window(w: LoopWriter, n: int, step: Step, scope: Scope) -> None:
    """Writes what a window step does with a record."""
    key, value = scope.key, scope.value
    time, mark = scope.time or "None", scope.mark or "None"
    if w.handled(step):
        with w.guarded(n, step, f"r{n} = attempt{n}({key}, {value}, {time}, {mark}, now)"):
            _given(w, n, step, scope)
        return
    if step.options["gap_us"] is not None:
        _write_session(w, n, step, scope)
        return
    if not inlined(step):
        w.line(f"r{n} = take{n}({key}, {value}, {time}, {mark}, now)")
        _given(w, n, step, scope)
        return
    w.kept += [f"{letter}{n}" for letter in ("s", "e", "l", "m", "find")]
    offset, size = step.options["pane"]
    with w.block(f"if {time} >= e{n} or {time} < s{n}:"):
        moved = f"({time} - {offset})" if offset else time
        w.line(f"s{n} = {time} - {moved} % {size}; e{n} = s{n} + {size}")
        w.line(f"l{n} = e{n} if e{n} > done{n} else NEVER")
        w.line(f"m{n} = pane{n}(s{n}); find{n} = m{n}.get")
    with w.block(f"if l{n} > {mark}:"):
        w.line(f"a{n} = find{n}({key}, MISSING)")
        with w.block(f"if a{n} is MISSING:"):
            w.line(f"a{n} = open{n}({key}, s{n})")
        w.line(f"m{n}[{key}] = " + (f"a{n} + 1" if step.options["counts"] else f"add{n}(a{n}, {value})"))
    with w.block("else:"):
        w.line(f"r{n} = take{n}({key}, {value}, {time}, {mark}, now)")
        _given(w, n, step, scope)


def _write_session(w: LoopWriter, n: int, step: Step, scope: Scope) -> None:
    """Writes the common case of a session: a record behind the start of the only one of its key, which is open.

    A record in front of its last one may be too late although the session is open, as `SessionWindows.take` says.
    """
    key, time, mark, gap_us = scope.key, scope.time, scope.mark, step.options["gap_us"]
    w.line(f"x{n} = near{n}({key})")
    with w.block(
        f"if x{n} is not None and x{n}[0] <= {time} and (e{n} := (a{n} := x{n}[1]).last_us + {gap_us}) >= {time} "
        f"and e{n} >= {mark} and e{n} >= done{n} "
        f"and ({time} > a{n}.last_us or {mark} <= {time} + {gap_us} >= done{n}):"
    ):
        added = f"a{n}.value + 1" if step.options["counts"] else f"add{n}(a{n}.value, {scope.value})"
        w.line(f"a{n}.value = {added}")
        with w.block(f"if {time} > e{n} - {gap_us}:"):
            w.line(f"a{n}.last_us = {time}")
    with w.block("else:"):
        w.line(f"r{n} = take{n}({key}, {scope.value}, {time}, {mark}, now)")
        _given(w, n, step, scope)


def write_prologue(w: LoopWriter, n: int, step: Step) -> None:
    """Writes what a window step keeps at hand during a fragment: its clock, and the pane of the last record."""
    if step.options["window"].timed:
        w.line(f"done{n} = clock{n}.at_us")
    if inlined(step):
        w.line(f"s{n} = e{n} = l{n} = NEVER; m{n} = find{n} = None")


def _given(w: LoopWriter, n: int, step: Step, scope: Scope) -> None:
    """Writes what happens to what a record made its windows give, and to a record that is late."""
    with w.block(f"if r{n} is LATE:"):
        late = (*scope.path, "1") if scope.path else ()
        w.emit(Port(step.id, 1), replace(scope, path=late))
    with w.block(f"elif r{n} is not None:"), w.block(f"for j{n}, (v{n}, u{n}) in enumerate(r{n}):"):
        path = (*scope.path, "0", f"j{n}") if scope.path else ()
        times = (f"u{n}", f"u{n}") if scope.time else ("", "")
        w.emit(Port(step.id), replace(scope, value=f"v{n}", path=path, time=times[0], mark=times[1]))
        w.pause(Port(step.id), path, f"j{n}")


def write_watermarks(w: LoopWriter, track: bool) -> None:
    """Writes what a number's watermarks make due, at its end, step by step."""
    steps = [n for n, step in enumerate(w.stage.steps) if acts_on_watermarks(step)]
    if not steps:
        return
    w.step = -1
    with w.block("if last and moved(batch):"):
        with w.block("try:"):
            for n in steps:
                w.step, w.key = n, ""
                with w.block(f"if advance{n}(batch.watermarks):"):
                    step = w.stage.steps[n]
                    write = _closing if closes_by_watermark(step) else _event_timers
                    (_forgetting if step.kind == "dedup" else write)(w, n, step, track)
        w.step = -1
        with w.block("except Exception as error:"):
            w.line("raise fail(error, part, -1) from error")


def _closing(w: LoopWriter, n: int, step: Step, track: bool) -> None:
    w.key = "k"
    number = w.graph.steps.index(step)
    with w.block(f"for j, fired in enumerate(closing{n}()):"):
        with w.block("if fired is not None:"):
            w.line("k, v, t, about = fired")
            w.line("w = t")
            if track:
                w.line(f"o = (END, {number}, j, mark{n}(k, about))")
            w.emit(Port(step.id), w.scope(("*o",) if track else ()))
        w.pause(Port(step.id), (f"END, {number}, j, END",), "j")


def _forgetting(w: LoopWriter, n: int, step: Step, track: bool) -> None:
    with w.block(f"for j, _ in enumerate(closing{n}()):"):
        w.pause(Port(step.id), (f"END, {w.graph.steps.index(step)}, j, END",), "j")


def _event_timers(w: LoopWriter, n: int, step: Step, track: bool) -> None:
    w.key = "k"
    with w.block(f"for j, (k, name, at) in enumerate(eventdue{n}(upto{n}(batch.watermarks))):"):
        w.line(f"o = (END, {w.graph.steps.index(step)}, j, mark{n}(k, name, at))")
        w.line(f"c{n}.time = t = w = at")
        w.fired_timer(n, step, track)
