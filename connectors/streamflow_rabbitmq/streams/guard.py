"""The lock of a stream sink: it lives on an AMQP connection beside the one that publishes."""

from __future__ import annotations

import asyncio
from typing import Final

from streamflow.errors import StreamflowError, Unavailable
from streamflow_rabbitmq.link import Link
from streamflow_rabbitmq.lock import Lock
from streamflow_rabbitmq.settings import RabbitMQ
from streamflow_rabbitmq.streams.links import Links

SILENT_SECONDS: Final = 1.0
"""A holder that lives lets the lock go sooner than this."""


class Guard:
    """Keeps older instances of a sink from publishing; a stream itself would drop what they do, but not say so.

    GUARANTEE: from `take` on, an older instance that lives has cut its connections, and one that is frozen or cut off
    has lost them at the broker; when the lock is lost, ``links`` are, at once. BOUND: ``takeover_seconds`` of waiting,
    and two heartbeats more where the holder was silent.

    What goes through the lock's own connection ends with it (see `Lock`); a stream's messages do not. So where a silent
    holder lost the lock because its heartbeats stayed away, the broker gets the time to let its other connection go,
    too.
    """

    def __init__(self, rabbit: RabbitMQ) -> None:
        self._rabbit = rabbit
        self._link: Link | None = None

    async def take(self, links: Links, fence: str, generation: int, name: str) -> None:
        """Takes the lock, from an older instance if need be.

        Args:
            links: Connections that must not outlive the lock.
            fence: The sink's fence name.
            generation: Of the store.
            name: Of the connection, shown in the broker's management.

        Raises:
            Fenced: An instance that may stay holds the lock.
            Unavailable: It is held, and nobody answers.
        """
        loop = asyncio.get_running_loop()
        self._link = link = await Link.connect(self._rabbit, f"{name} lock")
        since = loop.time()
        await Lock(link, fence, generation).take()
        if loop.time() - since > SILENT_SECONDS:
            await asyncio.sleep(2 * self._rabbit.times.heartbeat_seconds)
        link.check()

        def lost(future: asyncio.Future[StreamflowError]) -> None:
            links.fail(future.result())

        link.lost.add_done_callback(lost)

    def check(self) -> None:
        """Raises the error by which the lock was lost."""
        if self._link is None:
            raise Unavailable("the sink's lock is not held", hint="Open the sink first.")
        self._link.check()

    async def close(self) -> None:
        """Lets the lock go."""
        link, self._link = self._link, None
        if link is not None:
            await link.close()
