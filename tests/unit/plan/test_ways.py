"""What a record that enters again does besides getting to the step that refused it."""

from __future__ import annotations

from typing import Any

import pytest

import streamflow as sf
from streamflow.graph import SOURCE
from streamflow.plan.ways import other_ways


def same(v: Any) -> Any:
    return v


async def later(v: int) -> int:
    return v


async def many(v: int) -> list[int]:
    return [v]


def build(case: str, s: Any) -> Any:
    """The stream that the refusing step reads."""
    match case:
        case "straight" | "decoder":
            return s.filter(same, name="f").map(later, name="awaits").key_by(same, name="by")
        case "beside":
            s.map(same, name="sibling").to(sf.MemoryTopic("sibling"))
            return s
        case "a sink beside":
            kept = s.map(same, name="kept")
            kept.to(sf.MemoryTopic("beside"))
            return kept
        case "beside behind it":
            return s
        case "branch":
            left, right = s.branch(lambda v: v > 0, lambda v: v <= 0, name="signs")
            right.to(sf.MemoryTopic("right"))
            return left
        case "diamond":
            return s.map(same, name="a").merge(s.map(same, name="b"), name="both")
        case "merged sources":
            return s.merge(s._flow.source(sf.MemoryTopic("other", value=int)), name="both")
        case "flat_map":
            return s.flat_map(lambda v: [v], name="lines")
        case "async flat_map":
            return s.flat_map(many, name="lines")
        case "state":
            return s.key_by(same, name="by").count(name="counted").map(lambda pair: pair[1], name="number")
        case "dedup":
            return s.dedup(by=same, within="1h", name="once")
        case "look-up":
            table = s._flow.source(sf.MemoryTopic("t", value=int)).key_by(same, name="tby").to_table(name="t", of=int)
            return s.key_by(same, name="by").join(table, name="found").map(lambda pair: pair[0], name="first")
        case "detached":
            return s.map(later, detached=True, name="slow")
        case "detached flat_map":
            return s.flat_map(many, detached=True, name="slow")
    raise AssertionError(case)


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("straight", []),
        ("decoder", []),
        ("beside", ["what source 'in' gives also goes to 'sibling'"]),
        ("a sink beside", ["what map 'kept' gives also goes to 'beside'"]),
        ("beside behind it", []),
        ("branch", []),
        ("diamond", ["what source 'in' gives gets there in 2 ways"]),
        ("merged sources", []),
        ("flat_map", ["flat_map 'lines' makes several records of one"]),
        ("async flat_map", ["async_flat_map 'lines' makes several records of one"]),
        ("state", ["count 'counted' has taken it into its state"]),
        ("dedup", ["dedup 'once' has taken it into its state"]),
        ("look-up", []),
        ("detached", []),
        ("detached flat_map", ["flat_map 'slow' makes several records of one"]),
    ],
)
def test_what_else_it_does(case, said):
    flow = sf.Flow("f")
    refusing = build(case, flow.source(sf.MemoryTopic("in", value=int))).map(same, name="strict")
    refusing.to(sf.MemoryTopic("out"))
    if case == "beside behind it":
        refusing.map(same, name="behind").to(sf.MemoryTopic("behind"))
        refusing.flat_map(lambda v: [v], name="lines").to(sf.MemoryTopic("lines"))
    if case == "decoder":
        build("beside", refusing)
    graph = flow.plan().graph
    source = next(step for step in graph.of_kind(SOURCE) if step.name == "in")
    target = "source:in" if case == "decoder" else "step:strict"
    assert other_ways(graph, source, target) == said


def test_a_detached_step_does_not_count_its_own_inputs():
    flow = sf.Flow("f")
    flow.source(sf.MemoryTopic("in", value=int)).map(later, detached=True, name="slow").to(sf.MemoryTopic("out"))
    graph = flow.plan().graph
    source = next(step for step in graph.of_kind(SOURCE) if step.name == "in")
    assert other_ways(graph, source, "step:slow") == []


def test_a_graph_that_has_changed_since():
    flow = sf.Flow("f")
    source = flow.source(sf.MemoryTopic("in", value=int))
    source.map(same, name="a").to(sf.MemoryTopic("out"))
    flow.source(sf.MemoryTopic("other", value=int)).map(same, name="b").to(sf.MemoryTopic("out2"))
    graph = flow.plan().graph
    step = next(step for step in graph.of_kind(SOURCE) if step.name == "in")
    assert other_ways(graph, step, "step:old") == ["'old' is gone, so that nobody knows how far the record had got"]
    assert other_ways(graph, step, "step:b") == ["no way leads from source 'in' to 'b' any more"]
    assert other_ways(graph, step, "sink:out") == []
