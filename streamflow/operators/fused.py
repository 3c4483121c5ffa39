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


_kept: dict[tuple[Graph, int, tuple[Port, ...], int], _Compiled] = {}


def compile_loop(bound: BoundStage, taps: Sequence[Port] = (), rows_max: int = FRAGMENT_ROWS_MAX) -> Transform:
    """Compiles a stage's loop; cheap enough to do again while the flow runs, when a tap comes or goes.

    The text stands in `linecache`, so tracebacks and debuggers show it.
    """
    compiled = _compiled(bound, tuple(taps), rows_max)
    bound.file, bound.step_of_line = compiled.file, compiled.written.step_of_line
    space: dict[str, Any] = {}
    exec(compiled.code, space)
    env = bound.env
    for n, step in enumerate(bound.stage.steps):
        env.setdefault(f"f{n}", step.function)
    loop: Transform = space["make"](env)
    return loop


def _compiled(bound: BoundStage, taps: tuple[Port, ...], rows_max: int) -> _Compiled:
    key = (bound.graph, bound.stage.index, taps, rows_max)
    found = _kept.pop(key, None)
    if found is None:
        written = loop_text(bound.graph, bound.stage, taps, rows_max)
        file = f"<streamflow {bound.graph.flow} stage {bound.stage.index} #{next(_serial)}>"
        found = _Compiled(written, compile(written.text, file, "exec"), file)
        linecache.cache[file] = (len(written.text), None, written.text.splitlines(keepends=True), file)
        if len(_kept) >= LOOPS_KEPT_MAX:
            linecache.cache.pop(_kept.pop(next(iter(_kept))).file, None)
    _kept[key] = found
    return found
