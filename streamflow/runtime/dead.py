"""The dead letters of a running shard: kept until the commit that leaves their records out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from streamflow.batch import DeadLetter
from streamflow.codecs import Codec, JsonCodec, Prepared
from streamflow.errors import DecodeError, StepError
from streamflow.graph import SOURCE, Graph
from streamflow.operators.context import Message
from streamflow.runtime.cut import Pushed
from streamflow.state.store import Checkpoint, StoredLetter


class DeadLetters:
    """Gathers letters per place of origin; a barrier that passes the place says which epoch they belong to.

    GUARANTEE: a letter is in the epoch that the record would have been in at that place.
    BOUND: ``most`` letters, with those in the store: one more is an error, which stops the flow.

    Args:
        most: Most of them.
        told: Called for each with what refused it, kind and name, and the error.
    """

    def __init__(self, most: int, told: Callable[[str, str, str], None]) -> None:
        self.stored = 0
        self.written: Callable[[], None] = lambda: None
        self._most = most
        self._told = told
        self._open: dict[Hashable, list[DeadLetter]] = {}
        self._sealed: dict[int, list[DeadLetter]] = {}

    def add(self, place: Hashable, letter: DeadLetter) -> None:
        """Takes a letter; raises as `admit`."""
        self.admit(letter)
        self._open.setdefault(place, []).append(letter)

    def admit(self, letter: DeadLetter) -> None:
        """Counts a letter.

        Raises:
            StepError: There is no room.
        """
        if self.stored >= self._most:
            raise StepError(
                f"{letter.kind} {letter.name!r} has one more dead letter than dead_letters_max = {self._most:,} "
                f"({letter.error:.200})",
                step=letter.name,
                hint="Look at them: streamflow dead TARGET list; then requeue or drop them, or raise the limit.",
            )
        self.stored += 1
        self._told(letter.kind, letter.name, letter.error)

    def seal(self, place: Hashable, epoch: int) -> None:
        """A barrier passes a place."""
        if letters := self._open.pop(place, None):
            self._sealed.setdefault(epoch, []).extend(letters)

    def take(self, epoch: int) -> list[DeadLetter]:
        """The letters of an epoch whose barrier has passed everywhere."""
        return self._sealed.pop(epoch, [])

    def revived(self, count: int) -> None:
        """So many have left the store."""
        self.stored -= count


async def requeued(graph: Graph, checkpoint: Checkpoint, pushes: Sequence[Pushed]) -> list[Pushed]:
    """The records that are to be taken in again, as pushes that take their letter out of the store.

    Args:
        graph: The flow.
        checkpoint: Says which.
        pushes: What is pushed already; a letter that an earlier life of the shard has pushed is among them.

    Raises:
        StepError: One cannot be decoded, or the flow has its source no more.
    """
    waiting = {push.letter for push in pushes}
    found = []
    for letter, source, payload in checkpoint.requeued:
        if letter not in waiting:
            push = await revived(graph, letter, source, payload)
            push.done.add_done_callback(_heard)
            found.append(push)
    return found


def _heard(done: asyncio.Future[int]) -> None:
    """Nobody waits for what was requeued at rest: if the flow ends first, its own error is all there is to say."""
    if not done.cancelled():
        done.exception()


async def revived(graph: Graph, letter: int, source: str, payload: bytes) -> Pushed:
    """A dead letter's record, as a push that takes the letter out of the store; raises as `requeued`."""
    value = await _decoded(graph, letter, source, payload)
    return Pushed(source, value, payload, asyncio.get_running_loop().create_future(), letter)


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


async def _decoded(graph: Graph, letter: int, source: str, payload: bytes) -> object:
    hint = f"Requeue it with other bytes (--fix), or drop it: streamflow dead TARGET drop {letter}."
    step = next((step for step in graph.of_kind(SOURCE) if step.name == source), None)
    if step is None:
        raise DecodeError(f"dead letter {letter} belongs to source {source!r}, which is gone", step=source, hint=hint)
    codec: Codec[Any] = step.options["spec"].codec or JsonCodec[object](object)
    try:
        prepare = codec.prepare_decoding if isinstance(codec, Prepared) else None
        if prepare is not None:
            await prepare([payload])
        value = codec.decode(payload)
    except Exception as error:
        raise DecodeError(f"dead letter {letter} cannot be decoded: {error}", step=source, hint=hint) from error
    return Message(value, None, {}, None, None) if step.options["message"] else value
