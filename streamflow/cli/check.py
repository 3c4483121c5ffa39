"""``streamflow check``: probes every broker and the state file; fences, declares and moves nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from streamflow.cli.options import with_json, with_target

if TYPE_CHECKING:
    from streamflow.cli.probing import Finding
    from streamflow.flow import Flow

CONNECTOR_PROBLEM: Final = 4
STATE_PROBLEM: Final = 5


@click.command("check", short_help="Probe every broker and the state file.")
@with_target
@with_json
def command(target: str, as_json: bool) -> None:
    """Probes every source and sink of the flow TARGET, and its state file, and whether the two still fit each other.

    Nothing is fenced, declared, locked or moved, so it may be done while the flow runs. Exit codes: 0 all is well, 4
    a source or sink cannot be used, 5 the state file cannot.
    """
    import asyncio

    from streamflow.cli.probing import probe_all
    from streamflow.cli.target import load
    from streamflow.state.reader import committed_positions

    flow = load(target)
    flow.check_guarantees()
    state = _state_row(flow)
    committed = committed_positions(flow.state_path) if "epoch" in state["facts"] else {}
    rows = [_connector_row(finding) for finding in asyncio.run(probe_all(flow.graph(), committed))]
    rows.append(state)
    _tell(flow, rows, as_json=as_json)
    bad = [row["kind"] for row in rows if not row["ok"]]
    if bad:
        click.get_current_context().exit(STATE_PROBLEM if bad == ["state"] else CONNECTOR_PROBLEM)


def _connector_row(finding: Finding) -> dict[str, Any]:
    from streamflow.cli.output import one_line

    probe = finding.probe
    return {
        "kind": finding.kind,
        "name": finding.name,
        "what": one_line(finding.what),
        "ok": probe.ok,
        "facts": {name: one_line(str(fact)) for name, fact in probe.facts.items()},
        "problem": one_line(probe.problem),
        "hint": one_line(probe.hint),
    }


def _state_row(flow: Flow) -> dict[str, Any]:
    from streamflow.cli.output import one_line
    from streamflow.cli.stored import manifest_of
    from streamflow.errors import StateError
    from streamflow.state.fitting import check_fit
    from streamflow.state.reader import describe

    row: dict[str, Any] = {"kind": "state", "name": flow.name, "what": f"file {flow.state_path}", "ok": True}
    row |= {"facts": {}, "problem": "", "hint": ""}
    try:
        if check_fit(flow.state_path, manifest_of(flow)):
            store = describe(flow.state_path)
            entries = sum(table.entries for table in store.tables.values())
            waiting = sum(sink.frames for sink in store.sinks.values())
            row["facts"] = {"epoch": str(store.epoch), "entries": str(entries), "unpublished": str(waiting)}
            row["facts"]["closed"] = "cleanly" if store.clean else "not cleanly, or in use"
        else:
            row["facts"] = {"file": "to be made"}
    except StateError as error:
        row |= {"ok": False, "problem": one_line(error.message), "hint": one_line(error.hint)}
    return row


def _tell(flow: Flow, rows: list[dict[str, Any]], *, as_json: bool) -> None:
    from streamflow.cli.output import echo_json, echo_table

    if as_json:
        echo_json({"flow": flow.name, "ok": all(row["ok"] for row in rows), "checks": rows})
        return
    cells = []
    for row in rows:
        facts = ", ".join(f"{name} {fact}" for name, fact in row["facts"].items())
        cells.append([row["kind"], row["name"], row["what"], "ok" if row["ok"] else "PROBLEM", facts])
    echo_table(["", "name", "what", "result", "found"], cells)
    for row in rows:
        if not row["ok"]:
            click.echo("")
            click.echo(f"{row['kind']} {row['name']}: {row['problem']}")
            if row["hint"]:
                click.echo(f"  hint: {row['hint']}")
