"""``streamflow checkpoints``: shows the last epochs that a flow committed."""

from __future__ import annotations

import click

from streamflow.cli.options import with_json, with_target


@click.command("checkpoints", short_help="Show the last committed epochs.")
@with_target
@click.option("--last", type=click.IntRange(1, 1000), default=20, show_default=True, help="How many epochs.")
@with_json
def command(target: str, last: int, as_json: bool) -> None:
    """Shows the last epochs of the flow TARGET, newest first; may be used while the flow runs.

    Each epoch is one commit: when it was made, how many records it took, how many state entries it changed, the bytes
    of state and outputs, how long it took, and its digest.
    """
    import datetime

    from streamflow.cli.output import echo_json, echo_table, size
    from streamflow.cli.target import load
    from streamflow.state.reader import checkpoints

    rows = checkpoints(load(target).state_path, last)
    times = [datetime.datetime.fromtimestamp(row.at_ms / 1000).astimezone() for row in rows]
    if as_json:
        names = ("epoch", "number", "generation", "records", "entries", "size_bytes", "duration_ms")
        echo_json(
            [
                {"at": at.isoformat(timespec="milliseconds")}
                | {name: getattr(row, name) for name in names}
                | {"digest": row.digest.hex()}
                for row, at in zip(rows, times, strict=True)
            ]
        )
        return
    cells = [
        (
            row.epoch,
            at.isoformat(" ", "milliseconds")[:23],
            row.records,
            row.entries,
            size(row.size_bytes),
            f"{row.duration_ms:.1f} ms",
            row.digest.hex()[:16],
        )
        for row, at in zip(rows, times, strict=True)
    ]
    echo_table(["epoch", "committed at", "records", "entries", "size", "took", "digest"], cells)
