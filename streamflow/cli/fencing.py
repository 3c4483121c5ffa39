"""Fencing from the command line: takes a flow's sinks away from every older instance."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from streamflow.connect.contracts import Sink, SinkContext
from streamflow.errors import ConnectorError, StreamflowError
from streamflow.flow import Flow
from streamflow.graph import SINK, Step
from streamflow.runtime.outbox import new_sink
from streamflow.state.lock import FileLock
from streamflow.state.reader import StoreFacts

SHARD = 0
"""The one shard that there is."""


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds the lock of a state file, so that no flow starts on it meanwhile.

    Raises:
        StateLockedError: A flow runs on it.
    """
    if not path.parent.is_dir():
        yield
        return
    lock = FileLock(path.with_name(path.name + ".lock"))
    lock.acquire()
    try:
        yield
    finally:
        lock.release()


def refuse_unless_gone(flow: Flow, facts: StoreFacts) -> None:
    """Refuses where the state has published to a sink that the flow does not have any more: nobody can fence it.

    Raises:
        ConnectorError: Naming the sink.
    """
    gone = sorted(facts.sinks.keys() - {step.name for step in flow.graph().of_kind(SINK)})
    if gone:
        raise ConnectorError(
            f"sink {gone[0]!r} is in the state file but not in the flow, so it cannot be fenced",
            hint="Put it back for the reset; or stop every instance of this flow, and reset with --offline.",
        )


async def fence_all(flow: Flow, facts: StoreFacts) -> list[str]:
    """Opens every sink that the state has published to, under its old name, as a newer instance; then closes it.

    Returns:
        Names of the sinks.

    Raises:
        ConnectorError: One of them could not be fenced; those before it were.
    """
    steps = [step for step in flow.graph().of_kind(SINK) if step.name in facts.sinks]
    await asyncio.gather(*(_fence(flow, step, facts) for step in steps))
    return [step.name for step in steps]


async def _fence(flow: Flow, step: Step, facts: StoreFacts) -> None:
    ctx = SinkContext(flow.name, step.name, SHARD, facts.incarnation, facts.generation + 1)
    sink: Sink = new_sink(step)
    try:
        await sink.open(ctx)
    except (StreamflowError, OSError) as error:
        raise ConnectorError(
            f"sink {step.name!r} could not be fenced, so nothing was deleted: {error}",
            hint="Bring its broker back; or stop every instance of this flow, and reset with --offline.",
        ) from error
    finally:
        await sink.close()
