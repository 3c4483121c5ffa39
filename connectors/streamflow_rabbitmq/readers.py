"""Whether the reader before this one is gone from a queue, and what it held is back in its place."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from streamflow_rabbitmq.declare import queue_there
from streamflow_rabbitmq.link import Link

if TYPE_CHECKING:
    from streamflow_rabbitmq.client import Content

PROBE: Final = "streamflow-probe"
LEAVING_SECONDS: Final = 2.0
"""How long the broker may need to be done with the last reader, once that has let go of the lock."""
LOOK_SECONDS: Final = 0.05


async def left_alone(link: Link, queue: str) -> bool:
    """Waits until nobody reads a queue, and whatever was held has been given back.

    A quorum queue comes back from a crash of its broker with the consumer that it had and what that one held; who
    consumes before it is let go gets what stands behind that first, in another order. Asking for the number of
    consumers is not enough: for up to a second the queue answers from a state that is older than the last consumer, or
    with 0 because it has no leader. But a consumer of our own is added behind all that the queue has written down; from
    then on the number is that of the newest state. It has a prefetch of 1, so that it disturbs one message at most.
    That goes back to its place when the channel is closed; given back by a nack, it would go behind others.

    Args:
        link: The connection.
        queue: The queue.

    Returns:
        False if others read.
    """
    held: list[Content] = []
    probe = await link.loose_channel()
    probe.on_delivery = held.append
    await link.ask(probe.basic_qos(prefetch_count=1))
    await link.ask(probe.basic_consume(queue, _never, consumer_tag=PROBE))
    # what the queue has to give has come: it is known whether a message must be back before anybody reads
    alone = await _seen(link, queue, lambda seen: seen == 1, lambda messages: bool(held or not messages))
    await link.ask(probe.close(None))
    return alone and await _seen(link, queue, lambda seen: seen == 0, bool if held else lambda messages: True)


async def _seen(link: Link, queue: str, consumers: Callable[[int], bool], messages: Callable[[int], bool]) -> bool:
    """Looks at a queue until its numbers of consumers and of waiting messages are right; False if they never are."""
    deadline = asyncio.get_running_loop().time() + LEAVING_SECONDS
    while True:
        found = await queue_there(link, queue, None)
        if consumers(int(found["consumers"])) and messages(int(found["messages"])):
            return True
        if asyncio.get_running_loop().time() > deadline:
            return False
        await asyncio.sleep(LOOK_SECONDS)


async def _never(message: object) -> None:
    raise AssertionError("deliveries never reach aiormq's own consumers")
