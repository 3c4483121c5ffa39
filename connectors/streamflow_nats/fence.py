"""Telling older instances of a sink, where they are alive, that a newer one has taken over.

This is courtesy, not safety: a frozen process does not hear it, and then the guard of the mode keeps its messages out.
But one that is alive stops before the newer one reads what arrived. A request goes out on a subject of the fence name
(under the inbox prefix, which every user may listen to); where nobody listens, the server says so at once.
"""

from __future__ import annotations

import os
import secrets
from typing import Final

import msgspec

from streamflow.errors import Fenced, Unavailable
from streamflow_nats.link import FENCE_TOKEN, Link

ANSWER_SECONDS: Final = 1.0
"""How long to wait for an older instance that may be frozen."""


_RANDOM: Final = secrets.token_hex(6)


def process_name() -> str:
    """Tells this process from every other.

    Two processes have the same generation only on copies of one store. The one that comes second must give way before
    it moves anything: else each fences the other, and both end.
    """
    return f"{_RANDOM}.{os.getpid()}"


class _Claim(msgspec.Struct, frozen=True):
    generation: int
    process: str = ""

    def outranks(self, other: _Claim) -> bool:
        """Whether who holds this one may stay where the other comes second."""
        return self.generation > other.generation or (
            self.generation == other.generation and self.process != other.process
        )


async def take_over(link: Link, fence: str, generation: int, *, equals_only: bool = False) -> None:
    """Asks older instances to stop, and listens to newer ones from now on; then ``link`` is lost with Fenced.

    Args:
        link: The sink's connection.
        fence: The sink's fence name, fit for subjects.
        generation: Of the store.
        equals_only: Give way only to one with the same generation; the mode's own guard tells the others apart.

    Raises:
        Fenced: An instance with a newer generation is alive, or one with the same on a copy of the store.
    """
    subject = f"{link.nats.inbox_prefix}.{FENCE_TOKEN}.{fence}"
    ours = _Claim(generation, process_name())
    claim = msgspec.json.encode(ours)
    try:
        answer = await link.request(subject, claim, seconds=min(ANSWER_SECONDS, link.nats.timeout_seconds))
    except Unavailable:
        link.check()  # nobody is there, or nobody who answers
    else:
        holder = _claim(answer)
        if holder.outranks(ours) and not (equals_only and holder.generation > generation):
            raise _fenced(holder.generation, generation)

    def on_claim(subject: bytes, reply: bytes, data: bytes, headers: bytes | None) -> None:
        newer = _claim(data)
        if newer.generation and reply:
            link.answer(b"PUB %s %d\r\n%s\r\n" % (reply, len(claim), claim))
        if newer.generation >= generation and not ours.outranks(newer):
            link.fail(_fenced(newer.generation, generation))

    await link.subscribe(subject, on_claim)


def _claim(data: bytes) -> _Claim:
    """What a claim says; generation 0 where it is none: who may publish here is not only who we are."""
    try:
        return msgspec.json.decode(data, type=_Claim)
    except (ValueError, RecursionError):
        return _Claim(0)


def _fenced(newer: int, generation: int) -> Fenced:
    return Fenced(
        f"an instance of this sink with generation {newer} has taken over; this one has {generation}",
        hint="Only one process may run this flow; stop the others.",
    )
