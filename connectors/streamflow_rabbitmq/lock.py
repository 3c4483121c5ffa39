"""The lock of a sink, or of a queue's reader: an exclusive queue on the connection that publishes, or reads."""

from __future__ import annotations

import asyncio
import os
import secrets
from typing import TYPE_CHECKING, Final

import msgspec

from streamflow.errors import Fenced, Unavailable
from streamflow_rabbitmq.link import Link

if TYPE_CHECKING:
    from streamflow_rabbitmq.client import Content, DirectChannel

ATTEMPT_SECONDS: Final = 0.05
SETTLE_SECONDS: Final = 0.1
"""After a lock was let go, the broker may still be busy with what its last holder sent."""
ANSWERS: Final = "amq.rabbitmq.reply-to"
_RANDOM: Final = secrets.token_hex(6)


def process_name() -> str:
    """Tells this process from every other: only on copies of one store two processes have the same generation."""
    return f"{_RANDOM}.{os.getpid()}"


_first: dict[str, int] = {}


def rank(fence: str, generation: int) -> int:
    """The generation with which this process first took a sink or a source.

    A frozen process whose store was copied counts on when it goes on, and would soon have passed its successor. The
    generation with which it began stays older.
    """
    return _first.setdefault(fence, generation)


class Claim(msgspec.Struct, frozen=True):
    """Who wants the lock, or has it: the rank, which process, and which sink or source of which flow."""

    generation: int
    process: str = ""
    fence: str = ""

    def outranks(self, other: Claim) -> bool:
        """Whether who holds this one may stay where the other comes second."""
        return self.generation > other.generation or (
            self.generation == other.generation and self.process != other.process
        )


def lock_name(fence: str) -> str:
    """Name of the lock queue of a fence name: ``sf.lock.<flow>.<incarnation>.<shard>.<sink>``."""
    return f"sf.lock.{fence.removeprefix('sf.')}"


class Lock:
    """Holds an exclusive queue: one per sink, or per queue that is read.

    GUARANTEE: while `take` has returned and the connection lives, no other connection has the lock; what the last
    holder sent before it lost the lock has been worked off. Who publishes on the connection of its lock cannot publish
    without it: the broker drops the queue when it lets the connection go. BOUND: ``takeover_seconds`` of waiting.

    The queue is also where a newer instance knocks: a living holder with an older generation cuts its connection at
    once, one that may stay, or that belongs to another flow, says so. A frozen one hears nothing; the broker lets it go
    when its heartbeats stay away.

    Args:
        link: The connection that is to hold it.
        fence: Name of the sink's, or source's, guard.
        generation: Of the store.
        name: Name of the queue, where it is not made from ``fence``.
    """

    def __init__(self, link: Link, fence: str, generation: int, name: str = "") -> None:
        self.name = name or lock_name(fence)
        self.claim = Claim(rank(fence, generation), process_name(), fence)
        self._link = link
        self._holder: Claim | None = None

    async def take(self) -> None:
        """Takes the lock, from an older instance if need be.

        Raises:
            Fenced: An instance that may stay holds it.
            Unavailable: Another flow holds it, or somebody who does not answer; or the connection is lost.
        """
        if await self._declared():
            await self._listen()
            return
        limit = self._link.rabbit.times.takeover_seconds
        deadline = asyncio.get_running_loop().time() + limit
        knocking = await self._knock()
        while not await self._declared():
            if self._holder is not None and self._holder.fence != self.claim.fence:
                raise Unavailable(
                    f"{self.name} at {self._link.rabbit} is held by another flow: {self._holder.fence}",
                    hint="Stop that one first. It is tried again by itself.",
                )
            if self._holder is not None and self._holder.outranks(self.claim):
                raise _fenced(self._holder, self.claim)
            if asyncio.get_running_loop().time() > deadline:
                raise Unavailable(
                    f"another process holds {self.name} at {self._link.rabbit} and does not answer",
                    hint="Only one process may run this flow; stop the others. It is tried again by itself.",
                )
            await asyncio.sleep(ATTEMPT_SECONDS)
        await asyncio.sleep(SETTLE_SECONDS)
        await self._link.ask(knocking.basic_cancel(_KNOCK_TAG))
        await self._listen()

    async def _declared(self) -> bool:
        """Declares the lock queue; False if another connection has it."""
        from streamflow_rabbitmq.client import aiormq

        try:
            async with self._link.questions(f"lock queue {self.name} (permission to configure ^sf\\.)") as channel:
                await self._link.ask(channel.queue_declare(self.name, exclusive=True))
        except aiormq.exceptions.ChannelLockedResource:
            return False
        return True

    async def _knock(self) -> DirectChannel:
        """Tells the holder who comes."""
        channel = await self._link.channel()
        channel.on_delivery = self._on_answer
        await self._link.ask(channel.basic_consume(ANSWERS, _never, no_ack=True, consumer_tag=_KNOCK_TAG))
        await self._send(channel, self.name, reply_to=ANSWERS)
        return channel

    async def _listen(self) -> None:
        """Hears who comes later, as long as the connection lives."""
        channel = await self._link.channel()

        def on_delivery(content: Content) -> None:
            newer = _decoded(content.body)
            if newer is None:
                return
            if newer.fence != self.claim.fence or self.claim.outranks(newer):
                reply_to = content.header.properties.reply_to
                if reply_to:
                    answers.append(asyncio.ensure_future(self._answer(channel, str(reply_to))))
                    del answers[:-_ANSWERS_KEPT]
            else:
                self._link.fail(_fenced(newer, self.claim))

        answers: list[asyncio.Future[None]] = []
        channel.on_delivery = on_delivery
        await self._link.ask(channel.basic_consume(self.name, _never, no_ack=True))

    async def _answer(self, channel: DirectChannel, to: str) -> None:
        try:
            await self._send(channel, to, reply_to="")
        except Unavailable:
            return  # whoever asked finds the lock free soon

    async def _send(self, channel: DirectChannel, to: str, *, reply_to: str) -> None:
        from streamflow_rabbitmq.wire import plain_message

        await self._link.send(plain_message(channel.number, to, msgspec.json.encode(self.claim), reply_to))

    def _on_answer(self, content: Content) -> None:
        self._holder = _decoded(content.body)


_KNOCK_TAG: Final = "knock"
_ANSWERS_KEPT: Final = 16


def _decoded(data: bytes) -> Claim | None:
    """What a claim says; None where it is none: who may publish here is not only who we are."""
    try:
        return msgspec.json.decode(data, type=Claim)
    except (ValueError, RecursionError):
        return None


def _fenced(holder: Claim, claim: Claim) -> Fenced:
    return Fenced(
        f"an instance of this flow that began with generation {holder.generation} holds {claim.fence}; this one began "
        f"with {claim.generation}",
        hint="Only one process may run this flow; stop the others.",
    )


async def _never(message: object) -> None:
    raise AssertionError("deliveries never reach aiormq's own consumers")
