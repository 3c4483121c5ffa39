"""Cells of wiring: merges, splits, expansion, batch stages, and every kind of source and sink."""

from __future__ import annotations

from collections import Counter
from typing import Any

import streamflow as sf
from streamflow.flow import Flow
from tests.simulation.cell import Inputs, Outputs, counts, in_order, key, topic

# -- linear, merged, split -------------------------------------------------------------------------


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


# -- expansion, boundaries, duplicates -------------------------------------------------------------


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


# -- kinds of sources and sinks --------------------------------------------------------------------


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
    merged = flow.source(topic("a", ids=True)).merge(flow.source(topic("b")))
    merged.key_by(lambda v: v // 1000).count(name="counted").to(topic("count", list[Any]))
    merged.to(topic("out"))
    return flow


def check_pushes(inputs: Inputs, outputs: Outputs) -> None:
    assert sorted(v for v in outputs["out"] if v < 1000) == list(inputs["a"])
    assert Counter(v for v in outputs["out"] if v >= 1000) == Counter(inputs["b"])
    for at in (0, 1):
        there = sum(v // 1000 == at for v in outputs["out"])
        assert [n for source, n in outputs["count"] if source == at] == list(range(1, there + 1))
