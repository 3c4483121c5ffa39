"""A named publisher of one stream: numbered messages in a window of confirms."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Final

from streamflow.errors import ConnectorError, RecordRejected, Unavailable
from streamflow_rabbitmq.settings import Limits
from streamflow_rabbitmq.streams.link import StreamLink, explain
from streamflow_rabbitmq.streams.wire import (
    MESSAGE_HEADER_BYTES,
    PUBLISH_HEADER_BYTES,
    Code,
    Command,
    publish,
    string,
)

MESSAGES_MAX: Final = 1024
"""Most messages in one frame."""


class Publisher:
    """Publishes under a name for which the stream remembers the last id, and drops what comes again.

    GUARANTEE: ids rise; when `settled` returns, every message sent before is in the stream, or was there already.
    BOUND: ``publish_window_records`` and ``publish_window_bytes`` of messages whose confirm is awaited.
    """

    def __init__(self, link: StreamLink, stream: str, reference: str, limits: Limits) -> None:
        self.link, self.stream, self.reference = link, stream, reference
        self._limits = limits
        self._number = -1
        self._awaited = 0
        self._awaited_bytes = 0
        self._settled = 0
        self._sent: deque[tuple[int, int]] = deque()
        self._refusal: ConnectorError | None = None
        self._confirmed = asyncio.Event()

    async def declare(self) -> None:
        """Declares the publisher.

        Raises:
            NotFound: There is no such stream.
            ConnectorError: Writing is not allowed.
        """
        self._number = self.link.take_id()
        self.link.confirmed[self._number] = self._on_confirm
        self.link.refused[self._number] = self._on_refusal
        self.link.lost.add_done_callback(lambda _: self._confirmed.set())
        body = b"%c%b%b" % (self._number, string(self.reference), string(self.stream))
        code, _ = await self.link.request(Command.DECLARE_PUBLISHER, body)
        if code != Code.OK:
            raise explain(code, f"stream {self.stream}", self.link)

    async def last_id(self) -> int:
        """The last id that the stream holds under this name; 0 if it knows of none."""
        return await last_id(self.link, self.stream, self.reference)

    @property
    def message_bytes_max(self) -> int:
        """The largest message that the broker takes."""
        return message_bytes_max(self.link)

    async def send(self, ids: Sequence[int], messages: Sequence[bytes]) -> None:
        """Sends messages under ids that rise; waits while the window is full.

        Raises:
            RecordRejected: The broker refuses a message for good.
            Unavailable: The connection is lost.
        """
        room = self.link.frame_bytes_max - PUBLISH_HEADER_BYTES
        at = 0
        while at < len(messages):
            count = min(MESSAGES_MAX, self._limits.publish_window_records, len(messages) - at)
            while True:
                part = messages[at : at + count]
                size = sum(map(len, part)) + MESSAGE_HEADER_BYTES * count
                if size <= room or count == 1:
                    break
                count = max(1, count * room // size // 2)
            await self._send(ids[at : at + count], part, size)
            at += count

    async def settled(self) -> None:
        """Waits until every message is confirmed.

        Raises:
            RecordRejected: The broker refuses a message for good.
            Unavailable: The connection is lost, or nothing is confirmed for too long.
        """
        await self._until(0, 0)

    async def _send(self, ids: Sequence[int], part: Sequence[bytes], size: int) -> None:
        limits = self._limits
        await self._until(limits.publish_window_records - len(part), limits.publish_window_bytes - size)
        self._awaited += len(part)
        self._awaited_bytes += size
        self._sent.append((len(part), size))
        await self.link.send(publish(self._number, ids, part))

    async def _until(self, records_max: int, bytes_max: int) -> None:
        """Waits until no more than so much is awaited, or nothing is."""
        seconds = self.link.rabbit.times.timeout_seconds
        while self._awaited > 0 and (self._awaited > records_max or self._awaited_bytes > bytes_max):
            if self._refusal is not None:
                break
            self.link.check()
            self._confirmed.clear()
            try:
                async with asyncio.timeout(seconds):
                    await self._confirmed.wait()
            except TimeoutError:
                raise Unavailable(
                    f"RabbitMQ at {self.link.address} has confirmed nothing for {seconds} s; {self._awaited} messages "
                    f"to stream {self.stream} are awaited",
                    hint="Is the server out of disk, or its cluster without a majority? It is tried again.",
                ) from None
        if self._refusal is not None:
            raise self._refusal
        self.link.check()

    def _on_confirm(self, ids: bytes) -> None:
        self._settle(len(ids) // 8)

    def _settle(self, count: int) -> None:
        """Counts confirms; how many bytes they stand for is known where a whole frame is confirmed."""
        self._awaited -= count
        self._settled += count
        while self._sent and self._settled >= self._sent[0][0]:
            records, size = self._sent.popleft()
            self._settled -= records
            self._awaited_bytes -= size
        self._confirmed.set()

    def _on_refusal(self, number: int, code: int) -> None:
        if self._refusal is None:
            self._refusal = self._explained(number, code)
        self._settle(1)

    def _explained(self, number: int, code: int) -> ConnectorError:
        if code == Code.FRAME_TOO_LARGE:
            return RecordRejected(
                number,
                f"record {number} is larger than RabbitMQ at {self.link.address} takes",
                hint="Raise stream.frame_max on the server, or emit smaller values.",
            )
        if code in (Code.PUBLISHER_DOES_NOT_EXIST, Code.STREAM_DOES_NOT_EXIST):
            return Unavailable(
                f"stream {self.stream} at {self.link.address} went away while it was written to (code {code})",
                hint="It is opened again; if the stream was deleted, bring it back.",
            )
        return explain(code, f"record {number} for stream {self.stream}", self.link)


async def last_id(link: StreamLink, stream: str, reference: str) -> int:
    """The last id that a stream holds under a publisher's name; 0 if it knows of none.

    Raises:
        NotFound: There is no such stream.
        ConnectorError: Asking is not allowed.
    """
    code, fields = await link.request(Command.QUERY_PUBLISHER_SEQUENCE, string(reference) + string(stream))
    if code != Code.OK:
        raise explain(code, f"stream {stream}", link)
    return fields.integer(8)


def message_bytes_max(link: StreamLink) -> int:
    """The largest message that fits into one frame."""
    return link.frame_bytes_max - PUBLISH_HEADER_BYTES - MESSAGE_HEADER_BYTES
