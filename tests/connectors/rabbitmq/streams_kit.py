"""What the conformance tests of streams share: a server behind lines that can be cut, streams under its hooks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest_asyncio

from streamflow_rabbitmq import Limits, RabbitMQ, RabbitStream, Times, UserPassword
from tests.brokers import RabbitServer
from tests.connectors.rabbitmq.streams_outside import Streams
from tests.faults.proxy import Line

NAME = "conformance"
SETTLE_SECONDS = 1.0
TIMES = Times(heartbeat_seconds=2, timeout_seconds=5)
LIMITS = Limits(read_ahead_records=64)


class Stage:
    """A server, an outsider on it, and lines between the connector and its two ports."""

    def __init__(self, server: RabbitServer) -> None:
        self.server = server
        self.stack = AsyncExitStack()
        self.streams: Streams
        self.amqp: Line
        self.line: Line

    async def begin(self) -> None:
        self.amqp = await self.stack.enter_async_context(Line(self.server))
        self.line = await self.stack.enter_async_context(Line(self.server, self.server.stream_port))
        await self.connect()

    async def connect(self) -> None:
        self.streams = await self.stack.enter_async_context(Streams(self.server))

    @property
    def rabbit(self) -> RabbitMQ:
        return RabbitMQ(
            self.amqp.url, auth=UserPassword("guest", "guest"), stream_port=self.line.near_port, times=TIMES
        )

    def take_down(self) -> None:
        for line in (self.amqp, self.line):
            line.refuse()
            line.cut()

    def bring_up(self) -> None:
        for line in (self.amqp, self.line):
            line.admit()


class StreamStage:
    """Hooks that source and sink share: one plain stream."""

    environment: Stage
    names: Sequence[str] = (NAME,)
    segment_bytes = 0
    kills = False
    """Whether `take_down` kills the server; else it cuts the lines, which takes no time."""

    @pytest_asyncio.fixture(name="environment")
    async def on_server(self, lasting_rabbit: RabbitServer) -> AsyncIterator[Stage]:
        stage = Stage(lasting_rabbit)
        async with stage.stack:
            await stage.begin()
            yield stage

    async def start(self) -> None:
        await self.create()

    async def stop(self) -> None:
        await self.remove()

    async def create(self) -> None:
        arguments = {"stream_max_segment_size_bytes": self.segment_bytes} if self.segment_bytes else {}
        await self.environment.streams.make(NAME, **arguments)

    async def remove(self) -> None:
        await self.environment.streams.delete(NAME)

    async def replace(self) -> None:
        await self.remove()
        await self.create()

    def missing_spec(self) -> RabbitStream[Any]:
        return self.environment.rabbit.stream("missing")

    async def take_down(self) -> None:
        if self.kills:
            await self.kill()
        self.environment.take_down()

    async def bring_up(self) -> None:
        if self.kills:
            await self.restart()
        self.environment.bring_up()

    async def kill(self) -> None:
        """Kills the server, once it has on its disk what it notes of new streams: that takes it half a second."""
        await asyncio.sleep(SETTLE_SECONDS)
        await self.environment.server.kill_async()

    async def restart(self) -> None:
        """Starts the server again, and waits until the streams can be used."""
        await self.environment.server.start_async()
        await self.environment.connect()
        for name in self.names:
            await self.environment.streams.available(name)

    def segments(self, stream: str) -> Sequence[Path]:
        """The files of a stream, the oldest first: pairs of index and segment."""
        return sorted(self.environment.streams.folder(stream).glob("*.*"))
