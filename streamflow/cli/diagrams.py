"""A graph for other programs: mermaid, dot, and plain data for JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from streamflow.cli.facts import kind_of, label_of, state_of, words_of
from streamflow.cli.holding import longest_hold
from streamflow.cli.output import one_line
from streamflow.flow.flow import PathGuarantee
from streamflow.graph import SINK, SOURCE, Graph, Step

_MERMAID_SHAPES: Final = {SOURCE: ('(["', '"])'), SINK: ('[["', '"]]'), "state": ('[("', '")]')}
_DOT_SHAPES: Final = {SOURCE: "oval", SINK: "box3d", "state": "cylinder"}


def mermaid(graph: Graph) -> str:
    """A flowchart for Markdown pages that draw mermaid."""
    ids = _ids(graph)
    lines = ["flowchart TD"]
    for step in graph.steps:
        before, after = _MERMAID_SHAPES.get(_shape(step), ('["', '"]'))
        text = "<br/>".join(_mermaid_text(part) for part in _texts(step))
        lines.append(f"    {ids[step.id]}{before}{text}{after}")
    for above, below, label in _edges(graph):
        arrow = f'-->|"{_mermaid_text(label)}"|' if label else "-->"
        lines.append(f"    {ids[above]} {arrow} {ids[below]}")
    lines += [f"    {ids[table]} -.-> {ids[step.id]}" for step in graph.steps for table in step.reads]
    return "\n".join(lines)


def dot(graph: Graph) -> str:
    """A digraph for Graphviz."""
    ids = _ids(graph)
    lines = [f"digraph {_quoted(graph.flow)} {{", "    node [shape=box];"]
    for step in graph.steps:
        label = "\\n".join(_escaped(part) for part in _texts(step))
        lines.append(f'    {ids[step.id]} [label="{label}", shape={_DOT_SHAPES.get(_shape(step), "box")}];')
    for above, below, label in _edges(graph):
        lines.append(f"    {ids[above]} -> {ids[below]}" + (f" [label={_quoted(label)}];" if label else ";"))
    lines += [f"    {ids[table]} -> {ids[step.id]} [style=dashed];" for step in graph.steps for table in step.reads]
    return "\n".join([*lines, "}"])


def as_data(graph: Graph, guarantees: Sequence[PathGuarantee]) -> dict[str, Any]:
    """The graph as plain data."""
    return {
        "flow": graph.flow,
        "fingerprint": graph.fingerprint(),
        "steps": [_step_data(graph, step) for step in graph.steps],
        "barrier_hold": [{"step": hold.step, "seconds": hold.seconds} for hold in longest_hold(graph)],
        "guarantees": [
            {
                "source": path.source,
                "sink": path.sink,
                "given": str(path.given),
                "asked": str(path.asked),
                "kept": path.kept,
                "source_reason": path.reasons[0],
                "sink_reason": path.reasons[1],
            }
            for path in guarantees
        ],
    }


def _step_data(graph: Graph, step: Step) -> dict[str, Any]:
    data: dict[str, Any] = {
        "id": step.id,
        "kind": kind_of(step),
        "name": step.name,
        "keyed": step.keyed,
        "inputs": [{"step": port.step, "output": port.out, "label": label_of(graph, port)} for port in step.inputs],
    }
    if step.reads:
        data["reads"] = list(step.reads)
    if "on_error" in step.options:
        data["on_error"] = str(step.options["on_error"])
    if step.kind in (SOURCE, SINK):
        data["connector"] = one_line(step.options["spec"].describe())
    if step.traits.stateful:
        data["state"] = state_of(step)
    return data


def _ids(graph: Graph) -> dict[str, str]:
    return {step.id: f"n{at}" for at, step in enumerate(graph.steps)}


def _edges(graph: Graph) -> Iterator[tuple[str, str, str]]:
    for step in graph.steps:
        for port in step.inputs:
            yield port.step, step.id, label_of(graph, port)


def _shape(step: Step) -> str:
    return "state" if step.traits.stateful else step.kind


def _texts(step: Step) -> list[str]:
    parts = [step.name, kind_of(step), one_line(words_of(step))]
    return [part for part in parts if part]


def _mermaid_text(text: str) -> str:
    for char, code in (("&", "&amp;"), ('"', "&quot;"), ("<", "&lt;"), (">", "&gt;"), ("|", "&#124;")):
        text = text.replace(char, code)
    return text


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def _quoted(text: str) -> str:
    return f'"{_escaped(text)}"'
