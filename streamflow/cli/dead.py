"""``streamflow dead``: looks at records that a policy put aside, puts them in again, or lets them go."""

from __future__ import annotations

import base64
import datetime
import json
from typing import TYPE_CHECKING, Any

import click

from streamflow.cli.options import with_json, with_target

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from streamflow.flow import Flow
    from streamflow.state.dead import StoredLetter

SHOWN_BYTES = 2_000
ACTIONS = ("list", "show", "requeue", "drop", "export")


@click.command("dead", short_help="Look at dead letters, put them in again, or drop them.")
@with_target
@click.argument("action", type=click.Choice(ACTIONS), default="list")
@click.argument("arguments", nargs=-1)
@click.option("--fix", help="MODULE:FUNCTION from bytes to bytes, for requeue: what is put in instead.")
@click.option("--all", "every", is_flag=True, help="All of them, for requeue and drop.")
@click.option("--everywhere", is_flag=True, help="Requeue although the record then also does again what was done.")
@click.option("--limit", type=click.IntRange(1, 1_000_000), default=100, show_default=True, help="Most to list.")
@with_json
def command(target: str, action: str, arguments: tuple[str, ...], **given: Any) -> None:
    r"""Records of the flow TARGET that ``on_error=sf.dead_letter`` put aside, as they came, with the error.

    \b
    list              what there is; may be used while the flow runs, as may show and export
    show N            one letter whole: bytes, headers, key, place, error, traceback
    requeue N...      the next run takes the records in again, and the commit that does so removes the letters
    drop N...         removes letters
    export FILE       all of them as JSON lines, payloads in base64
    """
    from streamflow.cli.target import load

    flow = load(target)
    if action == "list":
        _expect(action, arguments, 0)
        _list(flow, given["limit"], as_json=given["as_json"])
    elif action == "show":
        _expect(action, arguments, 1)
        _show(flow, _ids(arguments)[0], as_json=given["as_json"])
    elif action == "export":
        _expect(action, arguments, 1)
        _export(flow, arguments[0], as_json=given["as_json"])
    else:
        ids = _chosen(flow, action, arguments, every=given["every"])
        _change(flow, action, ids, given["fix"], everywhere=given["everywhere"], as_json=given["as_json"])


def _expect(action: str, arguments: Sequence[str], count: int) -> None:
    from streamflow.cli.failing import UsageError

    if len(arguments) != count:
        takes = {0: "nothing", 1: "one thing"}[count]
        raise UsageError(f"dead {action} takes {takes} more", hint="See: streamflow dead --help.")


def _ids(arguments: Sequence[str]) -> list[int]:
    from streamflow.cli.failing import UsageError

    wrong = [text for text in arguments if not (text.isascii() and text.isdigit() and len(text) < 19)]
    if wrong:
        raise UsageError(f"{wrong[0]!r:.60} is no number of a dead letter", hint="List them: dead TARGET list.")
    return [int(text) for text in dict.fromkeys(arguments)]


def _chosen(flow: Flow, action: str, arguments: Sequence[str], *, every: bool) -> list[int]:
    from streamflow.cli.failing import UsageError

    if every == bool(arguments):
        raise UsageError(f"dead {action} needs numbers, or --all", hint=f"Write: streamflow dead TARGET {action} 17.")
    return [found.id for found in _letters(flow)] if every else _ids(arguments)


def _letters(flow: Flow, ids: Sequence[int] = (), limit: int | None = None) -> list[StoredLetter]:
    from streamflow.cli.stored import check_name
    from streamflow.state.dead import LISTED_MAX
    from streamflow.state.reader import dead_letters

    owner, found = dead_letters(flow.state_path, ids, limit or LISTED_MAX)
    check_name(flow, owner)
    return found


def _list(flow: Flow, limit: int, *, as_json: bool) -> None:
    from streamflow.cli.output import echo_json, echo_table, one_line

    found = _letters(flow, limit=limit)
    if as_json:
        echo_json([as_data(letter) for letter in found])
        return
    rows = [
        (
            f"{one.id}{'*' if one.requeued is not None else ''}",
            _time(one)[:19],
            f"{one.letter.kind} {one.letter.name}",
            one.letter.source,
            _place(one),
            one_line(one.letter.error)[:100],
        )
        for one in found
    ]
    echo_table(["letter", "put aside at", "by", "source", "position", "error"], rows)
    if any(one.requeued is not None for one in found):
        click.echo("* the next run takes it in again")


def _time(one: StoredLetter) -> str:
    return datetime.datetime.fromtimestamp(one.at_ms / 1000).astimezone().isoformat(" ", "milliseconds")


def _place(one: StoredLetter) -> str:
    letter = one.letter
    at = letter.id or ("" if letter.position is None else str(letter.position))
    return f"{letter.partition}:{at}" if letter.partition else at


def _show(flow: Flow, id: int, *, as_json: bool) -> None:
    from streamflow.cli.output import echo_json, printable
    from streamflow.errors import StateError

    found = _letters(flow, [id])
    if not found:
        raise StateError(f"there is no dead letter {id}", hint="List them: streamflow dead TARGET list.")
    (one,) = found
    if as_json:
        echo_json(as_data(one))
        return
    letter = one.letter
    shown, rest = letter.payload[:SHOWN_BYTES], len(letter.payload) - SHOWN_BYTES
    facts = {
        "letter": str(one.id),
        "put aside": f"{_time(one)}, by {letter.kind} {letter.name}, epoch {one.epoch}",
        "source": f"{letter.source} {_place(one)}".strip() or "none: a timer",
        "key": "" if letter.key is None else repr(letter.key),
        "headers": ", ".join(f"{name}: {value}" for name, value in (letter.headers or {}).items()),
        "payload": shown.decode("utf-8", "backslashreplace") + (f" ... and {rest:,} bytes" if rest > 0 else ""),
        "requeued": "" if one.requeued is None else one.requeued[:SHOWN_BYTES].decode("utf-8", "backslashreplace"),
        "error": letter.error,
    }
    for name, text in facts.items():
        if text:
            click.echo(f"{name:<10} {printable(text)}")
    if letter.traceback:
        click.echo("")
        for line in letter.traceback.splitlines():
            click.echo(printable(line))


def _export(flow: Flow, file: str, *, as_json: bool) -> None:
    from pathlib import Path

    from streamflow.cli.output import echo_json, plural
    from streamflow.errors import SettingsError

    found = _letters(flow)
    try:
        with Path(file).open("x", encoding="utf-8") as out:
            for one in found:
                out.write(json.dumps(as_data(one)) + "\n")
    except OSError as error:
        raise SettingsError(f"{file} cannot be written: {error.strerror}", hint="Name a new file.") from error
    if as_json:
        echo_json({"letters": len(found), "file": file})
    else:
        click.echo(f"{plural(len(found), 'dead letter')} written to {file}")


def as_data(one: StoredLetter) -> Mapping[str, Any]:
    """A letter as plain data; bytes in base64."""
    letter = one.letter
    return {
        "letter": one.id,
        "epoch": one.epoch,
        "at": datetime.datetime.fromtimestamp(one.at_ms / 1000, datetime.UTC).isoformat(timespec="milliseconds"),
        "kind": letter.kind,
        "name": letter.name,
        "source": letter.source,
        "partition": letter.partition,
        "position": letter.position,
        "id": letter.id,
        "key": _base64(letter.key),
        "headers": dict(letter.headers or {}),
        "timestamp_ms": letter.timestamp_ms,
        "payload": _base64(letter.payload),
        "error": letter.error,
        "traceback": letter.traceback,
        "requeued": _base64(one.requeued),
    }


def _base64(data: bytes | None) -> str | None:
    return None if data is None else base64.b64encode(data).decode("ascii")


def _change(flow: Flow, action: str, ids: Sequence[int], fix: str | None, *, everywhere: bool, as_json: bool) -> None:
    import asyncio

    from streamflow.cli.failing import UsageError
    from streamflow.cli.output import echo_json, plural
    from streamflow.errors import StateLockedError

    if (fix is not None or everywhere) and action != "requeue":
        name = "--everywhere" if fix is None else "--fix"
        raise UsageError(f"{name} belongs to requeue", hint="Leave it out.")
    requeue = _requeued(flow, ids, fix, everywhere=everywhere) if action == "requeue" else {}
    try:
        asyncio.run(_write(flow, [] if action == "requeue" else ids, requeue))
    except StateLockedError as error:
        raise StateLockedError(
            f"{error.message}; dead {action} needs the flow to rest",
            hint="Stop the flow first, or call run.requeue and run.drop in its process.",
        ) from error
    if as_json:
        echo_json({"action": action, "letters": list(ids)})
    elif action == "drop":
        click.echo(f"{plural(len(ids), 'dead letter')} dropped")
    else:
        click.echo(f"{plural(len(ids), 'record')} will be taken in again by the next run of {flow.name}")


def _requeued(flow: Flow, ids: Sequence[int], fix: str | None, *, everywhere: bool) -> dict[int, bytes]:
    import asyncio

    from streamflow.cli.failing import UsageError
    from streamflow.cli.target import load_function
    from streamflow.errors import StepError
    from streamflow.runtime.requeue import fixed

    change: Callable[[bytes], Any] | None = None if fix is None else load_function(fix)
    found = {}
    letters = _letters(flow, ids)
    for one in letters:
        try:
            found[one.id] = one.letter.payload if change is None else fixed(one, change)
        except StepError as error:
            raise UsageError(f"--fix {fix}: {error.message}", hint=error.hint) from error
    asyncio.run(_try_to_revive(flow, letters, found, everywhere=everywhere))
    for id in ids:
        found.setdefault(id, b"")  # the store says that there is no such letter
    return found


async def _try_to_revive(
    flow: Flow, letters: Sequence[StoredLetter], payloads: Mapping[int, bytes], *, everywhere: bool
) -> None:
    """Raises here what the next run would not get over."""
    from streamflow.runtime.requeue import revived

    job = flow.job()
    for one in letters:
        await revived(job.plan.graph, one, payloads[one.id], job.clock.now_ms(), everywhere=everywhere)


async def _write(flow: Flow, drop: Sequence[int], requeue: Mapping[int, bytes]) -> None:
    from streamflow.runtime.engine import Engine

    job = flow.job()
    await job.store.open(job.manifest(Engine(job).bound))
    try:
        await job.store.edit_dead(drop, requeue)
    finally:
        await job.store.close()
