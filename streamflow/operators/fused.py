"""The generated loop of a stage, compiled against its bound objects."""

from __future__ import annotations

import itertools
import linecache
from collections.abc import Callable, Iterable, Sequence
from types import CodeType
from typing import Any, Final, NamedTuple

from streamflow.batch import FRAGMENT_ROWS_MAX, Fragment
from streamflow.graph import Graph, Port
from streamflow.operators.bind import BoundStage
from streamflow.plan import loop_text
from streamflow.plan.loop import LoopText

Transform = Callable[[Fragment], Iterable[tuple[Fragment, ...]]]
"""Any run of synchronous steps.

Laws: one fragment in gives at least one tuple out, one fragment per exit and tap, all of the same number; only the
final tuple is ``last``, and only if the one in was; timers that the number's time makes due fire before its rows.
"""

LOOPS_KEPT_MAX: Final = 256
"""Compiled loops that are kept: a shard that restarts, or a tap that comes back, compiles nothing."""

_serial = itertools.count()


class _Compiled(NamedTuple):
    written: LoopText
    code: CodeType
    file: str


_kept: dict[tuple[Graph, int, tuple[Port, ...], int, bool], _Compiled] = {}


def compile_loop(bound: BoundStage, taps: Sequence[Port] = (), rows_max: int = FRAGMENT_ROWS_MAX) -> Transform:
    """Compiles a stage's loop; cheap enough to do again while the flow runs, when a tap comes or goes.

    The text stands in `linecache`, so tracebacks and debuggers show it. A stage with sinks has a second loop, for
    numbers that are traced; it is compiled when the first of them comes.
    """
    for n, step in enumerate(bound.stage.steps):
        bound.env.setdefault(f"f{n}", step.function)
    plain = _Loop(bound, tuple(taps), rows_max, traced=False)
    if all(exit.edge is not None for exit in bound.stage.exits):
        plain.enter()
        return plain.run
    return _Choice(plain).run


class _Loop:
    """A compiled loop of a stage."""

    def __init__(self, bound: BoundStage, taps: tuple[Port, ...], rows_max: int, *, traced: bool) -> None:
        self.bound, self.taps, self.rows_max = bound, taps, rows_max
        self._compiled = _compiled(bound, taps, rows_max, traced)
        space: dict[str, Any] = {}
        exec(self._compiled.code, space)
        self.run: Transform = space["make"](bound.env)

    def enter(self) -> None:
        """Says that errors from now on are those of this loop."""
        self.bound.file, self.bound.step_of_line = self._compiled.file, self._compiled.written.step_of_line


class _Choice:
    """Runs each fragment in the loop that its number asks for; without trace context that costs a look per fragment."""

    def __init__(self, plain: _Loop) -> None:
        self._plain = self._entered = plain
        self._traced: _Loop | None = None
        plain.enter()

    def run(self, part: Fragment) -> Iterable[tuple[Fragment, ...]]:
        wanted = self._loop_of_traced() if part.batch.traced else self._plain
        if wanted is not self._entered:
            wanted.enter()
            self._entered = wanted
        return wanted.run(part)

    def _loop_of_traced(self) -> _Loop:
        if self._traced is None:
            plain = self._plain
            self._traced = _Loop(plain.bound, plain.taps, plain.rows_max, traced=True)
        return self._traced


def _compiled(bound: BoundStage, taps: tuple[Port, ...], rows_max: int, traced: bool) -> _Compiled:
    key = (bound.graph, bound.stage.index, taps, rows_max, traced)
    found = _kept.pop(key, None)
    if found is None:
        written = loop_text(bound.graph, bound.stage, taps, rows_max, traced=traced)
        file = f"<streamflow {bound.graph.flow} stage {bound.stage.index} #{next(_serial)}>"
        found = _Compiled(written, compile(written.text, file, "exec"), file)
        linecache.cache[file] = (len(written.text), None, written.text.splitlines(keepends=True), file)
        if len(_kept) >= LOOPS_KEPT_MAX:
            linecache.cache.pop(_kept.pop(next(iter(_kept))).file, None)
    _kept[key] = found
    return found
