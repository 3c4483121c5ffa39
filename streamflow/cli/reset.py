"""``streamflow reset``: begins a flow anew, or adopts what a broker holds for one of its sinks."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from streamflow.cli.options import with_json, with_target

if TYPE_CHECKING:
    from streamflow.flow import Flow
    from streamflow.state.reader import StoreFacts


@click.command("reset", short_help="Delete the state, or adopt a sink's broker as it is.")
@with_target
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--offline", is_flag=True, help="Do not fence the brokers: an older instance could still publish.")
@click.option("--sink", help="Reset only this sink; needs --accept-head.")
@click.option("--accept-head", is_flag=True, help="Go on behind what the sink's broker holds now.")
@with_json
def command(target: str, sink: str | None, accept_head: bool, **given: Any) -> None:
    """Deletes the state of the flow TARGET, so that its next run begins anew.

    First every sink that this state has published to is fenced, so that an older instance, wherever it may still be
    alive, can publish no more; then the file is deleted. It is refused while the flow runs. What sinks already hold
    stays there: a new run publishes its results again.

    With --sink NAME --accept-head the state is kept. The sink's broker is taken as it is now: records that are
    committed and not published are dropped for that sink, and counted; the next run goes on behind its head.
    """
    from streamflow.cli.failing import UsageError
    from streamflow.cli.target import load

    if (sink is not None) != accept_head:
        raise UsageError(
            "--sink and --accept-head belong together", hint="Write: streamflow reset TARGET --sink NAME --accept-head."
        )
    if sink is not None and given["offline"]:
        raise UsageError("--accept-head has to ask the broker", hint="Leave --offline out.")
    flow = load(target)
    if sink is not None:
        _accept_head(flow, sink, yes=given["yes"], as_json=given["as_json"])
    else:
        _reset(flow, yes=given["yes"], offline=given["offline"], as_json=given["as_json"])


def _reset(flow: Flow, *, yes: bool, offline: bool, as_json: bool) -> None:
    import asyncio

    from streamflow.cli.fencing import fence_all, locked, refuse_unless_gone
    from streamflow.cli.output import echo_json
    from streamflow.state.files import destroy

    path = flow.state_path
    fenced: list[str] = []
    there = path.exists() or path.with_name(path.name + ".epoch").exists()
    if there:
        with locked(path):
            facts = _described(flow, offline=offline)
            _confirm(f"Delete {path} ({_content(facts)})?", yes=yes)
            if facts is not None and not offline:
                refuse_unless_gone(flow, facts)
                fenced = asyncio.run(fence_all(flow, facts))
        if offline:
            click.echo("warning: nothing was fenced: be sure that no other instance of this flow is alive.", err=True)
        destroy(path)
    names = f"; fenced: {', '.join(fenced)}" if fenced else ""
    if as_json:
        echo_json({"flow": flow.name, "deleted": str(path) if there else None, "fenced": fenced})
    elif there:
        click.echo(f"{path} is deleted{names}. The next run of {flow.name} begins anew.")
    else:
        click.echo(f"there is no state file {path}: nothing to reset.")


def _described(flow: Flow, *, offline: bool) -> StoreFacts | None:
    """What the state file holds; None if it cannot be told and need not be, because nothing is fenced.

    Raises:
        StateError: It cannot be read, so that nobody knows what to fence; or it is another flow's.
    """
    from streamflow.cli.stored import check_owner
    from streamflow.errors import StateError
    from streamflow.state.reader import describe

    try:
        facts = describe(flow.state_path)
    except StateError as error:
        if offline:
            return None
        raise StateError(
            f"{error.message}; so it is not known which sinks to fence",
            hint="Stop every instance of this flow, then add --offline, which fences nothing.",
        ) from error
    check_owner(flow, facts)
    return facts


def _content(facts: StoreFacts | None) -> str:
    from streamflow.cli.output import plural

    if facts is None:
        return "nobody can tell what it holds"
    entries = sum(table.entries for table in facts.tables.values())
    waiting = sum(sink.frames for sink in facts.sinks.values())
    unpublished = f", {plural(waiting, 'record')} committed and never published" if waiting else ""
    return f"epoch {facts.epoch:,}, {entries:,} state entries{unpublished}"


def _accept_head(flow: Flow, sink: str, *, yes: bool, as_json: bool) -> None:
    import asyncio

    from streamflow.cli.accept_head import accept_head
    from streamflow.cli.output import echo_json, plural

    _confirm(f"Take what the broker of sink {sink!r} holds as it is?", yes=yes)
    outcome = asyncio.run(accept_head(flow, sink))
    if as_json:
        echo_json(
            {
                "flow": flow.name,
                "sink": sink,
                "changed": outcome.changed,
                "refusal": outcome.refusal,
                "meaning": outcome.meaning,
                "dropped": outcome.dropped,
                "first_dropped": outcome.first_seq if outcome.dropped else None,
                "next_seq": outcome.next_seq,
            }
        )
    elif not outcome.changed:
        click.echo(f"sink {sink!r} and its broker agree: nothing was changed, and the next run publishes what waits.")
    else:
        last = outcome.first_seq + outcome.dropped - 1
        dropped = f"{plural(outcome.dropped, 'record')} (number {outcome.first_seq:,} to {last:,})"
        lost = f"{dropped} dropped" if outcome.dropped else "no record dropped"
        click.echo(f"sink {sink!r} goes on behind its broker's head, with record {outcome.next_seq:,}; {lost}.")
        click.echo(f"It had refused: {outcome.refusal}.")
        click.echo(outcome.meaning)


def _confirm(question: str, *, yes: bool) -> None:
    from streamflow.cli.failing import UsageError

    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError("reset asks before it deletes, and nobody is there to answer", hint="Add --yes.")
    click.confirm(question, abort=True)
