"""A broker that dies with messages given out: whoever reads next gets them first, in the order of the queue."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from streamflow.errors import ConnectorError
from streamflow_rabbitmq import Limits
from streamflow_rabbitmq.broker_run import broker_run
from streamflow_rabbitmq.link import Link
from tests.brokers import RabbitServer
from tests.connectors.rabbitmq.kit import open_source, take
from tests.connectors.rabbitmq.outsider import Outsider, fresh

HELD = 500
KILLS = 2
DECLARED_SECONDS = 2.5
"""What was declared in the last two seconds before a kill may be gone."""
OPEN_SECONDS = 60
FENCE = f"sf.{fresh('order')}.i.0.out"


async def opened_at_last(spec: Any) -> Any:
    """Opens a source at the first moment at which the broker lets it in."""
    async with asyncio.timeout(OPEN_SECONDS):
        while True:
            try:
                return await open_source(spec)
            except ConnectorError:
                await asyncio.sleep(0.02)


async def read_across_kills(spec: Any, wanted: Sequence[bytes], together: asyncio.Barrier) -> None:
    """Holds the beginning of a queue while its broker is killed, right after the source was opened."""
    for _ in range(KILLS + 1):
        source = await opened_at_last(spec)
        assert [body for body, _ in await take(source, HELD)] == list(wanted)
        await together.wait()  # everybody reads: the broker is killed
        await together.wait()
        await source.close()


@pytest.mark.long
@pytest.mark.timeout(180)
async def test_the_order_of_a_queue_outlives_a_kill_of_its_broker(server: RabbitServer) -> None:
    """A quorum queue that starts says for a while that nobody reads, and gives what stands behind what was held."""
    outsider = Outsider(server)
    await outsider.connect()
    wanted = [str(number).encode() for number in range(2 * HELD)]
    limits = Limits(prefetch=HELD)
    specs = []
    for arguments in ({"x_queue_type": "classic"}, {"x_queue_type": "quorum"}):
        queue = await outsider.queue(**arguments)
        await outsider.feed(queue, wanted)
        specs.append(outsider.rabbit.queue(queue, limits=limits))
    queue = await outsider.queue(x_queue_type="quorum", x_single_active_consumer=True)
    await outsider.feed(queue, wanted)
    specs.append(outsider.rabbit.queue(queue, limits=limits, readers="single_active"))
    await outsider.close()
    run = await run_of(outsider)
    assert await run_of(outsider) == run
    await asyncio.sleep(DECLARED_SECONDS)
    together = asyncio.Barrier(len(specs) + 1)
    before = server.starts
    async with asyncio.TaskGroup() as group:
        for spec in specs:
            group.create_task(read_across_kills(spec, wanted[:HELD], together), name=str(spec))
        for number in range(KILLS + 1):
            await together.wait()
            if number < KILLS:
                await server.kill_async()
                starting = asyncio.ensure_future(server.start_async())
                await together.wait()
                await starting
            else:
                await together.wait()
    assert server.starts == before + KILLS
    assert await run_of(outsider) != run, "mode tx would not notice that its broker died"


async def run_of(outsider: Outsider) -> str:
    """The id by which a sink in mode tx knows one run of the broker from the next."""
    link = await Link.connect(outsider.rabbit, "run")
    run = await broker_run(link, FENCE)
    await link.close()
    return run
