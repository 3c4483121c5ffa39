"""``streamflow state``: asks the committed state of a flow, in SQL that can only read."""

from __future__ import annotations

import datetime
import re
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import click

from streamflow.cli.options import with_json, with_target

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streamflow.flow import Flow
    from streamflow.state.reader import Answer

_INTEGER: Final = re.compile(r"-?\d{1,18}")


@click.command("state", short_help="Query the committed state with SQL.")
@with_target
@click.argument("sql", required=False)
@click.argument("parameters", nargs=-1)
@click.option("--limit", type=click.IntRange(1, 1_000_000), default=1000, show_default=True, help="Most rows.")
@click.option("--seconds", type=click.FloatRange(0.1, 3600), default=10.0, show_default=True, help="Longest time.")
@click.option("--backup", type=click.Path(), help="Copy the state as of its last commit to this new file instead.")
@with_json
def command(target: str, sql: str | None, parameters: tuple[str, ...], **given: Any) -> None:
    """Runs one SELECT on the state of the flow TARGET, as of its last commit; may be used while the flow runs.

    Each stateful step is a view of its name with the columns key, value and expires_ms (maps and lists: sub too);
    values are JSON: json_extract(value, '$.field'). PARAMETERS fill the question marks of the SQL, integers as
    numbers. Without SQL, lists the steps and how much they hold.
    """
    from streamflow.cli.target import load
    from streamflow.state.reader import Limits, query

    flow = load(target)
    if given["backup"] is not None:
        _back_up(flow, given["backup"], asked_more=sql is not None)
        return
    if sql is None:
        _list(flow, as_json=given["as_json"])
        return
    values = [int(text) if _INTEGER.fullmatch(text) else text for text in parameters]
    answer = query(flow.state_path, sql, values, Limits(rows=given["limit"], seconds=given["seconds"]))
    _tell(answer, as_json=given["as_json"])
    if answer.cut:
        click.echo(f"only the first {len(answer.rows)} rows are shown; raise --limit for more", err=True)


def _back_up(flow: Flow, to: str, *, asked_more: bool) -> None:
    from streamflow.cli.failing import UsageError
    from streamflow.state.files import backup

    if asked_more:
        raise UsageError("--backup takes no SQL", hint="Write: streamflow state TARGET --backup FILE.")
    backup(flow.state_path, to)
    click.echo(f"{flow.state_path} is copied to {to}. To go back to it, put it in place and run with --accept-missing.")


def _tell(answer: Answer, *, as_json: bool) -> None:
    from streamflow.cli.output import echo_json, echo_table

    if as_json:
        names = _unique(answer.columns)
        rows = [dict(zip(names, row, strict=True)) for row in answer.rows]
        echo_json({"rows": rows, "cut": answer.cut})
    else:
        echo_table(answer.columns, answer.rows)


def _unique(columns: Sequence[str]) -> list[str]:
    """Column names as keys of an object: a name that comes again gets a number."""
    seen: Counter[str] = Counter()
    names = []
    for column in columns:
        seen[column] += 1
        names.append(column if seen[column] == 1 else f"{column}_{seen[column]}")
    return names


def _list(flow: Flow, *, as_json: bool) -> None:
    from streamflow.cli.output import echo_json, echo_table, printable
    from streamflow.cli.stored import facts_of

    facts = facts_of(flow)
    if as_json:
        tables = [
            {"step": name, "view": table.view, "kind": table.kind, "entries": table.entries}
            for name, table in facts.tables.items()
        ]
        sources = {name: dict(partitions) for name, partitions in facts.positions.items()}
        clocks = {
            name: {part: {"at": _moment(at), "idle": idle} for part, (at, idle) in parts.items()}
            for name, parts in facts.clocks.items()
        }
        sinks = {name: {"unpublished": sink.frames, "next_seq": sink.next_seq} for name, sink in facts.sinks.items()}
        answer = {"flow": facts.flow, "epoch": facts.epoch, "tables": tables, "positions": sources, "sinks": sinks}
        echo_json({**answer, "event_time": clocks})
        return
    click.echo(f"flow {printable(facts.flow)}, epoch {facts.epoch:,}, in {flow.state_path}")
    click.echo("")
    views = [(table.view, table.kind, table.entries) for table in facts.tables.values()]
    echo_table(["view", "kind", "entries"], views)
    if facts.positions or facts.ids:
        click.echo("")
        positions = [(name, part, at) for name, parts in facts.positions.items() for part, at in parts.items()]
        echo_table(["source", "partition", "position"], [*positions, *((name, "", None) for name in facts.ids)])
    if facts.clocks:
        click.echo("")
        times = [
            (name, part, _moment(at), "idle" if idle else "")
            for name, parts in facts.clocks.items()
            for part, (at, idle) in parts.items()
        ]
        echo_table(["source", "partition", "event time", ""], times)
    if facts.sinks:
        click.echo("")
        rows = [(name, sink.next_seq, sink.frames) for name, sink in facts.sinks.items()]
        echo_table(["sink", "next record", "unpublished"], rows)


def _moment(at_us: int) -> str | None:
    """An event time for people; None where there was none yet."""
    moment = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    try:
        return (moment + datetime.timedelta(microseconds=at_us)).isoformat()
    except OverflowError:
        return None
