"""Where a stream begins and ends now, asked for by reading its first and its last chunk."""

from __future__ import annotations

import asyncio
from typing import Final, NamedTuple

from streamflow_rabbitmq.streams.chunks import Chunk, read_chunk
from streamflow_rabbitmq.streams.link import StreamLink, explain
from streamflow_rabbitmq.streams.wire import Code, Command, Start, mapping, offset_specification, string

SETTLE_SECONDS: Final = 5.0
"""How long a stream may look shorter than it is, or lack partitions, after its broker has started on a busy machine."""
SETTLE_PAUSE_SECONDS: Final = 0.1


class Edges(NamedTuple):
    """The first and the last chunk of a stream; None where it is empty."""

    first: Chunk | None
    last: Chunk | None

    @property
    def start(self) -> int:
        """The first offset."""
        return 0 if self.first is None else self.first.offset

    @property
    def end(self) -> int:
        """The offset behind the last record."""
        return 0 if self.last is None else self.last.end

    @property
    def identity(self) -> str:
        """Tells this stream from a later one of its name; empty while it is empty."""
        return "" if self.first is None else self.first.mark


async def edges(link: StreamLink, stream: str, *, at_least: int = 0) -> Edges:
    """Asks where a stream begins and ends.

    A broker that has just started shows what it has before all of it can be read. So a stream that seems too short is
    looked at again for a while.

    Args:
        link: A connection to a node that has the stream.
        stream: Its name.
        at_least: Where it should end, by what is known of it.
    """
    deadline = asyncio.get_running_loop().time() + SETTLE_SECONDS
    while True:
        found = Edges(await _peek(link, stream, Start.FIRST), await _peek(link, stream, Start.LAST))
        if found.end >= at_least or asyncio.get_running_loop().time() > deadline:
            return found
        await asyncio.sleep(SETTLE_PAUSE_SECONDS)


async def last_chunk(link: StreamLink, stream: str) -> Chunk | None:
    """The last chunk of a stream; None if it is empty."""
    return await _peek(link, stream, Start.LAST)


async def first_chunk(link: StreamLink, stream: str) -> Chunk | None:
    """The first chunk of a stream; None if it is empty."""
    return await _peek(link, stream, Start.FIRST)


async def _peek(link: StreamLink, stream: str, start: Start) -> Chunk | None:
    """Subscribes with credit for one chunk, and ends the subscription.

    The broker sends what a subscription has credit for before it looks at the next command. So once the end of the
    subscription is answered, the chunk has come, or there is none.
    """
    found: list[Chunk] = []
    number = link.take_id()
    link.deliver[number] = lambda frame: found.append(read_chunk(frame))
    try:
        code, _ = await link.request(
            Command.SUBSCRIBE,
            b"%c%b%b\x00\x01%b" % (number, string(stream), offset_specification(start), mapping({})),
        )
        if code != Code.OK:
            raise explain(code, f"stream {stream}", link)
        await link.request(Command.UNSUBSCRIBE, bytes((number,)))
    finally:
        del link.deliver[number]
    link.give_back_id(number)
    return found[0] if found else None
