"""``streamflow explain``: shows the graph of a flow, what each path guarantees, and what will run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from streamflow.cli.holding import longest_hold
from streamflow.cli.options import with_json, with_target

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from streamflow.flow import Flow
    from streamflow.flow.flow import PathGuarantee
    from streamflow.plan import Plan


@click.command("explain", short_help="Show the graph of a flow and what it guarantees.")
@with_target
@click.option("--format", "form", type=click.Choice(["text", "mermaid", "dot", "json"]), default="text")
@click.option("--plan", "with_plan", is_flag=True, help="Show the stages too, and the loop generated for each.")
@with_json
def command(target: str, form: str, with_plan: bool, as_json: bool) -> None:
    """Shows the graph of the flow TARGET, its state names, and the guarantee of each path with the reason.

    A path that cannot keep what is asked of it is an error: the graph is printed first, and the exit code is 3.
    """
    from streamflow.cli import diagrams
    from streamflow.cli.output import draws, echo_json
    from streamflow.cli.target import load

    flow = load(target)
    graph, guarantees = flow.graph(), flow.guarantees()
    if as_json or form == "json":
        data = diagrams.as_data(graph, guarantees)
        echo_json(data | {"plan": _plan_data(flow.plan())} if with_plan else data)
    elif form == "text":
        for line in _text(flow, guarantees, lines=draws()):
            click.echo(line)
    else:
        click.echo(diagrams.mermaid(graph) if form == "mermaid" else diagrams.dot(graph))
    if with_plan and form == "text" and not as_json:
        for line in _plan_lines(flow.plan()):
            click.echo(line)
    flow.check_guarantees()


def _text(flow: Flow, guarantees: Sequence[PathGuarantee], *, lines: bool) -> Iterator[str]:
    from streamflow.cli.picture import ASCII, LINES, picture

    yield f"flow {flow.name}, state in {flow.state_path}"
    yield ""
    yield from picture(flow.graph(), lines=lines)
    yield ""
    yield from _guarantee_lines(flow, guarantees, LINES.arrow if lines else ASCII.arrow)
    yield from _hold_lines(flow)


def _guarantee_lines(flow: Flow, guarantees: Sequence[PathGuarantee], arrow: str) -> Iterator[str]:
    from streamflow.graph import SINK, SOURCE

    yield "guarantees" if guarantees else "no path leads from a source to a sink, so nothing is guaranteed"
    ends = [f"{path.source} {arrow}{path.sink}" for path in guarantees]
    for end, path in zip(ends, guarantees, strict=True):
        asked = f"asked for: {path.asked}" if path.asked is not path.given else ""
        verdict = asked if path.kept else f"BROKEN, {asked}"
        yield f"  {end.ljust(max(map(len, ends)))}  {str(path.given).ljust(16)}  {verdict}".rstrip()
    graph = flow.graph()
    parts = [(step, step.options["spec"].guarantee) for step in graph.of_kind(SOURCE)]
    parts += [(step, step.options["spec"].sink_guarantee) for step in graph.of_kind(SINK)]
    names = [f"{step.kind} {step.name}" for step, _ in parts]
    yield ""
    yield "because"
    for name, (_, part) in zip(names, parts, strict=True):
        yield f"  {name.ljust(max(map(len, names)))}  {str(part.level).ljust(16)}  {part.reason}"


def _hold_lines(flow: Flow) -> Iterator[str]:
    """How long a commit can wait for users' awaits, and for whose."""
    holds = longest_hold(flow.graph())
    if not holds:
        return
    total = sum(hold.seconds for hold in holds)
    where = " and then ".join(f"{hold.step} ({hold.seconds:g} s)" for hold in holds)
    yield ""
    yield f"a commit waits for the calls before it, for up to {total:g} s: {where}"


def _plan_lines(plan: Plan) -> Iterator[str]:
    for stage in _plan_data(plan):
        yield ""
        what = "one async step" if stage["awaits"] else "one batch function" if stage["boundary"] else "one loop"
        yield f"stage {stage['stage']}: {what} for {', '.join(stage['steps']) or 'nothing but passing on'}"
        yield f"  reads  {', '.join(stage['reads'])}"
        yield f"  writes {', '.join(stage['writes']) or 'nothing'}"
        if stage["loop"]:
            yield ""
            yield from (f"    {line}" for line in stage["loop"].splitlines())


def _plan_data(plan: Plan) -> list[dict[str, Any]]:
    from streamflow.plan import loop_text

    return [
        {
            "stage": stage.index,
            "steps": [step.name for step in stage.steps],
            "boundary": stage.boundary,
            "awaits": stage.awaits,
            "reads": [f"{port.step}" + (f".{port.out}" if port.out else "") for port in stage.entries],
            "writes": [f"sink:{end.name}" if end.edge is None else f"stage {end.edge.target}" for end in stage.exits],
            "loop": "" if stage.boundary else loop_text(plan.graph, stage).text,
        }
        for stage in plan.stages
    ]
