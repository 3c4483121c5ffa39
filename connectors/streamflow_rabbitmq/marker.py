"""The marker of a sink: a durable queue of one message that says who publishes, and how far."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Final

import msgspec

from streamflow.errors import ConnectorError, Fenced
from streamflow_rabbitmq.link import Link, explain
from streamflow_rabbitmq.wire import EMPTY_TABLE, Writer, publish_method

if TYPE_CHECKING:
    from pamqp import commands

    from streamflow_rabbitmq.client import Content, DirectChannel

ARGUMENTS: Final[dict[str, str | int]] = {"x-queue-type": "classic", "x-max-length": 1, "x-overflow": "drop-head"}
FETCHED_MAX: Final = 16


class Mark(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the marker says.

    Args:
        made: Drawn when the first one was written, which tells this marker queue from a later one of that name.
        at: Records published, counted from then on; while a run is on its way, those of the run included.
        generation: That of the store with which the process began that last published.
        missing: Sequence numbers of a transaction whose messages the broker gave back as unroutable.
        run: In which run of the broker the transaction went out that wrote this (tx).
        sure_at: What ``at`` was before that transaction: true even if the broker died in it (tx).
        sure_missing: And what ``missing`` was (tx).
    """

    made: str
    at: int = 0
    generation: int = 0
    missing: tuple[int, ...] = ()
    run: str = ""
    sure_at: int = 0
    sure_missing: tuple[int, ...] = ()


def marker_name(fence: str) -> str:
    """Name of the marker queue of a fence name: ``sf.mark.<flow>.<incarnation>.<shard>.<sink>``."""
    return f"sf.mark.{fence.removeprefix('sf.')}"


class Marker:
    """Reads and writes a sink's marker; only who holds the sink's lock may.

    GUARANTEE: a reader finds the last one that was confirmed, or committed, or a newer one. An instance older than the
    last one that published is refused, however long that is ago. BOUND: one small message.
    """

    def __init__(self, link: Link, fence: str, generation: int) -> None:
        self.name = marker_name(fence)
        self._link, self._generation = link, generation

    async def read(self) -> Mark | None:
        """Finds the marker; None if nothing was ever published.

        Raises:
            Fenced: A newer generation has published.
            ConnectorError: The marker cannot be read.
        """
        await self._declare()
        found: list[tuple[Content, Mark]] = []
        async with self._link.questions(f"queue {self.name}") as channel:
            while len(found) < FETCHED_MAX and (content := await self._link.ask(channel.fetch(self.name))) is not None:
                found.append((content, self._decode(content.body)))
            best = max(found, key=lambda pair: (pair[1].generation, pair[1].at), default=None)
            for content, mark in found:
                await self._give_back(channel, content.method, keep=best is not None and mark is best[1])
        if best is None:
            return None
        mark = best[1]
        if mark.generation > self._generation:
            raise Fenced(
                f"generation {mark.generation} of this flow has published here; this process began with generation "
                f"{self._generation}",
                hint="It is an older copy: use the newest one, and run one process only.",
            )
        return mark

    def taken_over(self, found: Mark | None) -> Mark:
        """The marker that was found, or a first one, as this generation's."""
        if found is None:
            return Mark(secrets.token_hex(6), 0, self._generation)
        return msgspec.structs.replace(found, generation=self._generation)

    def message(self, channel: int, mark: Mark) -> bytes:
        """The message that makes ``mark`` the marker."""
        method = publish_method(channel, b"", self.name.encode(), mandatory=True)
        return method + Writer(channel, self._link.frame_bytes_max).content(
            EMPTY_TABLE, b"sf-mark", msgspec.json.encode(mark)
        )

    async def _declare(self) -> None:
        from streamflow_rabbitmq.client import aiormq

        try:
            async with self._link.questions(f"queue {self.name} (permissions on ^sf\\.)") as channel:
                await self._link.ask(channel.queue_declare(self.name, durable=True, arguments={**ARGUMENTS}))
        except aiormq.exceptions.ChannelPreconditionFailed as error:
            raise ConnectorError(
                f"marker queue {self.name} at {self._link.rabbit} was changed: {explain(error)}",
                hint="Names that start with sf. belong to the connector; delete that queue only after a reset.",
            ) from None

    async def _give_back(self, channel: DirectChannel, got: commands.Basic.GetOk, *, keep: bool) -> None:
        """Puts the newest marker back, and takes older ones away: a crash while one was replaced leaves two."""
        tag = got.delivery_tag
        assert tag is not None
        if keep:
            await channel.basic_nack(tag, requeue=True, wait=False)
        else:
            await channel.basic_ack(tag, wait=False)

    def _decode(self, body: bytes) -> Mark:
        try:
            return msgspec.json.decode(body, type=Mark)
        except (ValueError, RecursionError):
            raise ConnectorError(
                f"marker queue {self.name} at {self._link.rabbit} holds a message that is no marker",
                hint="Names that start with sf. belong to the connector: purge the queue if others wrote to it.",
            ) from None
