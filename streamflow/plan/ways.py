"""Ways: what a record that enters at its source again passes and gives besides, until it gets to a step."""

from __future__ import annotations

from collections.abc import Iterator

from streamflow.graph import SOURCE, Graph, Port, Step


def other_ways(graph: Graph, source: Step, target: str) -> list[str]:
    """What else a record does that goes from its source to a step once more; empty if nothing.

    Args:
        graph: The flow.
        source: The record's source.
        target: Id of the step, which may be a sink, or the source itself.
    """
    if target == source.id:
        return []
    found = next((step for step in graph.steps if step.id == target), None)
    name = target.partition(":")[2]
    if found is None:
        return [f"{name!r} is gone, so that nobody knows how far the record had got"]
    before = [step for step in graph.upstream(found) if step is not found and source in graph.upstream(step)]
    if not before:
        return [f"no way leads from source {source.name!r} to {name!r} any more"]
    before.sort(key=graph.steps.index)
    return [said for step in before for said in _besides(graph, step, {*(step.id for step in before), target})]


def _besides(graph: Graph, step: Step, route: set[str]) -> Iterator[str]:
    """What a step on the route does with a record beside handing it on."""
    detached = str(step.options.get("verb", "")).removeprefix("detached ")
    if step.traits.stateful and step.id not in _holding_inputs(graph):
        yield f"{step.kind} {step.name!r} has taken it into its state"
    elif step.traits.expands and step.id not in _holding_inputs(graph) and detached not in ("map", "filter"):
        yield f"{step.kind} {step.name!r} makes several records of one"
    for out in range(step.ports):
        consumers = graph.consumers(Port(step.id, out))
        on = [consumer for consumer in consumers if consumer.id in route]
        aside = [repr(consumer.name) for consumer in consumers if consumer.id not in route]
        if on and aside:
            yield f"what {step.kind} {step.name!r} gives also goes to {', '.join(aside)}"
        if len(on) > 1:
            yield f"what {step.kind} {step.name!r} gives gets there in {len(on)} ways"


def _holding_inputs(graph: Graph) -> set[str]:
    """Steps that hold inputs of detached calls: none of a call that has ended."""
    return {step.options["spec"].waiting for step in graph.of_kind(SOURCE) if "detached" in step.options}
