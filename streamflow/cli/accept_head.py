"""Accepting a head: makes the store agree with what a sink's broker holds, when the sink refuses to go on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from streamflow.batch import Chunk, Progress
from streamflow.cli.failing import UsageError
from streamflow.connect.contracts import Sink, SinkContext
from streamflow.errors import ConnectorError, Fenced, ForeignWriter, Refusal, SinkAhead
from streamflow.flow import Flow
from streamflow.graph import SINK, Step
from streamflow.runtime.engine import Engine
from streamflow.runtime.outbox import new_sink


@dataclass(frozen=True, slots=True)
class Outcome:
    """What accepting a head did.

    Args:
        changed: False if the sink refused nothing, so that there was nothing to accept.
        refusal: What the sink had refused.
        meaning: What may be lost or doubled by it.
        first_seq: The first record that the store did not know to be published.
        dropped: Records from there on that are committed and will never be published; the broker may hold some.
        next_seq: Number of the next record.
    """

    changed: bool
    refusal: str = ""
    meaning: str = ""
    first_seq: int = 1
    dropped: int = 0
    next_seq: int = 1


async def accept_head(flow: Flow, name: str) -> Outcome:
    """Opens store and sink, and stores the broker's head as the sink's progress if the sink refuses its own.

    GUARANTEE: what is stored was accepted by the sink itself, opened anew; else nothing is changed.

    Raises:
        UsageError: The flow has no such sink.
        StateLockedError: The flow runs.
        ConnectorError: The broker cannot be reached, or the connector cannot adopt its head.
    """
    step = _sink_step(flow, name)
    job = flow.job()
    checkpoint = await job.store.open(job.manifest(Engine(job).bound))
    try:

        async def read(chunk: Chunk) -> Chunk:
            return (await job.store.chunks(chunk.sink, chunk.first_seq, 1))[0]

        ctx = SinkContext(flow.name, name, 0, checkpoint.incarnation, checkpoint.generation, read=read)
        stored, pending = checkpoint.progress.get(name), tuple(checkpoint.pending.get(name, ()))
        refusal = await _refusal(step, ctx, stored, pending)
        first = stored.next_seq if stored is not None else 1
        end = max(first, *(chunk.end_seq for chunk in pending)) if pending else first
        if refusal is None:
            return Outcome(False, first_seq=first, next_seq=first)
        head = replace(await _head(step, ctx, refusal), epoch=checkpoint.epoch, next_seq=end)
        left = await _refusal(step, ctx, head, ())
        if left is not None:
            raise _cannot_adopt(step, left) from left
        await job.store.note({}, {name: head})
        return Outcome(True, refusal.message, _meaning(refusal), first, end - first, end)
    finally:
        await job.store.close()


def _meaning(refusal: Refusal) -> str:
    if isinstance(refusal, SinkAhead):
        return "What the broker holds beyond this state comes again when its input is read again: doubled."
    if isinstance(refusal, ForeignWriter):
        return "What the other writer wrote stays; whether dropped records arrived before it, nobody can tell."
    return "Nobody can tell which of the dropped records arrived: they may be lost."


def _sink_step(flow: Flow, name: str) -> Step:
    sinks = {step.name: step for step in flow.graph().of_kind(SINK)}
    if name not in sinks:
        raise UsageError(
            f"flow {flow.name!r} has no sink {name!r}", hint=f"Its sinks: {', '.join(sorted(sinks)) or 'none'}."
        )
    return sinks[name]


async def _refusal(step: Step, ctx: SinkContext, stored: Progress | None, pending: Sequence[Chunk]) -> Refusal | None:
    """What the sink, opened anew, says against going on from there."""
    sink: Sink = new_sink(step)
    try:
        await sink.open(ctx)
        await sink.recover(stored, pending)
    except Fenced:
        # not the broker's content but another instance: it must be stopped, not accepted
        raise
    except Refusal as refusal:
        return refusal
    finally:
        await sink.close()
    return None


async def _head(step: Step, ctx: SinkContext, refusal: Refusal) -> Progress:
    """The broker's head, as a sink that never published would see it."""
    sink: Sink = new_sink(step)
    try:
        await sink.open(ctx)
        return await sink.recover(None, ())
    except Refusal as error:
        raise _cannot_adopt(step, error) from refusal
    finally:
        await sink.close()


def _cannot_adopt(step: Step, error: Refusal) -> ConnectorError:
    return ConnectorError(
        f"{step.options['spec'].describe()} does not let its head be adopted: {error.message}",
        hint="Use the newest copy of the state file, or begin anew: streamflow reset.",
    )
