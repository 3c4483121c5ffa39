"""A source on one stream, or on the partitions of a super stream."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Set
from typing import Final

from streamflow.batch import Partition, Position, SourceBatch, Taken
from streamflow.connect.contracts import Guarantee, Probe, SourceContext
from streamflow.errors import ConnectorError, Unavailable
from streamflow_rabbitmq.settings import RabbitMQ
from streamflow_rabbitmq.stream import StreamSettings
from streamflow_rabbitmq.streams.edges import last_chunk
from streamflow_rabbitmq.streams.links import Links
from streamflow_rabbitmq.streams.subscription import Subscription

DISCOVERY_SECONDS: Final = 5.0
"""How often a super stream is asked for partitions that were added."""


class StreamSource:
    """Reads one stream, or each partition of a super stream.

    GUARANTEE: delivers each record behind the position once and in order per stream, or raises. Records of chunks
    that were compressed come like all others.
    BOUND: the limits of `Limits`, for each stream.

    Args:
        rabbit: The broker.
        settings: The stream or super stream.
        guarantee: What the spec promises.
    """

    def __init__(self, rabbit: RabbitMQ, settings: StreamSettings, guarantee: Guarantee) -> None:
        self.guarantee = guarantee
        self._rabbit, self._settings = rabbit, settings
        self._links: Links | None = None
        self._subscriptions: dict[Partition, Subscription] = {}
        self._turn: list[Partition] = []
        self._awake = asyncio.Event()
        self._discovering: asyncio.Task[None] | None = None

    async def probe(self) -> Probe:
        return await self.probe_behind({})

    async def probe_behind(self, resume: Mapping[Partition, Position]) -> Probe:
        """Looks whether these positions still fit the streams, too."""
        from streamflow_rabbitmq.streams.probe import probe_stream

        return await probe_stream(self._rabbit, self._settings, resume)

    async def open(self, ctx: SourceContext, resume: Mapping[Partition, Position]) -> Mapping[Partition, Position]:
        await self.close()
        name = f"streamflow {ctx.flow} {ctx.source}"
        self._links = Links(self._rabbit, name, self._rabbit.times.heartbeat_seconds)
        try:
            await self._links.open()
            latest = self._settings.start == "latest"
            for partition, stream in (await self._links.streams(self._settings, resume)).items():
                position = resume.get(partition)
                self._subscriptions[partition] = await self._subscribe(self._links, stream, position, latest=latest)
        except BaseException:
            await self.close()
            raise
        for link in self._links.all():
            link.lost.add_done_callback(lambda _: self._awake.set())
        if self._settings.partitioned:
            self._discovering = asyncio.ensure_future(self._discover(self._links, ctx))
        return {
            partition: resume.get(partition, Position(each.at, each.identity))
            for partition, each in self._subscriptions.items()
        }

    async def read(self) -> SourceBatch:
        while True:
            self._opened().check()
            partition = self._next()
            if partition is not None:
                subscription = self._subscriptions[partition]
                await subscription.sound()
                if subscription.has_records:  # else it was paused meanwhile
                    return _batch(partition, subscription)
                continue
            self._awake.clear()
            await self._awake.wait()

    async def ends(self) -> Mapping[Partition, Position | None]:
        self._opened().check()
        found: dict[Partition, Position | None] = {}
        for partition, each in list(self._subscriptions.items()):
            last = await last_chunk(each.link, each.stream)
            found[partition] = Position(each.at if last is None else last.end, each.identity)
        return found

    def pause(self, partitions: Set[Partition]) -> None:
        for partition, each in self._subscriptions.items():
            each.paused = partition in partitions
            if self._links is not None and not each.link.lost.done():
                each.top_up()
        self._awake.set()

    async def committed(self, epoch: int, taken: Taken) -> None:
        """Nothing: the broker holds no position of ours."""

    async def close(self) -> None:
        links, self._links = self._links, None
        discovering, self._discovering = self._discovering, None
        self._subscriptions = {}
        self._turn = []
        self._awake.set()
        if discovering is not None:
            discovering.cancel()
            await asyncio.wait([discovering])
        if links is not None:
            await links.close()

    def _opened(self) -> Links:
        if self._links is None:
            raise Unavailable(f"{self._settings.describe()} is not open", hint="Open the source first.")
        return self._links

    async def _subscribe(
        self, links: Links, stream: str, position: Position | None, *, latest: bool = False
    ) -> Subscription:
        link = await links.to(stream)
        subscription = Subscription(link, stream, self._settings.limits, self._awake.set)
        at, identity = (None, "") if position is None else (position.at, position.identity)
        await subscription.start(at, identity, latest=latest)
        return subscription

    def _next(self) -> Partition | None:
        """The partition whose turn it is among those that have records."""
        for _ in range(len(self._subscriptions)):
            if not self._turn:
                self._turn = list(self._subscriptions)
            partition = self._turn.pop()
            if self._subscriptions[partition].has_records:
                return partition
        return None

    async def _discover(self, links: Links, ctx: SourceContext) -> None:
        """Adds partitions that a super stream has got; they are read from their first record on."""
        try:
            while True:
                await asyncio.sleep(DISCOVERY_SECONDS)
                for name in await links.partitions(self._settings.name):
                    if name not in self._subscriptions:
                        found = await self._subscribe(links, name, None)
                        await ctx.pin({name: Position(found.at, found.identity)})
                        self._subscriptions[name] = found
                        self._awake.set()
        except ConnectorError as error:
            links.fail(error)


def _batch(partition: Partition, subscription: Subscription) -> SourceBatch:
    chunk, records = subscription.take()
    count = len(records.payloads)
    return SourceBatch(
        partition,
        records.payloads,
        positions=range(records.offset + 1, records.offset + 1 + count),
        identity=subscription.identity,
        headers=records.headers,
        keys=records.keys,
        timestamps_ms=[chunk.timestamp_ms] * count,
    )
