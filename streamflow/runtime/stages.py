"""Stages at run time: which operator runs a stage, and with which loop."""

from __future__ import annotations

from collections.abc import Sequence

from streamflow.clock import Clock
from streamflow.graph import Port
from streamflow.operators.async_map import AsyncMap
from streamflow.operators.async_process import AsyncProcess
from streamflow.operators.bind import BoundStage
from streamflow.operators.fused import Transform, compile_loop
from streamflow.operators.map_batch import MapBatch
from streamflow.operators.operator import Outlet, Shard, Sync
from streamflow.operators.plain import plain_loop
from streamflow.plan import Plan, Stage

Operator = Sync | AsyncMap | AsyncProcess


def make_operator(bound: BoundStage, plan: Plan, shard: Shard, clock: Clock, rows_max: int) -> Operator:
    """Makes the operator of a stage; its loop and its outlets follow by `set_loop`."""
    if bound.stage.awaits and bound.stage.steps[0].traits.stateful:
        return AsyncProcess(bound, shard, clock, rows_max)
    if bound.stage.awaits:
        return AsyncMap(bound, shard, clock, rows_max, merged=_is_merged(plan, bound.stage))
    return Sync(bound, lambda part: (), [], shard)


def _is_merged(plan: Plan, stage: Stage) -> bool:
    """Whether rows of a stage come to one that has several edges in."""
    reached = {stage.index}
    for edge in sorted(plan.edges, key=lambda edge: edge.target):
        if edge.source in reached:
            reached.add(edge.target)
    return any(sum(edge.target == index for edge in plan.edges) > 1 for index in reached - {stage.index})


def set_loop(
    operator: Operator, taps: Sequence[Port], outlets: Sequence[Outlet], rows_max: int, *, careful: bool
) -> None:
    """Gives an operator its loop, with taps and where all of its rows go; in use from its next number on.

    Args:
        operator: The operator.
        taps: Ports of its stage whose rows are wanted besides.
        outlets: One per exit, then one per tap.
        rows_max: A generated loop pauses after so many rows; 0 for the plain executor.
        careful: Whether the plain executor encodes state after every call.
    """
    if isinstance(operator, Sync):
        operator.replace(_loop(operator.bound, taps, rows_max, careful=careful), outlets)
        return
    operator.replace(taps, outlets)
    if isinstance(operator, AsyncProcess):
        operator.careful = careful


def _loop(bound: BoundStage, taps: Sequence[Port], rows_max: int, *, careful: bool) -> Transform:
    if bound.stage.boundary:
        return MapBatch(bound, taps).run
    if not rows_max:
        return plain_loop(bound, taps, careful=careful)
    return compile_loop(bound, taps, rows_max)
