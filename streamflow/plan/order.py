"""Joint orders: which sources give their records in the order of their event times, and with which others. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from streamflow.errors import DefinitionError
from streamflow.graph import SOURCE, Graph, Step
from streamflow.plan.event_time import Group, is_timed, sources_of

KEEP_ORDER: Final = frozenset({SOURCE, "map", "filter", "flat_map", "inspect", "key_by", "branch", "split", "merge"})
"""Kinds that may lie between sources and a merge in order of time: each gives what it takes at once, and in order."""


@dataclass(frozen=True, slots=True)
class Ordering:
    """What a source says of its order.

    Args:
        hold_max_ms: A record is released by force once it was held for so long; None holds it until its time comes.
        max_drift_us: A partition that is further ahead of the others than this is not read; None reads it until the
            hold is half full.
    """

    hold_max_ms: int | None = None
    max_drift_us: int | None = None


@dataclass(frozen=True, slots=True)
class JointOrder:
    """Sources, in the order of the graph, whose records are given in one order, and the strictest of what they say."""

    sources: Group
    ordering: Ordering


def joint_orders(graph: Graph) -> tuple[JointOrder, ...]:
    """Finds the sources with ``order="time"``, and those that a merge with ``order="time"`` puts into one order.

    Raises:
        DefinitionError: A source has no event time, or a merge lies behind steps that do not keep the order.
    """
    groups = [{source.name} for source in graph.of_kind(SOURCE) if source.options.get("ordering") is not None]
    for step in graph.of_kind("merge"):
        if step.options.get("ordered"):
            _check_merge(graph, step)
            joined = set(sources_of(graph, step))
            apart = [group for group in groups if group.isdisjoint(joined)]
            groups = [*apart, joined.union(*(group for group in groups if not group.isdisjoint(joined)))]
    names = [source.name for source in graph.of_kind(SOURCE)]
    found = [tuple(name for name in names if name in group) for group in groups]
    return tuple(
        JointOrder(group, _strictest(graph, group)) for group in sorted(found, key=lambda g: names.index(g[0]))
    )


def _check_merge(graph: Graph, merge: Step) -> None:
    for step in graph.upstream(merge):
        if step.kind not in KEEP_ORDER:
            raise DefinitionError(
                f"merge {merge.name!r} cannot go by event time: {step.kind} step {step.name!r} lies between it and its "
                "sources, and records wait or gather there",
                hint='merge(order="time") orders records where they enter the flow. Merge first, behind nothing but '
                "map, filter, flat_map, key_by, branch and split steps with plain functions.",
            )


def _strictest(graph: Graph, group: Group) -> Ordering:
    sources = [graph.step(f"{SOURCE}:{name}") for name in group]
    for source in sources:
        if not is_timed(source):
            raise DefinitionError(
                f"source {source.name!r} is to be read in the order of event time, and has none",
                hint=f"Say how to tell it: flow.source(..., name={source.name!r}, time=lambda record: ...).",
            )
    said = [source.options["ordering"] for source in sources if source.options.get("ordering") is not None]
    holds = [ordering.hold_max_ms for ordering in said if ordering.hold_max_ms is not None]
    drifts = [ordering.max_drift_us for ordering in said if ordering.max_drift_us is not None]
    return Ordering(min(holds, default=None), min(drifts, default=None))
