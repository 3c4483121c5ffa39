"""The cells: small flows over every kind of source, sink, step and wiring, each with its exact expected result.

An input is an integer, unique in its run: ``source * 1000 + index``. What every sink must hold follows from the inputs
alone, per source in order where several are merged.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import streamflow as sf
from streamflow.flow import Flow
from streamflow.keys import stable_hash
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
    """

    name: str
    build: Callable[[], Flow]
    check: Callable[[Inputs, Outputs], None]
    sources: tuple[str, ...] = ("a",)
    partitions: tuple[str, ...] = ("",)
    pushed: str = ""
    blind: frozenset[str] = field(default_factory=frozenset)
    timed: bool = False

    @cached_property
    def model(self) -> Model:
        """The flow, planned once for all runs of this process."""
        return Model(self.build())

    def run(self, count: int, schedule: Schedule, labels: Counter[str] | None = None) -> SimulatedRun:
        """Plays one schedule over ``count`` records and verifies what came out."""
        arrivals = self.arrivals(count)
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


# -- linear, merged, split ---------------------------------------------------------------------------------------------


def linear() -> Flow:
    flow = Flow("linear")
    flow.source(topic("a")).map(lambda v: v * 2).filter(lambda v: v % 3 != 1).to(topic("out"))
    return flow


def check_linear(inputs: Inputs, outputs: Outputs) -> None:
    assert outputs["out"] == [v * 2 for v in inputs["a"] if v * 2 % 3 != 1]


def fan_in() -> Flow:
    flow = Flow("fan-in")
    flow.source(topic("a")).merge(flow.source(topic("b"))).to(topic("out"))
    return flow


def check_in_order(inputs: Inputs, outputs: Outputs) -> None:
    in_order(outputs["out"], inputs)


def fan_out() -> Flow:
    flow = Flow("fan-out")
    source = flow.source(topic("a"))
    source.to(topic("plain"))
    source.map(lambda v: -v).to(topic("negative"))
    return flow


def check_fan_out(inputs: Inputs, outputs: Outputs) -> None:
    assert outputs["plain"] == list(inputs["a"])
    assert outputs["negative"] == [-v for v in inputs["a"]]


def diamond() -> Flow:
    flow = Flow("diamond")
    even, odd = flow.source(topic("a")).branch(lambda v: v % 2 == 0, sf.otherwise)
    even.map(lambda v: [v, "even"]).merge(odd.flat_map(lambda v: [[v, "odd"], [v, "twice"]])).to(
        topic("out", list[Any])
    )
    return flow


def check_diamond(inputs: Inputs, outputs: Outputs) -> None:
    kinds = (["even"], ["odd", "twice"])
    assert outputs["out"] == [[v, kind] for v in inputs["a"] for kind in kinds[v % 2]]


def split_merge() -> Flow:
    flow = Flow("split-merge")
    routes = flow.source(topic("a")).split(lambda v: v % 3, [0, 1, 2])
    slow = routes[1].map_batch(lambda values: values)
    merged = routes[0].merge(slow, routes[2])
    merged.key_by(key).count(name="counted").to(topic("out", list[Any]))
    merged.to(topic("all"))
    return flow


def check_split_merge(inputs: Inputs, outputs: Outputs) -> None:
    assert outputs["out"] == counts(inputs["a"])
    assert outputs["all"] == list(inputs["a"])


def two_by_two() -> Flow:
    flow = Flow("two-by-two")
    a, b = flow.source(topic("a")), flow.source(topic("b"))
    merged = a.merge(b.map_batch(lambda values: values))
    merged.to(topic("out"))
    merged.key_by(lambda v: f"s{v // 1000}").count(name="counted").to(topic("counts", list[Any]))
    return flow


def check_two_by_two(inputs: Inputs, outputs: Outputs) -> None:
    in_order(outputs["out"], inputs)
    for at, values in enumerate(inputs.values()):
        rows = [n for name, n in outputs["counts"] if name == f"s{at}"]
        assert rows == list(range(1, len(values) + 1))


# -- state ---------------------------------------------------------------------------------------------------------------


def counting() -> Flow:
    flow = Flow("counting")
    flow.source(topic("a")).key_by(key).count(name="counted").to(topic("out", list[Any]))
    return flow


def check_counting(inputs: Inputs, outputs: Outputs) -> None:
    assert outputs["out"] == counts(inputs["a"])


def reducing() -> Flow:
    flow = Flow("reducing")
    summed = flow.source(topic("a")).key_by(key).reduce(lambda total, v: total + v, name="total", of=int)
    summed.map_batch(lambda rows: rows).to(topic("out", list[Any]))
    return flow


def check_reducing(inputs: Inputs, outputs: Outputs) -> None:
    totals: Counter[str] = Counter()
    rows = []
    for v in inputs["a"]:
        totals[key(v)] += v
        rows.append([key(v), totals[key(v)]])
    assert outputs["out"] == rows


def aggregating() -> Flow:
    """The accumulator itself goes out, changed in place by every record, and past a channel."""

    def add(seen: dict[str, list[int]], v: int) -> dict[str, list[int]]:
        seen.setdefault("values", []).append(v)
        return seen

    flow = Flow("aggregating")
    seen = flow.source(topic("a")).key_by(lambda v: v % 3).aggregate(dict[str, list[int]], add, name="seen")
    seen.map_batch(lambda rows: rows).to(topic("out", list[Any]))
    return flow


def check_aggregating(inputs: Inputs, outputs: Outputs) -> None:
    seen: dict[int, list[int]] = defaultdict(list)
    rows = []
    for v in inputs["a"]:
        seen[v % 3].append(v)
        rows.append([v % 3, {"values": list(seen[v % 3])}])
    assert outputs["out"] == rows


def processing() -> Flow:
    """State in place, ids, a side output, and the state object itself as output, straight to a sink."""
    side = sf.Output("side", int)
    flow = Flow("processing")

    @flow.source(topic("a")).key_by(key).process(state=dict[str, list[int]], outputs=[side])
    def account(ctx: sf.Context[str, dict[str, list[int]]], v: int) -> Iterator[Any]:
        ctx.state.setdefault("seen", []).append(v)
        yield [v, ctx.id]
        yield [v, ctx.state]
        if v % 4 == 0:
            ctx.emit(side, v)

    account.to(topic("out", list[Any]))
    account.output(side).to(topic("side"))
    return flow


def check_processing(inputs: Inputs, outputs: Outputs) -> None:
    seen: dict[str, list[int]] = defaultdict(list)
    rows: list[Any] = []
    for at, v in enumerate(inputs["a"], start=1):
        seen[key(v)].append(v)
        parts = ("processing", "account", "a", "", str(at), "")
        rows.append([v, stable_hash(*(part.encode() for part in parts)).hex()])
        rows.append([v, {"seen": list(seen[key(v)])}])
    assert outputs["out"] == rows
    assert outputs["side"] == [v for v in inputs["a"] if v % 4 == 0]


def collections() -> Flow:
    """Map state whose items come and go, and list state that grows and shrinks."""
    flow = Flow("collections")
    keyed = flow.source(topic("a")).key_by(lambda v: v % 2)

    @keyed.process(state=sf.map_state(str, int))
    def items(ctx: sf.Context[int, Any], v: int) -> Iterator[Any]:
        name = f"i{v % 7}"
        if v % 5 == 0 and name in ctx.state:
            del ctx.state[name]
        else:
            ctx.state[name] = v
        yield [v, dict(ctx.state)]

    @keyed.process(state=sf.list_state(int))
    def last_three(ctx: sf.Context[int, Any], v: int) -> Iterator[Any]:
        ctx.state.append(v)
        if len(ctx.state) > 3:
            ctx.state.drop()
        yield list(ctx.state)

    items.to(topic("items", list[Any]))
    last_three.to(topic("lists", list[int]))
    return flow


def check_collections(inputs: Inputs, outputs: Outputs) -> None:
    maps: dict[int, dict[str, int]] = {0: {}, 1: {}}
    lists: dict[int, list[int]] = {0: [], 1: []}
    items, rows = [], []
    for v in inputs["a"]:
        state, name = maps[v % 2], f"i{v % 7}"
        if v % 5 == 0 and name in state:
            del state[name]
        else:
            state[name] = v
        items.append([v, dict(sorted(state.items()))])
        lists[v % 2] = [*lists[v % 2], v][-3:]
        rows.append(lists[v % 2])
    assert [[v, sorted(found.items())] for v, found in outputs["items"]] == [
        [v, [*found.items()]] for v, found in items
    ]
    assert outputs["lists"] == rows


def skipping() -> Flow:
    """Calls that fail half way under policy skip: nothing of them stays."""
    flow = Flow("skipping")

    @flow.source(topic("a")).key_by(key).process(state=dict[str, int], on_error=sf.skip)
    def careful(ctx: sf.Context[str, dict[str, int]], v: int) -> Iterator[Any]:
        ctx.state["n"] = ctx.state.get("n", 0) + 1
        yield [v, ctx.state["n"]]
        if v % 4 == 3:
            raise ValueError("no")

    careful.to(topic("out", list[Any]))
    return flow


def check_skipping(inputs: Inputs, outputs: Outputs) -> None:
    n: Counter[str] = Counter()
    rows = []
    for v in inputs["a"]:
        if v % 4 != 3:
            n[key(v)] += 1
            rows.append([v, n[key(v)]])
    assert outputs["out"] == rows


# -- time ------------------------------------------------------------------------------------------------------------------


def timers() -> Flow:
    """Counts per key, told by a timer that the first record of a key sets; every record is told once."""
    flow = Flow("timers")

    @flow.source(topic("a")).key_by(key).process(state=int)
    def waiting(ctx: sf.Context[str, int], v: int) -> Iterator[Any]:
        if ctx.state == 0:
            ctx.timer("tell", after="40ms")
        ctx.state += 1
        return iter(())

    @waiting.on_timer("tell")
    def tell(ctx: sf.Context[str, int]) -> Iterator[Any]:
        yield [ctx.key, ctx.state]
        ctx.clear()

    waiting.to(topic("out", list[Any]))
    return flow


def check_timers(inputs: Inputs, outputs: Outputs) -> None:
    told: Counter[str] = Counter()
    for name, count in outputs["out"]:
        assert count > 0
        told[name] += count
    assert told == Counter(map(key, inputs["a"]))


def batches() -> Flow:
    flow = Flow("batches")
    flow.source(topic("a")).batch(4, within="30ms", name="lists", of=int).to(topic("out", list[int]))
    return flow


def check_batches(inputs: Inputs, outputs: Outputs) -> None:
    assert [v for part in outputs["out"] for v in part] == list(inputs["a"])
    assert all(1 <= len(part) <= 4 for part in outputs["out"])


def backlog() -> Flow:
    """A timer that each record sets anew: while a backlog is read it must not fire in between."""
    flow = Flow("backlog")

    @flow.source(topic("a")).key_by(lambda v: "all").process(state=int)
    def quiet(ctx: sf.Context[str, int], v: int) -> Iterator[Any]:
        ctx.timer("quiet", after="8s")
        ctx.state += 1
        return iter(())

    @quiet.on_timer("quiet")
    def silence(ctx: sf.Context[str, int]) -> Iterator[Any]:
        yield ctx.state

    quiet.to(topic("out"))
    return flow


def check_backlog(inputs: Inputs, outputs: Outputs) -> None:
    assert outputs["out"] == [len(inputs["a"])] if inputs["a"] else not outputs["out"]


# -- expansion, boundaries, duplicates -----------------------------------------------------------------------------------


def expanding() -> Flow:
    flow = Flow("expanding")
    wide = flow.source(topic("a")).flat_map(lambda v: [[v, n] for n in range(v % 9)])
    wide.map_batch(lambda rows: [[v, n, len(str(v))] for v, n in rows]).flat_map(
        lambda row: [row] * (1 + row[1] % 2)
    ).to(topic("out", list[int]))
    return flow


def check_expanding(inputs: Inputs, outputs: Outputs) -> None:
    assert outputs["out"] == [[v, n, len(str(v))] for v in inputs["a"] for n in range(v % 9) for _ in range(1 + n % 2)]


def boundaries() -> Flow:
    flow = Flow("boundaries")
    first = flow.source(topic("a")).map_batch(lambda values: [v + 1 for v in values], name="first")
    keyed = first.key_by(key)
    keyed.count(name="counted").map_batch(lambda rows: rows, name="second").to(topic("out", list[Any]))
    first.map_batch(lambda values: [v - 1 for v in values], name="third").to(topic("back"))
    return flow


def check_boundaries(inputs: Inputs, outputs: Outputs) -> None:
    assert outputs["out"] == counts([v + 1 for v in inputs["a"]])
    assert outputs["back"] == list(inputs["a"])


def deduplicating() -> Flow:
    flow = Flow("deduplicating")
    source = flow.source(topic("a"))
    source.dedup(lambda v: v % 11, name="seen").to(topic("out"))
    source.flat_map(lambda v: [v, v]).dedup(lambda v: v, within="30d", name="lately").to(topic("each"))
    return flow


def check_deduplicating(inputs: Inputs, outputs: Outputs) -> None:
    first: dict[int, int] = {}
    for v in inputs["a"]:
        first.setdefault(v % 11, v)
    assert outputs["out"] == list(first.values())
    assert outputs["each"] == list(inputs["a"])


# -- kinds of sources and sinks ----------------------------------------------------------------------------------------------


def queue() -> Flow:
    flow = Flow("queue")
    source = flow.source(topic("a", ids=True))
    source.to(topic("out"))
    source.key_by(lambda v: "all").count(name="counted").to(topic("count", list[Any]))
    return flow


def check_queue(inputs: Inputs, outputs: Outputs) -> None:
    assert sorted(outputs["out"]) == list(inputs["a"])
    assert outputs["count"] == [["all", n] for n in range(1, len(inputs["a"]) + 1)]


def mixed() -> Flow:
    flow = Flow("mixed")
    merged = flow.source(topic("a", ids=True)).merge(flow.source(topic("b")))
    merged.key_by(lambda v: v // 1000).count(name="counted").to(topic("out", list[Any]))
    merged.to(topic("all"))
    return flow


def check_mixed(inputs: Inputs, outputs: Outputs) -> None:
    assert Counter(outputs["all"]) == Counter(v for values in inputs.values() for v in values)
    assert [v for v in outputs["all"] if v >= 1000] == list(inputs["b"])
    for at, values in enumerate(inputs.values()):
        assert [n for source, n in outputs["out"] if source == at] == list(range(1, len(values) + 1))


def partitioned() -> Flow:
    flow = Flow("partitioned")
    source = flow.source(topic("a", partitions=("p", "q", "r")), message=True)
    source.map(lambda m: [m.value, m.position]).to(topic("out", list[int]))
    return flow


def check_partitioned(inputs: Inputs, outputs: Outputs) -> None:
    for at in range(3):
        rows = [row for row in outputs["out"] if row[0] % 3 == at]
        assert rows == [[v, n] for n, v in enumerate((v for v in inputs["a"] if v % 3 == at), start=1)]
    assert len(outputs["out"]) == len(inputs["a"])


def spread_out() -> Flow:
    """A sink with partitions, keys and headers."""
    flow = Flow("spread-out")
    flow.source(topic("a")).to(
        topic("out", partitions=("x", "y")),
        partition=lambda v: v % 2,
        key=lambda v: f"k{v % 3}",
        headers=lambda v: {"v": str(v)},
    )
    return flow


def check_spread_out(inputs: Inputs, outputs: Outputs) -> None:
    assert outputs["out"] == [v for side in (0, 1) for v in inputs["a"] if v % 2 == side]


def blind() -> Flow:
    flow = Flow("blind", guarantee="at_least_once")
    source = flow.source(topic("a"))
    source.to(topic("out", blind=True))
    source.to(topic("exact"), guarantee="exactly_once")
    return flow


def check_blind(inputs: Inputs, outputs: Outputs) -> None:
    assert outputs["out"] == list(inputs["a"])
    assert outputs["exact"] == list(inputs["a"])


def pushes() -> Flow:
    flow = Flow("pushes")
    merged = flow.source(topic("a")).merge(flow.source(topic("b")))
    merged.key_by(lambda v: v // 1000).count(name="counted").to(topic("count", list[Any]))
    merged.to(topic("out"))
    return flow


def check_pushes(inputs: Inputs, outputs: Outputs) -> None:
    assert [v for v in outputs["out"] if v < 1000] == list(inputs["a"])
    assert Counter(v for v in outputs["out"] if v >= 1000) == Counter(inputs["b"])
    for at in (0, 1):
        there = sum(v // 1000 == at for v in outputs["out"])
        assert [n for source, n in outputs["count"] if source == at] == list(range(1, there + 1))


def aliases() -> Flow:
    """The state object goes into another step's state and to a sink, and is changed in place all along."""
    flow = Flow("aliases")

    @flow.source(topic("a")).key_by(lambda v: 0).process(state=dict[str, int])
    def state(ctx: sf.Context[int, dict[str, int]], v: int) -> Iterator[Any]:
        ctx.state["n"] = ctx.state.get("n", 0) + 1
        yield ctx.state

    state.key_by(lambda row: row["n"] % 2).reduce(_merge, name="merged", of=dict[str, int]).to(topic("out", list[Any]))
    state.to(topic("plain", dict[str, int]), on_error=sf.skip)
    return flow


def _merge(so_far: dict[str, int], row: dict[str, int]) -> dict[str, int]:
    so_far["n"] += row["n"]
    return so_far


def check_aliases(inputs: Inputs, outputs: Outputs) -> None:
    totals: Counter[int] = Counter()
    rows = []
    for n in range(1, len(inputs["a"]) + 1):
        totals[n % 2] += n
        rows.append([n % 2, {"n": totals[n % 2]}])
    assert outputs["out"] == rows
    assert outputs["plain"] == [{"n": n} for n in range(1, len(inputs["a"]) + 1)]


CELLS: tuple[Cell, ...] = (
    Cell("linear", linear, check_linear),
    Cell("fan-in", fan_in, check_in_order, ("a", "b")),
    Cell("fan-out", fan_out, check_fan_out),
    Cell("diamond", diamond, check_diamond),
    Cell("split-merge", split_merge, check_split_merge),
    Cell("two-by-two", two_by_two, check_two_by_two, ("a", "b")),
    Cell("counting", counting, check_counting),
    Cell("reducing", reducing, check_reducing),
    Cell("aggregating", aggregating, check_aggregating),
    Cell("processing", processing, check_processing),
    Cell("collections", collections, check_collections),
    Cell("skipping", skipping, check_skipping),
    Cell("timers", timers, check_timers, timed=True),
    Cell("batches", batches, check_batches, timed=True),
    Cell("backlog", backlog, check_backlog, timed=True),
    Cell("expanding", expanding, check_expanding),
    Cell("boundaries", boundaries, check_boundaries),
    Cell("deduplicating", deduplicating, check_deduplicating),
    Cell("queue", queue, check_queue),
    Cell("mixed", mixed, check_mixed, ("a", "b")),
    Cell("partitioned", partitioned, check_partitioned, partitions=("p", "q", "r")),
    Cell("spread-out", spread_out, check_spread_out),
    Cell("blind", blind, check_blind, blind=frozenset({"out"})),
    Cell("pushes", pushes, check_pushes, ("a", "b"), pushed="b"),
    Cell("aliases", aliases, check_aliases),
)

BY_NAME = {cell.name: cell for cell in CELLS}
