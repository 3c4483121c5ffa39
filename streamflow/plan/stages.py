"""Stages: which steps run fused in one loop, and which edges lie between them.

Every run of synchronous steps, splits and merges included, becomes one stage. A boundary step (one that takes whole
batches, or that awaits) is a stage of its own, and what lies behind it is another. Stages are numbered so that every
edge leads from a lower to a higher one; hence the oldest number in flight can always move on.
"""

from __future__ import annotations

from dataclasses import dataclass

from streamflow.graph import SINK, SOURCE, Graph, Port, Step


@dataclass(frozen=True, slots=True)
class Edge:
    """What one stage sends to another: one channel at run time.

    Args:
        source: Index of the sending stage; None for intake.
        target: Index of the receiving stage.
        keyed: Whether its rows carry keys.
        entries: The target's entries, which its rows' port numbers count.
    """

    source: int | None
    target: int
    keyed: bool
    entries: tuple[Port, ...]


@dataclass(frozen=True, slots=True)
class Exit:
    """Where rows leave a stage: an edge, or a sink at the end of a path.

    Args:
        name: The sink's name; for an edge the number of the target stage as text.
        edge: The edge, or None for a sink.
        keyed: Whether rows carry keys.
    """

    name: str
    edge: Edge | None
    keyed: bool


@dataclass(frozen=True, slots=True)
class Stage:
    """A run of fused steps, or one boundary step.

    Args:
        index: Its number.
        steps: The steps, each behind its inputs; a sink is no step of a stage but an exit.
        entries: The ports whose rows come in; a row's ``port`` is an index into this.
        exits: Where its rows go, edges first, in the order of the fragments that its loop yields.
    """

    index: int
    steps: tuple[Step, ...]
    entries: tuple[Port, ...]
    exits: tuple[Exit, ...]

    @property
    def boundary(self) -> bool:
        return len(self.steps) == 1 and self.steps[0].traits.boundary


@dataclass(frozen=True, slots=True)
class Plan:
    """The fused graph."""

    graph: Graph
    stages: tuple[Stage, ...]
    edges: tuple[Edge, ...]

    def stage_of(self, step: str) -> int:
        """Index of the stage that gives the rows of a step; 0 for sources, which enter there."""
        return next((stage.index for stage in self.stages if any(s.id == step for s in stage.steps)), 0)


def make_plan(graph: Graph) -> Plan:
    """Cuts a graph into stages."""
    groups = _groups(graph)
    stage_of = {step.id: index for index, group in enumerate(groups) for step in group}
    stage_of |= {step.id: 0 for step in graph.of_kind(SOURCE)}
    entries = [_entries(graph, index, stage_of) for index in range(len(groups))]
    edges = [Edge(None, 0, False, tuple(entries[0]))]
    for target in range(1, len(groups)):
        for source in sorted({stage_of[port.step] for port in entries[target]}):
            ports = [port for port in entries[target] if stage_of[port.step] == source]
            keyed = any(graph.step(port.step).keyed for port in ports)
            edges.append(Edge(source, target, keyed, tuple(entries[target])))
    stages = tuple(
        Stage(index, tuple(group), tuple(entries[index]), _exits(graph, index, stage_of, edges))
        for index, group in enumerate(groups)
    )
    return Plan(graph, stages, tuple(edges))


def _groups(graph: Graph) -> list[list[Step]]:
    """Groups steps by how many boundaries lie before them; each boundary step is a group of its own."""
    depth: dict[str, int] = {}
    groups: dict[tuple[int, str], list[Step]] = {(0, ""): []}
    for step in graph.steps:
        before = max((depth[port.step] for port in step.inputs), default=0)
        if step.traits.boundary:
            depth[step.id] = before + 1 + before % 2
            groups[depth[step.id], step.id] = [step]
        else:
            depth[step.id] = before + before % 2
            if step.kind not in (SOURCE, SINK):
                groups.setdefault((depth[step.id], ""), []).append(step)
    return [groups[key] for key in sorted(groups, key=lambda key: key[0])]


def _entries(graph: Graph, index: int, stage_of: dict[str, int]) -> list[Port]:
    if index == 0:
        return [Port(step.id) for step in graph.of_kind(SOURCE)]
    ports: list[Port] = []
    for step in graph.steps:
        if stage_of.get(step.id) == index:
            ports += [port for port in step.inputs if stage_of[port.step] != index and port not in ports]
    return ports


def _exits(graph: Graph, index: int, stage_of: dict[str, int], edges: list[Edge]) -> tuple[Exit, ...]:
    exits = [Exit(str(edge.target), edge, edge.keyed) for edge in edges if edge.source == index]
    for sink in graph.of_kind(SINK):
        if stage_of[sink.inputs[0].step] == index:
            exits.append(Exit(sink.name, None, sink.keyed))
    return tuple(exits)
