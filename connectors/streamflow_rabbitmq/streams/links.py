"""The connections of one source or sink: one to each node that leads one of its streams."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from streamflow.batch import Partition
from streamflow.errors import SourceReplaced, Unavailable
from streamflow_rabbitmq.settings import Address, RabbitMQ
from streamflow_rabbitmq.stream import StreamSettings
from streamflow_rabbitmq.streams.edges import SETTLE_PAUSE_SECONDS, SETTLE_SECONDS
from streamflow_rabbitmq.streams.link import StreamLink, connect_any, explain
from streamflow_rabbitmq.streams.wire import Broker, Code, Command, string


class Links:
    """Finds the connection to a stream's leader, and makes it where there is none.

    GUARANTEE: when one connection is lost, all are: `check` raises, and nothing more is sent on any.
    BOUND: one connection per node.

    A node that says that it is the leader keeps the connection, whatever address it was reached by, so that a proxy
    stays in between.
    """

    def __init__(self, rabbit: RabbitMQ, name: str, heartbeat_seconds: int) -> None:
        self.rabbit = rabbit
        self._name, self._heartbeat_seconds = name, heartbeat_seconds
        self._links: dict[Broker, StreamLink] = {}

    async def open(self) -> StreamLink:
        """Connects to the first node that answers."""
        link = await connect_any(self.rabbit, self._name, heartbeat_seconds=self._heartbeat_seconds)
        self._add(link)
        return link

    async def to(self, stream: str) -> StreamLink:
        """The connection to a stream's leader.

        Raises:
            NotFound: There is no such stream.
            Unavailable: It has no leader now, or that cannot be reached.
        """
        any_link = self.any
        metadata = await any_link.metadata(stream)
        leader = metadata.leader
        assert leader is not None, "checked by metadata()"
        if leader not in self._links:
            address = Address(any_link.address.scheme, leader.host, leader.port)
            link = await StreamLink.connect(self.rabbit, address, self._name, self._heartbeat_seconds)
            self._add(link, leader)
        return self._links[leader]

    async def partitions(self, super_stream: str, known: Collection[str] = ()) -> list[str]:
        """The partitions of a super stream, in their order.

        A broker that has just started takes connections before it has all of its bindings back. So a super stream that
        is missing, or has lost some that are known, is looked at again for a while.

        Args:
            super_stream: Its name.
            known: Partitions that it had before.

        Raises:
            NotFound: There is no such super stream.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + SETTLE_SECONDS
        while True:
            code, fields = await self.any.request(Command.PARTITIONS, string(super_stream))
            found = fields.strings() if code == Code.OK else []
            if (found and set(known) <= set(found)) or loop.time() > deadline:
                break
            await asyncio.sleep(SETTLE_PAUSE_SECONDS)
        if not found:
            missing = Code.STREAM_DOES_NOT_EXIST if code == Code.OK else code
            raise explain(missing, f"super stream {super_stream}", self.any)
        return found

    async def streams(self, settings: StreamSettings, known: Collection[Partition] = ()) -> dict[Partition, str]:
        """The streams to read, by the names of their partitions.

        Args:
            settings: The stream, or super stream.
            known: Partitions that were read before.

        Raises:
            NotFound: There is no such super stream.
            SourceReplaced: It lacks a partition that was read before.
        """
        if not settings.partitioned:
            return {"": settings.name}
        names = await self.partitions(settings.name, known)
        gone = sorted(set(known) - set(names))
        if gone:
            raise SourceReplaced(
                f"{settings.describe()} at {self.rabbit} has no partition {', '.join(gone)} any more",
                hint="Bring it back, or start anew with: streamflow reset.",
            )
        return {name: name for name in names}

    @property
    def any(self) -> StreamLink:
        """The connection that was made first."""
        self.check()
        if not self._links:
            raise Unavailable("nothing is connected", hint="Open it first.")
        return next(iter(self._links.values()))

    def all(self) -> list[StreamLink]:
        """Every connection."""
        return list(self._links.values())

    def check(self) -> None:
        """Raises the error of a lost connection."""
        for link in self._links.values():
            link.check()

    def fail(self, error: Exception) -> None:
        """Declares all connections lost."""
        for link in self._links.values():
            link.fail(error)

    async def close(self) -> None:
        """Closes all connections."""
        links, self._links = self._links, {}
        await asyncio.gather(*(link.close() for link in links.values()))

    def _add(self, link: StreamLink, leader: Broker | None = None) -> None:
        self._links[leader or link.advertised] = link
        link.lost.add_done_callback(lambda lost: self.fail(lost.result()))
