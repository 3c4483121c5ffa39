"""Which run of the broker this is: told by a message that the broker loses when it dies or restarts."""

from __future__ import annotations

import secrets

from streamflow.errors import Unavailable
from streamflow_rabbitmq.link import Link
from streamflow_rabbitmq.marker import ARGUMENTS
from streamflow_rabbitmq.wire import plain_message


async def broker_run(link: Link, fence: str) -> str:
    """An id that stays the same until the broker, or the node with the sink's queues, is started again.

    It is the body of a transient message in a durable queue, ``sf.run.<...>``, which no restart brings back; whoever
    finds none draws a new id. Only who holds the sink's lock may ask.

    GUARANTEE: a restart always gives another id. It may change without one, where somebody purges the queue.
    """
    name = f"sf.run.{fence.removeprefix('sf.')}"
    async with link.questions(f"queue {name} (permissions on ^sf\\.)") as channel:
        await link.ask(channel.queue_declare(name, durable=True, arguments={**ARGUMENTS}))
        content = await link.ask(channel.fetch(name))
        if content is None:
            await link.send(plain_message(channel.number, name, secrets.token_hex(8).encode()))
            content = await link.ask(channel.fetch(name))
        if content is None or content.method.delivery_tag is None:
            raise Unavailable(f"queue {name} does not keep its message", hint="Has it a policy? It is tried again.")
        await channel.basic_nack(content.method.delivery_tag, requeue=True, wait=False)
    return bytes(content.body).decode(errors="replace")
