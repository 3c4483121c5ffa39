"""The witness of a sink in mode tx: a queue that vanishes when the broker restarts, so that a sink knows if it did."""

from __future__ import annotations

from streamflow.errors import NotFound
from streamflow_rabbitmq.link import Link


class Witness:
    """Tells whether the broker has run on since a sink last believed its marker.

    A transaction whose commit was not answered went through whole, or not at all, as long as the broker lives: it ends
    what it has begun. If it dies meanwhile, each queue comes back with what it had written down, the marker perhaps
    without the messages that it tells of.

    GUARANTEE: `stands` is false once the node that had the queue was restarted after `stand`. BOUND: an empty queue.

    Args:
        link: The connection.
        fence: The sink's name.
    """

    def __init__(self, link: Link, fence: str) -> None:
        self.name = f"sf.alive.{fence.removeprefix('sf.')}"
        self._link = link

    async def stands(self) -> bool:
        """Whether the broker has run on."""
        try:
            async with self._link.questions(f"queue {self.name}") as channel:
                await self._link.ask(channel.queue_declare(self.name, passive=True))
        except NotFound:
            return False
        return True

    async def stand(self) -> None:
        """From now on the broker's marker is believed, until it restarts."""
        async with self._link.questions(f"queue {self.name} (permissions on ^sf\\.)") as channel:
            await self._link.ask(channel.queue_declare(self.name, durable=False))
