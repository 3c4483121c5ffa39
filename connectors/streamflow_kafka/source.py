"""The source: resumes every partition of its topics at a position, and finds partitions that are new."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Set
from contextlib import suppress
from typing import Final

from streamflow.batch import Partition, Position, SourceBatch, Taken
from streamflow.connect.contracts import Guarantee, Probe, SourceContext
from streamflow.errors import NotFound, SourceReplaced, Unavailable
from streamflow_kafka.client import LATEST, Cluster
from streamflow_kafka.fetching import Fetching
from streamflow_kafka.metadata import NO_LEADER
from streamflow_kafka.reporting import Reporting
from streamflow_kafka.settings import Kafka
from streamflow_kafka.starts import Opening, Place, find_topics, offsets, places
from streamflow_kafka.topic import TopicSettings

STALE_SECONDS: Final = 0.2
"""Wait between two looks for partitions that have no leader."""


class KafkaSource:
    """Reads one or more topics.

    GUARANTEE: delivers each committed record behind the positions once and in order per partition, or raises. A
    partition that is made while it runs is read from its beginning, which is stored before its first record.
    BOUND: see `Fetching`.

    Args:
        kafka: The cluster.
        settings: The topics.
        guarantee: What the spec promises.
    """

    def __init__(self, kafka: Kafka, settings: TopicSettings, guarantee: Guarantee) -> None:
        self.guarantee = guarantee
        self._kafka, self._settings = kafka, settings
        self._cluster: Cluster | None = None
        self._fetching: Fetching | None = None
        self._reporting: Reporting | None = None
        self._refreshing: asyncio.Task[None] | None = None
        self._places: dict[Partition, Place] = {}
        self._stale = asyncio.Event()

    async def probe(self) -> Probe:
        return await self.probe_behind({})

    async def probe_behind(self, resume: Mapping[Partition, Position]) -> Probe:
        """Looks whether these positions still fit the topics, too."""
        from streamflow_kafka.probe import probe_source

        return await probe_source(self._kafka, self._settings, resume)

    async def open(self, ctx: SourceContext, resume: Mapping[Partition, Position]) -> Mapping[Partition, Position]:
        await self.close()
        options = self._settings.options
        self._cluster = cluster = await Cluster.connect(self._kafka, options, f"streamflow.{ctx.flow}.{ctx.source}")
        try:
            self._places, starts = await Opening(cluster, self._settings, resume).starts()
        except BaseException:
            await self.close()
            raise
        self._fetching = Fetching(cluster, self._stale.set)
        self._fetching.add((place, starts[name]) for name, place in self._places.items())
        self._refreshing = asyncio.create_task(self._refresh(ctx, cluster, self._fetching))
        if options.report_offsets:
            self._reporting = Reporting(cluster, f"{ctx.flow}.{ctx.source}")
        return starts

    async def read(self) -> SourceBatch | None:
        return await self._opened().take()

    async def ends(self) -> Mapping[Partition, Position | None]:
        self._opened()
        assert self._cluster is not None
        found = await offsets(self._cluster, self._places, LATEST)
        return {name: Position(at, self._places[name].identity) for name, at in found.items()}

    def pause(self, partitions: Set[Partition]) -> None:
        self._opened().pause(partitions)

    async def committed(self, epoch: int, taken: Taken) -> None:
        if self._reporting is not None:
            self._reporting.committed(taken.positions)

    async def close(self) -> None:
        refreshing, self._refreshing = self._refreshing, None
        fetching, self._fetching = self._fetching, None
        reporting, self._reporting = self._reporting, None
        cluster, self._cluster = self._cluster, None
        try:
            if refreshing is not None:
                refreshing.cancel()
                with suppress(asyncio.CancelledError):
                    await refreshing
            if fetching is not None:
                await fetching.close()
            if reporting is not None:
                await reporting.close()
        finally:
            if cluster is not None:
                await cluster.close()

    def _opened(self) -> Fetching:
        if self._fetching is None:
            raise Unavailable("the Kafka source is not open", hint="Open the source first.")
        return self._fetching

    # -- what changes while it runs ---------------------------------------------------------------

    async def _refresh(self, ctx: SourceContext, cluster: Cluster, fetching: Fetching) -> None:
        """Looks for new partitions now and then, and for the leaders of those that have none."""
        options = self._settings.options
        missing_since: float | None = None
        loop = asyncio.get_running_loop()
        try:
            while fetching.failure is None:
                if missing_since is None:
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._stale.wait(), options.refresh_seconds)
                if missing_since is not None or self._stale.is_set():
                    await asyncio.sleep(STALE_SECONDS)
                self._stale.clear()
                missing = await self._update(ctx, cluster, fetching)
                if not missing:
                    missing_since = None
                    continue
                missing_since = loop.time() if missing_since is None else missing_since
                if loop.time() - missing_since > options.timeout_seconds:
                    raise Unavailable(
                        f"partitions {', '.join(sorted(missing)[:5])} of Kafka at {self._kafka} have no leader",
                        hint="Look at the brokers that hold them; it is tried again.",
                    )
        except asyncio.CancelledError:
            raise
        except Exception as error:
            fetching.fail(error)

    async def _update(self, ctx: SourceContext, cluster: Cluster, fetching: Fetching) -> set[Partition]:
        """Adapts to the topics as they are; returns the partitions that cannot be read at this time."""
        try:
            found = places(await find_topics(cluster, self._settings))
        except NotFound:
            return set(self._places)
        for name, place in self._places.items():
            now = found.get(name)
            if now is not None and now.identity != place.identity:
                raise SourceReplaced(
                    f"topic {place.topic} at {self._kafka} was deleted and made again while it was read",
                    hint="Bring the old topic back, or start anew with: streamflow reset.",
                )
        new = {name: place for name, place in found.items() if name not in self._places and place.leader != NO_LEADER}
        if new:
            starts = {name: Position(0, place.identity) for name, place in new.items()}
            await ctx.pin(starts)
            self._places |= new
            fetching.add((place, starts[name]) for name, place in new.items())
        leaders = {name: found[name].leader for name in self._places if name in found}
        fetching.lead(leaders)
        missing = {name for name, node in leaders.items() if node == NO_LEADER}
        return missing | (self._places.keys() - found.keys())
