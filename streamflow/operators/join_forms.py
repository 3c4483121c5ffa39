"""Which form a join step has at run time."""

from __future__ import annotations

from typing import Any

from streamflow.graph import Graph, Step
from streamflow.operators.interval_join import IntervalJoin
from streamflow.operators.join_kinds import Interval
from streamflow.operators.joins import Join
from streamflow.operators.window_join import WindowJoin
from streamflow.state.keyed import Table


def join_of(graph: Graph, step: Step, table: Table[Any]) -> Join:
    """Makes the running form of a join step."""
    form = IntervalJoin if isinstance(step.options["join"], Interval) else WindowJoin
    return form(graph, step, table)
