"""Driving a plan by hand: numbers in, rows out, through channels and merges, with every law of a fragment checked."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from streamflow.batch import Fragment, MicroBatch, Origin, SourceBatch, SourceInput, Watermark
from streamflow.flow import Flow
from streamflow.graph import SOURCE, Graph
from streamflow.operators.bind import BoundStage
from streamflow.operators.fused import Transform, compile_loop
from streamflow.operators.map_batch import MapBatch
from streamflow.operators.plain import plain_loop
from streamflow.operators.routing import Merge
from streamflow.plan import Plan, make_plan
from streamflow.plan.event_time import is_timed, watermark_groups
from streamflow.runtime.channel import Channel
from streamflow.runtime.event_time import EventTimes, SourceTimes

NOW_MS = 86_400_000

Record = tuple[int, int, Any]
"""Time, index of the source, value."""


def plan_of(flow: Flow) -> Plan:
    """The plan of a flow whose loops give rows at the sinks as they are, not encoded."""
    graph = flow.graph()
    steps = [replace(step, options={**step.options, "row_encoder": None}) for step in graph.steps]
    return make_plan(Graph(graph.flow, tuple(steps)))


def event_times(graph: Graph) -> EventTimes | None:
    """Event time of a graph's sources, as the engine keeps it; every source starts empty and known."""
    found = {
        step.name: SourceTimes(step.name, step.options["event_time"], {})
        for step in graph.of_kind(SOURCE)
        if is_timed(step)
    }
    for times in found.values():
        times.expect(["p"])
    return EventTimes(found, watermark_groups(graph), {}) if found else None


def numbers(
    graph: Graph, records: Sequence[Record], size: int, *, first: int = 1, timed: bool = False
) -> Iterator[Fragment]:
    """Cuts records into numbers of up to ``size`` records of the same time; ``timed`` if rows carry event times."""
    stamps = event_times(graph)
    sources = [step.name for step in graph.of_kind(SOURCE)]
    read = [0] * len(sources)
    number, at = first, 0
    while at < len(records):
        end = at
        while end < len(records) and end - at < size and records[end][0] == records[at][0]:
            end += 1
        inputs, ports = [], []
        times: list[Any] = []
        marks: list[Any] = []
        for row, (_, source, value) in enumerate(records[at:end]):
            read[source] += 1
            part = SourceBatch("p", [value], positions=[read[source]], headers=[{"row": str(read[source])}])
            inputs.append(SourceInput(sources[source], row, part))
            ports.append(source)
            if stamps is not None:
                moments, before = stamps.sources[sources[source]].stamp(part, [value], NOW_MS)
                times += moments
                marks += before
        watermarks: tuple[Watermark, ...] = ()
        if stamps is not None:
            stamps.advance()
            watermarks = stamps.watermarks
        batch = MicroBatch(number, records[at][0], tuple(inputs), watermarks=watermarks)
        values = [value for _, _, value in records[at:end]]
        columns = (times, marks) if timed else (None, None)
        yield Fragment(batch, values, True, None, ports if len(sources) > 1 else None, None, None, *columns)
        number, at = number + 1, end


@dataclass
class Run:
    """What a run gave: rows per sink, rows with all their columns per stage and exit, and what was left out."""

    sinks: dict[str, list[Any]] = field(default_factory=dict)
    exits: dict[tuple[int, str], list[Any]] = field(default_factory=dict)
    fragments_max: int = 0
    lost: list[tuple[str, str, str]] = field(default_factory=list)
    state: dict[str, dict[Any, Any]] = field(default_factory=dict)


class CheckedExit:
    """Notes the rows that leave by an exit and checks the laws of fragments: one last, promises kept, in order."""

    def __init__(self, run: Run, name: tuple[int, str], sink: bool, channel: Channel | None, cut: int) -> None:
        self.rows = run.exits.setdefault(name, [])
        self.values = run.sinks.setdefault(name[1], []) if sink else []
        self.run, self.channel, self.cut = run, channel, cut
        self.number, self.open = 0, False
        self.upto: Origin = ()
        self.latest: Origin = ()

    async def put(self, part: Fragment) -> None:
        if not self.open:
            assert part.batch.number == self.number + 1
            self.number, self.upto, self.latest = part.batch.number, (), ()
        assert part.batch.number == self.number
        self.open = not part.last
        for origin in part.origins or ():
            assert origin > self.latest, f"{origin} behind {self.latest}"
            assert origin > self.upto, f"{origin} came though the edge was complete up to {self.upto}"
            self.latest = origin
        if part.upto is not None:
            self.upto = max(self.upto, part.upto)
        if self.channel is not None:
            assert (part.upto is None) == part.last
        self.run.fragments_max = max(self.run.fragments_max, len(part.values))
        columns = [part.keys, part.ports, part.origins, part.times, part.marks]
        self.rows += zip(
            part.values, *[c if c is not None else [None] * len(part.values) for c in columns], strict=True
        )
        self.values += part.values
        if self.channel is not None:
            for piece in recut(part, self.cut):
                await self.channel.put(piece)


def recut(part: Fragment, rows: int) -> Iterator[Fragment]:
    """Cuts a fragment into pieces, as an expanding step might have."""
    at = 0
    while rows and part.origins is not None and len(part.values) - at > rows:
        end = at + rows
        columns: list[Any] = [part.keys, part.ports, part.origins, part.times, part.marks]
        keys, ports, origins, times, marks = (None if c is None else c[at:end] for c in columns)
        upto = part.origins[end - 1]
        yield Fragment(part.batch, part.values[at:end], False, keys, ports, origins, upto, times, marks)
        at = end
    columns = [part.keys, part.ports, part.origins, part.times, part.marks]
    rest: list[Any] = [None if c is None else c[at:] for c in columns]
    names = ("keys", "ports", "origins", "times", "marks")
    yield part._replace(values=part.values[at:], **dict(zip(names, rest, strict=True)))


async def drive(
    flow: Flow, records: Sequence[Record], *, size: int = 512, capacity: int = 2, plain: bool = False, cut: int = 0
) -> Run:
    """Runs a flow's plan over records: every stage a task, as in the engine, without sources, sinks and store."""
    plan, run = plan_of(flow), Run()
    bound = [
        BoundStage(plan.graph, stage, lambda step, place, error: run.lost.append((step, place, str(error))))
        for stage in plan.stages
    ]
    channels = {edge: Channel(capacity, 0) for edge in plan.edges}

    async def work(stage: BoundStage) -> None:
        inlets = [channels[edge] for edge in plan.edges if edge.target == stage.stage.index]
        inlet = inlets[0] if len(inlets) == 1 else Merge(inlets)
        make: Any = (
            (lambda bound: MapBatch(bound).run) if stage.stage.boundary else plain_loop if plain else compile_loop
        )
        loop: Transform = make(stage)
        outlets = []
        for exit in stage.stage.exits:
            channel = channels[exit.edge] if exit.edge else None
            outlets.append(CheckedExit(run, (stage.stage.index, exit.name), exit.edge is None, channel, cut))
        left = total
        while left:
            part = await inlet.get()
            for outs in loop(part):
                for outlet, out in zip(outlets, outs, strict=True):
                    await outlet.put(out)
                await asyncio.sleep(0)
            left -= part.last
        assert all(not outlet.open and outlet.number == total for outlet in outlets)

    async def feed() -> None:
        for part in parts:
            await channels[plan.edges[0]].put(part)

    parts = list(numbers(plan.graph, records, size, timed=plan.stages[0].timed))
    total = len(parts)
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        group.create_task(feed())
        for stage in bound:
            group.create_task(work(stage))
    run.state = {name: table.snapshot() for stage in bound for name, table in stage.tables.items()}
    return run
