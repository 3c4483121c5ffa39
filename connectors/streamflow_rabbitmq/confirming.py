"""Mode confirm: many messages on their way, each confirmed by the broker, each with an id of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from streamflow.batch import Chunk, Progress
from streamflow.connect.recovery import progress_at
from streamflow.errors import SinkAhead, Unavailable
from streamflow_rabbitmq.link import Link
from streamflow_rabbitmq.marker import Mark
from streamflow_rabbitmq.sink import RabbitSink

if TYPE_CHECKING:
    from streamflow_rabbitmq.client import DirectChannel

JOINED_MESSAGES_MAX: Final = 256
JOINED_BYTES_MAX: Final = 256 * 1024


class ConfirmSink(RabbitSink):
    """Publishes with publisher confirms.

    GUARANTEE: effectively-once: every record arrives, and what arrives twice (after a crash, or a lost confirm)
    carries the same id, ``<fence name>.<sequence number>``, so that a consumer which remembers ids, as this library's
    queue source does, takes it once. Order is that of the sequence numbers, repeated parts apart. BOUND: the publish
    window.

    A run starts with the marker, which says how far it will go: it does not say what arrived, but a store that knows
    less than what was ever attempted is an older copy, and is refused.
    """

    async def recover(self, stored: Progress | None, pending: Sequence[Chunk]) -> Progress:
        self._opened()
        if stored is None:
            return Progress(0, 1, self._cursor(self._mark.at))
        attempted = self._next_seq(stored)
        end = pending[-1].end_seq if pending else stored.next_seq
        if attempted is not None and attempted > max(end, stored.next_seq):
            await self._refuse(
                SinkAhead(
                    f"records up to {attempted - 1} were published to {self._target}, but this store committed only "
                    f"up to {end - 1}",
                    hint="This store is an older copy. Use the newest one, or reset the sink with --accept-head.",
                )
            )
        return stored

    async def publish(self, chunks: Sequence[Chunk], at: Progress) -> Progress:
        link = self._opened()
        await link.unblocked()
        end = chunks[-1].end_seq
        self._returned.clear()
        count = self._count(at, end)
        self._mark = msgspec.structs.replace(self._mark, at=max(self._mark.at, count))
        window, joined_max = self._window, self._joined_max
        await window.send([self._marker.message(self._channel.number, self._mark)])
        joined: list[bytes] = []
        size = 0
        for seq, frame in self._live(chunks, at.next_seq):
            message = self._message(seq, frame)
            joined.append(message)
            size += len(message)
            if len(joined) >= joined_max or size >= JOINED_BYTES_MAX:
                await window.send(joined)
                self._point("publish.part")
                joined, size = [], 0
        if joined:
            await window.send(joined)
        await window.empty()
        if self._returned:
            raise self._rejected()
        return progress_at(end, at, chunks, self._cursor(count))

    async def _start(self, link: Link, channel: DirectChannel) -> None:
        from pamqp import commands

        await link.ask(channel.rpc(commands.Confirm.Select()))
        limits = self._target.limits
        self._joined_max = min(JOINED_MESSAGES_MAX, 1 + limits.publish_window_records // 4)
        self._window = Window(link, limits.publish_window_records, limits.publish_window_bytes)
        channel.on_confirm = self._window.confirmed
        await self._write(self._mark)

    async def _write(self, mark: Mark) -> None:
        await self._window.send([self._marker.message(self._channel.number, mark)])
        await self._window.empty()


class Window:
    """Messages that were sent and not confirmed yet, by their number on the channel.

    GUARANTEE: `empty` returns when all are confirmed, and raises when one is refused, none is for
    ``timeout_seconds``, or the connection is lost. BOUND: records and bytes.
    """

    def __init__(self, link: Link, records_max: int, bytes_max: int) -> None:
        self._link = link
        self._records_max, self._bytes_max = records_max, bytes_max
        self._sizes: dict[int, int] = {}
        self._bytes = 0
        self._tag = 0
        self._moved = asyncio.Event()

    async def send(self, messages: Sequence[bytes]) -> None:
        """Sends messages in one piece, once there is room for them.

        Raises:
            Unavailable: See above.
        """
        while len(self._sizes) >= self._records_max or self._bytes >= self._bytes_max:
            await self._wait()
        for message in messages:
            self._tag += 1
            self._sizes[self._tag] = len(message)
            self._bytes += len(message)
        await self._link.send(b"".join(messages))

    async def empty(self) -> None:
        """Waits until all is confirmed."""
        while self._sizes:
            await self._wait()
        self._link.check()

    def confirmed(self, tag: int, multiple: bool, good: bool) -> None:
        """The broker has dealt with one message, or with all up to it."""
        if not good:
            self._link.fail(
                Unavailable(
                    f"RabbitMQ at {self._link.rabbit} could not take a message (it answered with basic.nack)",
                    hint="A queue that rejects when it is full, or a fault of the broker; it is tried again by itself.",
                )
            )
        elif multiple:
            while self._sizes and (first := next(iter(self._sizes))) <= tag:
                self._bytes -= self._sizes.pop(first)
        else:
            self._bytes -= self._sizes.pop(tag, 0)
        self._moved.set()

    async def _wait(self) -> None:
        """Waits for any confirm."""
        self._link.check()
        self._moved.clear()
        times = self._link.rabbit.times
        moving = asyncio.ensure_future(self._moved.wait())
        try:
            await self._link.settled(moving, times.timeout_seconds)
            if not moving.done() and not self._link.lost.done():
                # says so itself if the broker has blocked the connection for too long
                await self._link.unblocked()
                await self._link.settled(moving, times.timeout_seconds)
            self._link.check()
            if not moving.done():
                raise Unavailable(
                    f"RabbitMQ at {self._link.rabbit} confirmed nothing for {times.timeout_seconds:g} s",
                    hint="Is the broker overloaded, or has a quorum queue no leader? It is tried again by itself.",
                )
        finally:
            moving.cancel()
