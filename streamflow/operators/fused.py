"""The generated loop of a stage, compiled against its bound objects."""

from __future__ import annotations

import itertools
import linecache
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from streamflow.batch import Fragment
from streamflow.graph import Port
from streamflow.operators.bind import BoundStage
from streamflow.plan import loop_text

Transform = Callable[[Fragment], Iterable[tuple[Fragment, ...]]]
"""Any run of synchronous steps.

Laws: one fragment in gives at least one tuple out, one fragment per exit and tap, all of the same number; only the
final tuple is ``last``, and only if the one in was; timers that the number's time makes due fire before its rows.
"""

_serial = itertools.count()


def compile_loop(bound: BoundStage, taps: Sequence[Port] = ()) -> Transform:
    """Compiles a stage's loop; cheap enough to do again while the flow runs, when a tap comes or goes.

    The text stands in `linecache`, so tracebacks and debuggers show it.
    """
    written = loop_text(bound.graph, bound.stage, taps)
    linecache.cache.pop(bound.file, None)
    bound.file = f"<streamflow {bound.graph.flow} stage {bound.stage.index} #{next(_serial)}>"
    bound.step_of_line = written.step_of_line
    linecache.cache[bound.file] = (len(written.text), None, written.text.splitlines(keepends=True), bound.file)
    space: dict[str, Any] = {}
    exec(compile(written.text, bound.file, "exec"), space)
    env = bound.env
    for n, step in enumerate(bound.stage.steps):
        env.setdefault(f"f{n}", step.function)
    loop: Transform = space["make"](env)
    return loop
