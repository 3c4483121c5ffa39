"""Cells of state and time: aggregations, process steps, aliases, timers, batches."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import streamflow as sf
from streamflow.flow import Flow
from streamflow.keys import stable_hash
from streamflow.testing.simulation import Faults, Schedule
from tests.simulation.cell import Inputs, Outputs, counts, key, topic

# -- state -----------------------------------------------------------------------------------------


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
    items: list[tuple[int, list[tuple[str, int]]]] = []
    rows = []
    for v in inputs["a"]:
        state, name = maps[v % 2], f"i{v % 7}"
        if v % 5 == 0 and name in state:
            del state[name]
        else:
            state[name] = v
        items.append((v, sorted(state.items())))
        lists[v % 2] = [*lists[v % 2], v][-3:]
        rows.append(lists[v % 2])
    assert [(v, sorted(found.items())) for v, found in outputs["items"]] == items
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


# -- time ------------------------------------------------------------------------------------------


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
        ctx.timer("quiet", after="50ms")
        ctx.state += 1
        return iter(())

    @quiet.on_timer("quiet")
    def silence(ctx: sf.Context[str, int]) -> Iterator[Any]:
        yield ctx.state

    quiet.to(topic("out"))
    return flow


def without_waits(schedule: Schedule) -> Schedule:
    """Only what lies between two lives takes time: then no timer may fire before the backlog is read."""
    order = replace(schedule.order, delay_rate=0.0, reading_seconds=0.0)
    return replace(
        schedule, order=order, faults=Faults(), feed_seconds=0.0, store_seconds=0.0, restart_seconds=0.5, files=False
    )


def check_backlog(inputs: Inputs, outputs: Outputs) -> None:
    assert outputs["out"] == [len(inputs["a"])] if inputs["a"] else not outputs["out"]


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
