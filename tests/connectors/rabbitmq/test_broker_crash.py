"""A broker that is killed with messages given out: whoever reads next gets them first, in the order of the queue."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from streamflow.errors import Unavailable
from streamflow_rabbitmq import Limits
from tests.connectors.rabbitmq.kit import open_source, take
from tests.connectors.rabbitmq.outsider import Outsider

HELD = 500
DECLARED_SECONDS = 2.5
"""What was declared in the last two seconds before a kill is lost."""


async def opened_at_last(spec: Any) -> Any:
    """Opens a source at the first moment at which the broker lets it in."""
    async with asyncio.timeout(60):
        while True:
            try:
                return await open_source(spec)
            except Unavailable:
                await asyncio.sleep(0.02)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["classic", "quorum"])
async def test_the_order_outlives_a_kill_of_the_broker(outsider: Outsider, kind: str) -> None:
    """Killed right after a reader came: a quorum queue that starts says that nobody reads, and it is not so."""
    queue = await outsider.queue(x_queue_type=kind)
    wanted = [str(number).encode() for number in range(2 * HELD)]
    await outsider.feed(queue, wanted)
    await outsider.close()
    await asyncio.sleep(DECLARED_SECONDS)
    spec = outsider.rabbit.queue(queue, limits=Limits(prefetch=HELD))
    for _ in range(2):
        source = await opened_at_last(spec)
        assert [body for body, _ in await take(source, HELD)] == wanted[:HELD]
        await outsider.server.kill_async()
        starting = asyncio.ensure_future(outsider.server.start_async())
        await source.close()
        source = await opened_at_last(spec)
        assert [body for body, _ in await take(source, HELD)] == wanted[:HELD]
        await source.close()
        await starting
    await outsider.connect()
