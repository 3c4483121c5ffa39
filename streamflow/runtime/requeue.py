"""Requeueing: a dead letter's record enters its source's stream again, with all that the letter holds of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from streamflow.batch import DeadLetter, SourceBatch
from streamflow.codecs import Codec, JsonCodec, Prepared
from streamflow.errors import DecodeError, StateError, StepError
from streamflow.graph import SOURCE, Graph, Step
from streamflow.plan.ways import other_ways
from streamflow.runtime.cut import Envelope, Pushed
from streamflow.runtime.decoding import as_read
from streamflow.runtime.event_time import PUSHES, SourceTimes, TimeRefused
from streamflow.state.store import Checkpoint, StoredLetter


async def requeued(graph: Graph, checkpoint: Checkpoint, pushes: Sequence[Pushed], now_ms: int) -> list[Pushed]:
    """The records that are to be taken in again, as pushes that take their letter out of the store.

    Args:
        graph: The flow.
        checkpoint: Says which.
        pushes: What is pushed already; a letter that an earlier life of the shard has pushed is among them.
        now_ms: The time.

    Raises:
        StreamflowError: As `revived` does; what else a record does was agreed to when it was marked.
    """
    waiting = {push.letter for push in pushes}
    again = []
    for found in checkpoint.requeued:
        if found.id not in waiting:
            push = await revived(graph, found, found.requeued or b"", now_ms, everywhere=True)
            push.done.add_done_callback(_heard)
            again.append(push)
    return again


def _heard(done: asyncio.Future[int]) -> None:
    """Nobody waits for what was requeued at rest: if the flow ends first, its own error is all there is to say."""
    if not done.cancelled():
        done.exception()


async def revived(
    graph: Graph, found: StoredLetter, payload: bytes, now_ms: int, *, everywhere: bool = False
) -> Pushed:
    """A dead letter's record, as a push that takes the letter out of the store.

    Args:
        graph: The flow.
        found: The letter.
        payload: The record's bytes, as they are or mended.
        now_ms: The time, against which its event time is held.
        everywhere: Take it in although it also does again what had been done with it.

    Raises:
        DecodeError: It cannot be decoded, or the flow has its source no more.
        StepError: It has no event time that can be used.
        StateError: It is no record of a source; or it would pass other ways besides.
    """
    source = _source(graph, found)
    ways = [] if everywhere else other_ways(graph, source, f"{found.letter.kind}:{found.letter.name}")
    if ways:
        raise StateError(
            f"dead letter {found.id} of {_who(found.letter)}: its record would enter at source {source.name!r} and do "
            f"more than is missing: {'; '.join(ways)}",
            hint="Let it do all of that again (everywhere=True, --everywhere), or drop the letter.",
        )
    letter = found.letter
    again = f"letter {found.epoch}.{found.id}"  # the same in every life until it is committed
    known = letter.key, letter.headers, letter.timestamp_ms
    envelope = Envelope(letter.partition, letter.position, letter.id or again, *known)
    value = as_read(source, await _decoded(source, found.id, payload), envelope)
    _check_time(source, found.id, value, payload, letter.timestamp_ms, now_ms)
    done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    return Pushed(source.name, value, payload, done, again, found.id, envelope)


def fixed(found: StoredLetter, fix: Callable[[bytes], bytes]) -> bytes:
    """What a function makes of a dead letter's bytes.

    Raises:
        StepError: It raises, or gives something else than bytes.
    """
    name = getattr(fix, "__qualname__", repr(fix))
    try:
        made: object = fix(found.letter.payload)
    except Exception as error:
        said = f"{name} raised {type(error).__name__} for dead letter {found.id}: {error}"
        raise StepError(said, step=found.letter.name, hint="Mend the function; nothing was requeued.") from error
    if not isinstance(made, bytes):
        said = f"{name} gave {made!r:.60} for dead letter {found.id}"
        raise StepError(said, step=found.letter.name, hint="It must give bytes.")
    return made


def _who(letter: DeadLetter) -> str:
    return f"{letter.kind} {letter.name!r}"


def _source(graph: Graph, found: StoredLetter) -> Step:
    letter = found.letter
    out = f"Drop it (streamflow dead TARGET drop {found.id})"
    if not letter.source and letter.kind == "sink":
        raise StateError(
            f"dead letter {found.id} was refused by the broker of sink {letter.name!r}, behind the commit: it holds an "
            "output of the flow, which no source can take in",
            hint=f"{out}; its bytes are in: streamflow dead TARGET export FILE.",
        )
    if not letter.source:
        raise StateError(
            f"dead letter {found.id} of {_who(letter)} is no record of a source: a timer, or the close of a window, "
            "had no record",
            hint=f"{out}.",
        )
    source = next((step for step in graph.of_kind(SOURCE) if step.name == letter.source), None)
    if source is None:
        raise DecodeError(
            f"dead letter {found.id} belongs to source {letter.source!r}, which is gone",
            step=letter.source,
            hint=f"{out}.",
        )
    return source


async def _decoded(source: Step, id: int, payload: bytes) -> object:
    codec: Codec[Any] = source.options["spec"].codec or JsonCodec[object](object)
    try:
        if isinstance(codec, Prepared):
            await codec.prepare_decoding([payload])
        return codec.decode(payload)
    except Exception as error:
        raise DecodeError(
            f"dead letter {id} cannot be decoded: {error}",
            step=source.name,
            hint=f"Requeue it with other bytes (--fix), or drop it: streamflow dead TARGET drop {id}.",
        ) from error


def _check_time(source: Step, id: int, value: object, payload: bytes, timestamp_ms: int | None, now_ms: int) -> None:
    """Asks a record for its event time as intake will; one whose broker gave none has that of its return."""
    spec = source.options["event_time"]
    if spec is None:
        return
    records = SourceBatch(PUSHES, [payload], [0], timestamps_ms=[now_ms if timestamp_ms is None else timestamp_ms])
    try:
        SourceTimes(source.name, spec, {}).stamp(records, [value], now_ms)
    except TimeRefused as refused:
        raise StepError(
            f"dead letter {id} of source {source.name!r} has no event time that can be used: {refused}",
            step=source.name,
            hint=f"Requeue it with other bytes (--fix), mend time=, or drop it: streamflow dead TARGET drop {id}.",
        ) from refused
