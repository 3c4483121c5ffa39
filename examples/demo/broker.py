"""The broker: the two streams of the demo, how the lines get into one, and how far the other one is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from nats.aio.client import Client
from nats.js.client import JetStreamContext

LINES, RESULTS = "LINES", "RESULTS"

_LINES_PER_ACK = 2000
_SETTLE_SECONDS = 0.03


async def make_streams(js: JetStreamContext) -> None:
    """Makes the two streams; streamflow itself never declares anything."""
    await js.add_stream(name=LINES, subjects=["lines"])
    # The guard of the sink does not need the server's memory of message ids, so a second of it is enough.
    # Atomic batches (allow_atomic=True) pay where the server writes to the disk before it answers; this one does not.
    await js.add_stream(name=RESULTS, subjects=["results"], duplicate_window=1)


async def publish_lines(nc: Client, lines: Iterable[bytes], tell: Callable[[int], None]) -> int:
    """Publishes lines in order, one message each, and returns how many.

    Only the last message of each group is acknowledged, with its place in the stream, which shows that all before it
    arrived: nothing else writes there.

    Args:
        nc: A connection.
        lines: What to publish.
        tell: Called with the number of lines that the server has.
    """
    js = nc.jetstream()
    count = 0
    for group in _groups(lines):
        for line in group[:-1]:
            await nc.publish("lines", line)
        ack = await js.publish("lines", group[-1], timeout=30)
        count += len(group)
        if ack.seq != count:
            raise RuntimeError(f"the server took {ack.seq:,} lines of {count:,}")
        tell(count)
    return count


async def results_published(js: JetStreamContext) -> int:
    """Returns how many messages the results stream has."""
    return (await js.stream_info(RESULTS)).state.messages


async def results_settled(js: JetStreamContext) -> int:
    """Returns how many messages the results stream has once the server has stored what a killed process had sent."""
    before = -1
    while (published := await results_published(js)) != before:
        before = published
        await asyncio.sleep(_SETTLE_SECONDS)
    return published


def _groups(lines: Iterable[bytes]) -> Iterator[list[bytes]]:
    source = iter(lines)
    while group := list(islice(source, _LINES_PER_ACK)):
        yield group
