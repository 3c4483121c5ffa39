"""A broker that is away for longer than ``idle`` is no silence: no window closes, and nothing held is released."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from streamflow_rabbitmq import Limits, RabbitMQ
from tests.connectors import away
from tests.connectors.rabbitmq.kit import DECLARED_SECONDS
from tests.connectors.rabbitmq.outsider import QUICK, Outsider, fresh
from tests.connectors.rabbitmq.streams_outside import Streams

KINDS = ["classic", pytest.param("quorum", marks=pytest.mark.long)]


@pytest.mark.long
async def test_no_window_closes_while_the_broker_is_away(outsider: Outsider, tmp_path: Path) -> None:
    server, name = outsider.server, fresh("times")
    async with Streams(server) as streams:
        await streams.make(name)
        spec = RabbitMQ(server.url, stream_port=server.stream_port, times=QUICK).stream(name, value=str)
        await asyncio.sleep(DECLARED_SECONDS)
        await away.a_dead_broker_closes_no_window(tmp_path, server, spec, partial(feed, streams, name))


@pytest.mark.long
async def test_no_window_of_a_stream_closes_while_the_broker_hangs(outsider: Outsider, tmp_path: Path) -> None:
    server, name = outsider.server, fresh("times")
    async with Streams(server) as streams:
        await streams.make(name)
        spec = RabbitMQ(server.url, stream_port=server.stream_port, times=QUICK).stream(name, value=str)
        await away.a_frozen_broker_closes_no_window(tmp_path, server, spec, partial(feed, streams, name))


async def feed(streams: Streams, name: str, *payloads: bytes) -> None:
    await streams.feed(name, payloads, singly=True)


@pytest.mark.parametrize("kind", KINDS)
async def test_no_window_of_a_queue_closes_while_the_broker_hangs(
    outsider: Outsider, tmp_path: Path, kind: Any
) -> None:
    queue = await outsider.queue(x_queue_type=kind)
    spec = outsider.rabbit.queue(queue, value=str)

    async def feed(*payloads: bytes) -> None:
        await outsider.feed(queue, payloads)

    await away.a_frozen_broker_closes_no_window(tmp_path, outsider.server, spec, feed)


@pytest.mark.parametrize("kind", KINDS)
async def test_no_window_closes_while_acknowledgements_wait(outsider: Outsider, tmp_path: Path, kind: Any) -> None:
    queue = await outsider.queue(x_queue_type=kind)
    await outsider.feed(queue, [b"%d" % at for at in range(away.MESSAGES)])
    spec = outsider.rabbit.queue(queue, value=str, limits=Limits(prefetch=away.UNACKNOWLEDGED_MAX))
    await away.withheld_acknowledgements_close_no_window(tmp_path, spec)
