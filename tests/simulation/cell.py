"""A cell: a small flow with its inputs and the exact result they have.

An input is an integer, unique in its run: ``source * 1000 + index``. What every sink must hold follows from the inputs
alone, per source in order where several are merged.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import streamflow as sf
from streamflow.flow import Flow
from streamflow.testing.simulation import Arrival, Model, Schedule, SimulatedRun

Topic = sf.MemoryTopic[Any]
Outputs = Mapping[str, Sequence[Any]]
Inputs = Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class Cell:
    """A flow and its oracle.

    Args:
        name: Its name.
        build: Makes the flow.
        check: Asserts that the outputs are exactly what the inputs give.
        sources: Names of its sources; each gets its share of the inputs.
        partitions: Names of each source's partitions, which records take in turn.
        pushed: The source whose records are pushed.
        blind: Sinks that may hold a record again.
        timed: Its results need timers, which an end of the input would leave in the state.
        queue: A source forgets what is acknowledged.
        cut_matters: Its results depend on where numbers end.
        swept_records: Number of records in the crash sweep, which kills at each turn they take.
        ordered: Its outputs, with their order and epochs, follow from its inputs alone, not from how long calls take.
        adapt: Leaves out of a schedule what its oracle cannot bear.
    """

    name: str
    build: Callable[[], Flow]
    check: Callable[[Inputs, Outputs], None]
    sources: tuple[str, ...] = ("a",)
    partitions: tuple[str, ...] = ("",)
    pushed: str = ""
    blind: frozenset[str] = field(default_factory=frozenset)
    timed: bool = False
    queue: bool = False
    cut_matters: bool = False
    swept_records: int = 12
    ordered: bool = True
    adapt: Callable[[Schedule], Schedule] = lambda schedule: schedule

    @cached_property
    def model(self) -> Model:
        """The flow, planned once for all runs of this process."""
        return Model(self.build())

    def run(self, count: int, schedule: Schedule, labels: Counter[str] | None = None) -> SimulatedRun:
        """Plays one schedule over ``count`` records and verifies what came out."""
        arrivals = self.arrivals(count)
        schedule = self.adapt(schedule)
        if self.queue:
            # two stores that both acknowledge share a queue's messages: no fence can help
            schedule = replace(schedule, kills=tuple(replace(kill, copy=False) for kill in schedule.kills))
        if self.timed:
            schedule = replace(schedule, closes=False)
        run = SimulatedRun(self.model, arrivals, schedule, labels)
        run.play()
        self.verify(run, arrivals)
        return run

    def arrivals(self, count: int) -> list[Arrival]:
        """Gives ``count`` records, shared by the sources."""
        found = []
        for index in range(count):
            source = index % len(self.sources)
            name = self.sources[source]
            value = source * 1000 + index // len(self.sources)
            partition = self.partitions[index // len(self.sources) % len(self.partitions)]
            found.append(Arrival(name, value, partition, pushed=name == self.pushed))
        return found

    def verify(self, run: SimulatedRun, arrivals: Sequence[Arrival]) -> None:
        """Holds the outputs of a run against the inputs."""
        inputs: dict[str, list[int]] = {name: [] for name in self.sources}
        for arrival in arrivals:
            if not arrival.pushed:
                inputs[arrival.source].append(arrival.value)
        outputs: dict[str, list[Any]] = {}
        for sink in self.model.sinks:
            values = run.outputs(sink)
            outputs[sink] = first_of_each(values) if sink in self.blind else values
        if self.pushed:
            # what its sender was told is durable is there; what it was not told of may be, once
            there = {row[0] if isinstance(row, list) else row for rows in outputs.values() for row in rows}
            inputs[self.pushed] += [push.value for push in run.pushes if push.durable or push.value in there]
        self.check(inputs, outputs)


def first_of_each(values: Iterable[Any]) -> list[Any]:
    """The values without repetitions."""
    found: dict[str, Any] = {}
    for value in values:
        found.setdefault(repr(value), value)
    return list(found.values())


def by(rows: Iterable[Any], key: Callable[[Any], Any]) -> dict[Any, list[Any]]:
    """Groups rows."""
    groups: dict[Any, list[Any]] = defaultdict(list)
    for row in rows:
        groups[key(row)].append(row)
    return dict(groups)


def in_order(found: Sequence[int], inputs: Inputs, expected: Callable[[int], Iterable[int]] = lambda v: [v]) -> None:
    """Each source's records are there once, in the source's order."""
    wanted = {name: [out for value in values for out in expected(value)] for name, values in inputs.items()}
    groups = by(found, lambda value: value // 1000)
    assert [groups.get(at, []) for at in range(len(wanted))] == list(wanted.values())


def topic(name: str, kind: Any = int, **options: Any) -> Topic:
    return sf.MemoryTopic(name, value=kind, **options)


def key(value: int) -> str:
    return f"k{value % 5}"


def counts(values: Sequence[int]) -> list[list[Any]]:
    """What a count per key gives for values in this order."""
    so_far: Counter[str] = Counter()
    rows: list[list[Any]] = []
    for value in values:
        so_far[key(value)] += 1
        rows.append([key(value), so_far[key(value)]])
    return rows
