"""Whether the reader before this one is gone from a queue, and what it held is back in its place."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from streamflow_rabbitmq.link import Link
from streamflow_rabbitmq.wire import waiting_consumer

if TYPE_CHECKING:
    from streamflow_rabbitmq.client import DirectChannel

PROBE: Final = "streamflow-probe"
LOOK_SECONDS: Final = 0.05
WITHOUT_CREDIT: Final = (4, 0)
"""From this version on the broker no longer knows consumers that get nothing."""


async def others(link: Link, queue: str, seconds: float) -> int:
    """Waits until nobody else reads a queue, and what the last reader held is back in its place.

    A quorum queue comes back from a crash of its broker with the consumer that it had and with what that one held; who
    reads before it is let go gets what stands behind that first, in another order. The number of consumers alone does
    not tell: for up to a second the queue answers from a state that is older than its last consumer, and it says 0
    where it cannot answer. But a consumer is added behind everything that the queue has written down, and the channel
    takes nothing else before. So here is one added that gets no messages (``x-credit`` of 0): once it is the only one,
    and none is left when it has gone, whatever was held has been given back. A broker that does not know such
    consumers is only asked for the number.

    Args:
        link: The connection.
        queue: The queue.
        seconds: How long others may take to leave.

    Returns:
        How many others read when the time was over; 0 if the queue was left.
    """
    channel = await link.loose_channel()
    await link.ask(channel.basic_qos(prefetch_count=1))
    deadline = asyncio.get_running_loop().time() + seconds
    left = 0
    if link.version < WITHOUT_CREDIT:
        await link.send(waiting_consumer(channel.number, queue, PROBE))
        left = await _wait_for(link, channel, queue, 1, deadline)
        await link.ask(channel.basic_cancel(PROBE))
    left = left or await _wait_for(link, channel, queue, 0, deadline)
    await link.ask(channel.close(None))
    return left


async def _wait_for(link: Link, channel: DirectChannel, queue: str, consumers: int, deadline: float) -> int:
    """Looks at a queue until it has so many consumers; returns how many there are besides when the time is over."""
    while True:
        found = await link.ask(channel.queue_declare(queue, passive=True))
        besides = int(found.consumer_count or 0) - consumers
        if not besides:
            return 0
        if asyncio.get_running_loop().time() > deadline:
            return max(1, besides)
        await asyncio.sleep(LOOK_SECONDS)
