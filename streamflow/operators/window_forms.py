"""Which form a window step has at run time, and what it keeps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from streamflow.graph import Graph, Step
from streamflow.operators.aggregator import Aggregator
from streamflow.operators.count_windows import CountPane, CountWindows, GlobalWindows
from streamflow.operators.early_sliding_windows import CountedPane, EarlySlidingWindows
from streamflow.operators.session_windows import SessionState, SessionWindows
from streamflow.operators.sliding_windows import SlidingWindows
from streamflow.operators.tumbling_windows import Counted, TumblingWindows
from streamflow.operators.window_kinds import Calendar, CountWindow, Session, Sliding, Tumbling
from streamflow.operators.windows import Windows
from streamflow.state.panes import PaneTable

_KINDS: Final[dict[type, type[Windows]]] = {
    Tumbling: TumblingWindows,
    Calendar: TumblingWindows,
    Sliding: SlidingWindows,
    Session: SessionWindows,
    CountWindow: CountWindows,
}


def windows_of(graph: Graph, step: Step, table: PaneTable[Any]) -> Windows:
    """Makes the running form of a window step."""
    options = step.options
    tells_early = options["early"] is not None or options["early_us"] is not None
    if isinstance(options["window"], Sliding) and tells_early:
        return EarlySlidingWindows(graph, step, table)
    return _KINDS.get(type(options["window"]), GlobalWindows)(graph, step, table)


def entry_type(kind: object, aggregator: Aggregator[Any, Any, Any], *, early: bool) -> tuple[Any, Callable[[], Any]]:
    """The type of a window step's entries, and what makes an empty one."""
    held: Any = aggregator.type
    init = aggregator.init
    if isinstance(kind, Session):
        return SessionState[held], lambda: SessionState(0, init())
    if isinstance(kind, CountWindow):
        return list[CountPane[held]], list
    if isinstance(kind, Tumbling | Calendar):
        return (held, init) if not early else (Counted[held], lambda: Counted(0, init()))
    if isinstance(kind, Sliding):
        return (held, init) if not early else (CountedPane[held], lambda: CountedPane(0, init()))
    return CountPane[held], lambda: CountPane(0, 0, 0, init())
