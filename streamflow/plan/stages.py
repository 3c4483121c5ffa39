"""Stages: which steps run fused in one loop, and which edges lie between them.

Every run of synchronous steps, splits and merges included, becomes one stage. A boundary step (one that takes whole
batches, or that awaits) is a stage of its own, and what lies behind it is another. Stages are numbered so that every
edge leads from a lower to a higher one; hence the oldest number in flight can always move on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from streamflow.errors import DefinitionError
from streamflow.graph import SINK, SOURCE, Graph, OnError, Port, Step
from streamflow.plan.event_time import reads_times, watermark_groups
from streamflow.plan.order import joint_orders


class Entry(NamedTuple):
    """Where rows come into a stage: the port they were given by, and the step that takes them.

    A port with two consumers in a stage has two entries, and its rows are sent twice: so each row's origin, and the
    order of a merge behind it, do not depend on where the graph is cut. Source rows have no single consumer.
    """

    step: str
    out: int
    into: str = ""


@dataclass(frozen=True, slots=True)
class Edge:
    """What one stage sends to another: one channel at run time.

    Args:
        source: Index of the sending stage; None for intake.
        target: Index of the receiving stage.
        keyed: Whether its rows carry keys.
        entries: The target's entries, which its rows' port numbers count.
        timed: Whether its rows carry event times.
    """

    source: int | None
    target: int
    keyed: bool
    entries: tuple[Entry, ...]
    timed: bool = False


@dataclass(frozen=True, slots=True)
class Exit:
    """Where rows leave a stage: an edge, or a sink at the end of a path.

    Args:
        name: The sink's name; for an edge the number of the target stage as text.
        edge: The edge, or None for a sink.
        keyed: Whether rows carry keys.
        encodes: Whether the loop makes frames of the rows.
        placed: Whether rows that go to a sink carry their origin: it puts aside, or names, those that it refuses.
        lines: Whether lines are made of its rows, of many at once, behind the loop.
    """

    name: str
    edge: Edge | None
    keyed: bool
    encodes: bool = False
    placed: bool = False
    lines: bool = False


@dataclass(frozen=True, slots=True)
class Stage:
    """A run of fused steps, or one boundary step.

    Args:
        index: Its number.
        steps: The steps, each behind its inputs; a sink is no step of a stage but an exit.
        entries: Where rows come in; a row's ``port`` is an index into this.
        exits: Where its rows go, edges first, in the order of the fragments that its loop yields.
        timed: Whether its rows have event times that somebody reads.
    """

    index: int
    steps: tuple[Step, ...]
    entries: tuple[Entry, ...]
    exits: tuple[Exit, ...]
    timed: bool = False

    @property
    def boundary(self) -> bool:
        return len(self.steps) == 1 and self.steps[0].traits.boundary

    @property
    def awaits(self) -> bool:
        """Whether it is an async step."""
        return self.boundary and self.steps[0].traits.awaits


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
    timed = _timed(graph, groups, [{stage_of[entry.step] for entry in found} for found in entries])
    watermark_groups(graph)
    joint_orders(graph)
    edges = [Edge(None, 0, False, tuple(entries[0]), timed[0])]
    for target in range(1, len(groups)):
        for source in sorted({stage_of[port.step] for port in entries[target]}):
            keyed = any(graph.step(entry.step).keyed for entry in entries[target] if stage_of[entry.step] == source)
            edges.append(Edge(source, target, keyed, tuple(entries[target]), timed[target]))
    stages = tuple(
        Stage(index, tuple(group), tuple(entries[index]), _exits(graph, index, stage_of, edges), timed[index])
        for index, group in enumerate(groups)
    )
    return Plan(graph, stages, tuple(edges))


def _timed(graph: Graph, groups: list[list[Step]], before: list[set[int]]) -> list[bool]:
    """Whether each stage's rows carry event times: a step of it reads them, or one of a stage behind it."""
    timed = [any(reads_times(graph, step) for step in group) for group in groups]
    for target in reversed(range(1, len(groups))):
        for source in before[target] if timed[target] else ():
            timed[source] = True
    return timed


def _groups(graph: Graph) -> list[list[Step]]:
    """Groups steps by how many boundaries lie before them; each boundary step is a group of its own."""
    depth = _depths(graph)
    groups: dict[tuple[int, str], list[Step]] = {(0, ""): []}
    for step in graph.steps:
        if step.traits.boundary:
            groups[depth[step.id], step.id] = [step]
        elif step.kind not in (SOURCE, SINK):
            groups.setdefault((depth[step.id], ""), []).append(step)
    return [groups[key] for key in sorted(groups, key=lambda key: key[0])]


def _depths(graph: Graph) -> dict[str, int]:
    """Per step the boundaries before it, counted twice; a table and the steps that look it up have the same depth.

    Raises:
        DefinitionError: A table is looked up both before and behind a boundary step.
    """
    sharing: dict[str, set[str]] = {}
    for step in graph.steps:
        for table in step.reads:
            sharing.setdefault(table, {table}).add(step.id)
    least: dict[str, int] = {}
    depth: dict[str, int] = {}
    for _ in range(len(graph.steps) + 1):
        for step in graph.steps:
            before = max((depth[port.step] for port in step.inputs), default=0)
            own = before + 1 + before % 2 if step.traits.boundary else before + before % 2
            depth[step.id] = max(own, least.get(step.id, 0))
        before_lifting = dict(least)
        for ids in sharing.values():
            deepest = max(depth[id] for id in ids)
            least |= {id: max(deepest, least.get(id, 0)) for id in ids}
        if least == before_lifting:
            return depth
    table = max(sharing, key=depth.__getitem__)
    raise DefinitionError(
        f"table {graph.step(table).name!r} is looked up both before and behind a step that awaits or takes batches",
        hint="Make a table of its own for the steps behind it, under another name: stream.to_table(name=...).",
    )


def _entries(graph: Graph, index: int, stage_of: dict[str, int]) -> list[Entry]:
    if index == 0:
        return [Entry(step.id, 0) for step in graph.of_kind(SOURCE)]
    return [
        Entry(*port, step.id)
        for step in graph.steps
        if stage_of.get(step.id) == index
        for port in dict.fromkeys(step.inputs)
        if stage_of[port.step] != index
    ]


def _exits(graph: Graph, index: int, stage_of: dict[str, int], edges: list[Edge]) -> tuple[Exit, ...]:
    exits = [Exit(str(edge.target), edge, edge.keyed) for edge in edges if edge.source == index]
    sinks = [sink for sink in graph.of_kind(SINK) if stage_of[sink.inputs[0].step] == index]
    boundary = any(step.traits.boundary and stage_of[step.id] == index for step in graph.steps)
    for sink in sinks:
        early = not boundary and sink.options.get("row_encoder") is not None
        lines = early and sink.options.get("line_encoder") is not None
        placed = sink.options["on_error"] is OnError.DEAD_LETTER or sink.options.get("placed", False)
        exits.append(Exit(sink.name, None, sink.keyed and not early, early and not lines, placed, lines))
    return tuple(exits)


def leaving(stage: Stage, port: Port, step: Step) -> tuple[int, int]:
    """How a row of a port leaves a stage towards a step elsewhere: its exit, and its port number there."""
    for x, exit in enumerate(stage.exits):
        if exit.edge is None:
            if step.id == f"{SINK}:{exit.name}":
                return x, 0
        elif (entry := Entry(*port, step.id)) in exit.edge.entries:
            return x, exit.edge.entries.index(entry)
    raise AssertionError(f"stage {stage.index} has no exit to {step.id}")
