"""Which steps want event time, and the groups of sources whose watermarks they go by. Pure, like all of the plan."""

from __future__ import annotations

from streamflow.errors import DefinitionError
from streamflow.graph import SOURCE, Graph, Step

Group = tuple[str, ...]
"""Names of sources, in the order of the graph."""


def is_timed(source: Step) -> bool:
    """Whether a source's records have an event time."""
    return source.options.get("event_time") is not None


def sources_of(graph: Graph, step: Step) -> Group:
    """The sources whose records can reach a step."""
    names = {found.name for found in graph.upstream(step) if found.kind == SOURCE}
    return tuple(source.name for source in graph.of_kind(SOURCE) if source.name in names)


def acts_on_watermarks(step: Step) -> bool:
    """Whether a step does something when the watermark moves."""
    return bool(step.options.get("event_timers")) or closes_by_watermark(step)


def closes_by_watermark(step: Step) -> bool:
    """Whether a step gives results, or forgets records, when the watermark has passed them."""
    kind = step.options.get(step.kind) if step.kind in ("window", "join", "dedup") else None
    return kind is not None and bool(kind.timed)


def reads_times(graph: Graph, step: Step) -> bool:
    """Whether a step wants to know the event time of its records."""
    wants = step.kind in ("window", "join", "process", "async_process") or bool(step.options.get("context"))
    wants = wants or closes_by_watermark(step)
    timed = {source.name for source in graph.of_kind(SOURCE) if is_timed(source)}
    return wants and not timed.isdisjoint(sources_of(graph, step))


def watermark_groups(graph: Graph) -> tuple[Group, ...]:
    """Every group of sources for which numbers carry a watermark: each timed source, then those that steps go by.

    Raises:
        DefinitionError: A step that goes by event time can get records that have none.
    """
    groups: dict[Group, None] = {(source.name,): None for source in graph.of_kind(SOURCE) if is_timed(source)}
    for step in graph.steps:
        if acts_on_watermarks(step):
            group = sources_of(graph, step)
            for name in group:
                source = graph.step(f"{SOURCE}:{name}")
                if (detached := source.options.get("detached")) is not None:
                    raise DefinitionError(
                        f"{step.kind} step {step.name!r} goes by event time, and what detached step {detached!r} gives "
                        "comes when its calls are done",
                        hint="Put what goes by event time before it, or leave detached=True out.",
                    )
                if not is_timed(source):
                    raise DefinitionError(
                        f"{step.kind} step {step.name!r} goes by event time, and source {name!r} has none",
                        hint=f"Say how to tell it: flow.source(..., name={name!r}, time=lambda record: ...).",
                    )
            groups[group] = None
    return tuple(groups)
