"""Which form a join step has at run time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from streamflow.graph import Graph, Step
from streamflow.operators.asof_join import AsOfJoin
from streamflow.operators.interval_join import IntervalJoin
from streamflow.operators.join_kinds import AsOf, Interval
from streamflow.operators.joins import Join
from streamflow.operators.session_join import SessionJoin
from streamflow.operators.window_join import WindowJoin
from streamflow.operators.window_kinds import Session
from streamflow.state.keyed import Table

_FORMS: Final[dict[type, Callable[[Graph, Step, Table[Any]], Join]]] = {
    Interval: IntervalJoin,
    AsOf: AsOfJoin,
    Session: SessionJoin,
}


def join_of(graph: Graph, step: Step, table: Table[Any]) -> Join:
    """Makes the running form of a join step."""
    return _FORMS.get(type(step.options["join"]), WindowJoin)(graph, step, table)
