"""A RabbitMQ broker as an outsider sees it: queues made, fed and read with plain aio-pika."""

from __future__ import annotations

import asyncio
import itertools
import os
import secrets
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import aio_pika

from streamflow_rabbitmq import RabbitMQ, Times
from streamflow_rabbitmq.link import Link
from streamflow_rabbitmq.wire import plain_message
from tests.brokers import RabbitServer

QUICK = Times(heartbeat_seconds=2, timeout_seconds=5)
_names = itertools.count(1)
_run = secrets.token_hex(3)


def fresh(what: str) -> str:
    """A name that no other test uses."""
    return f"{what}-{_run}-{next(_names)}"


class Outsider:
    """A broker, and the hands of an outsider on it."""

    def __init__(self, server: RabbitServer, *, vhost: str = "/") -> None:
        self.server = server
        self.vhost = vhost
        self.rabbit = RabbitMQ(server.url, vhost=vhost, times=QUICK)
        self.connection: Any = None
        self.channel: Any = None

    async def connect(self) -> None:
        self.connection = await aio_pika.connect(f"{self.server.url}/{quote(self.vhost, safe='')}")
        self.channel = await self.connection.channel()

    async def close(self) -> None:
        if self.connection is not None:
            await self.connection.close()

    async def queue(self, name: str = "", **arguments: Any) -> str:
        """Makes a durable queue; ``x_max_length`` stands for the argument ``x-max-length``."""
        name = name or fresh("queue")
        table = {key.replace("_", "-"): value for key, value in arguments.items()}
        await self.channel.declare_queue(name, durable=True, arguments=table)
        return name

    async def exchange(self, name: str = "", kind: str = "topic", bind: Sequence[tuple[str, str]] = ()) -> str:
        """Makes a durable exchange, and binds queues to it: pairs of queue and pattern."""
        name = name or fresh("exchange")
        made = await self.channel.declare_exchange(name, kind, durable=True)
        for queue, pattern in bind:
            await (await self.channel.get_queue(queue)).bind(made, pattern)
        return name

    async def delete(self, queue: str) -> None:
        await self.channel.queue_delete(queue)

    async def feed(self, queue: str, bodies: Sequence[bytes], **properties: Any) -> None:
        """Publishes bodies; each with a message id that is new, unless ``message_id`` says another."""
        publish = self.channel.default_exchange.publish
        messages = [
            aio_pika.Message(body, **{"message_id": fresh("m"), "delivery_mode": 2, **properties}) for body in bodies
        ]
        # begun in this order, and so sent in it
        await asyncio.gather(*(publish(message, routing_key=queue) for message in messages))

    async def messages(self, queue: str) -> list[Any]:
        """Everything that is ready in a queue, in order; it stays there."""
        reader = await aio_pika.connect(self.server.url)
        try:
            channel = await reader.channel()
            plain = await channel.get_queue(queue)
            count = int(plain.declaration_result.message_count or 0)
            found: list[Any] = []

            async def take(message: Any) -> None:
                found.append(message)

            await plain.consume(take)
            async with asyncio.timeout(10):
                while len(found) < count:
                    await asyncio.sleep(0.005)
        finally:
            await reader.close()
        return found

    async def bodies(self, queue: str) -> list[bytes]:
        return [message.body for message in await self.messages(queue)]

    async def distinct(self, queue: str) -> list[str]:
        """What a consumer takes that remembers ids."""
        found: dict[str, str] = {}
        for message in await self.messages(queue):
            found.setdefault(message.message_id or fresh("none"), message.body.decode())
        return list(found.values())

    async def feed_plain(self, queue: str, bodies: Sequence[bytes]) -> None:
        """Publishes bodies without any property; aio-pika would set a message id."""
        link = await Link.connect(self.rabbit, "outsider")
        try:
            channel = await link.channel()
            for body in bodies:
                await link.send(plain_message(channel.number, queue, body))
            await link.ask(channel.queue_declare(queue, passive=True))
        finally:
            await link.close()

    async def ctl(self, *arguments: str) -> None:
        """Runs rabbitmqctl: ``set_vm_memory_high_watermark 0``, ``eval '...'``; takes seconds."""
        server = self.server
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(server.folder),
            "ERL_EPMD_PORT": str(server.ports[4]),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
        }
        ctl = await asyncio.create_subprocess_exec(
            *("/usr/lib/rabbitmq/bin/rabbitmqctl", "-n", f"{server.node}@localhost", *arguments),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=environment,
        )
        said, _ = await ctl.communicate()
        assert ctl.returncode == 0, said.decode()

    async def depth(self, queue: str) -> int:
        """Messages that are ready."""
        declared = await self.channel.declare_queue(queue, passive=True)
        return int(declared.declaration_result.message_count or 0)
