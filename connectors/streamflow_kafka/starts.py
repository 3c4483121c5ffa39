"""Where a source starts: the partitions there are, and whether the stored positions still fit them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from streamflow.batch import Partition, Position
from streamflow.errors import NotFound, PositionAhead, RetentionGap, SourceReplaced
from streamflow_kafka.client import EARLIEST, LATEST, Cluster, Unsettled, denied
from streamflow_kafka.metadata import NO_LEADER, TopicInfo
from streamflow_kafka.topic import TopicSettings

UNKNOWN_TOPIC: Final = 3
TOPIC_DENIED: Final = 29
SETTLE_SECONDS: Final = (0.2, 0.5, 1.0, 1.5)
"""Waits before what a cluster says against a stored position is believed: a broker that has just started, or become
leader, may not know of all there is."""


@dataclass(frozen=True, slots=True)
class Place:
    """One partition of a topic.

    Args:
        topic: The topic.
        number: The partition's number.
        identity: The topic's id.
        leader: The node that leads it.
    """

    topic: str
    number: int
    identity: str
    leader: int

    @property
    def partition(self) -> Partition:
        """What the source calls it."""
        return f"{self.topic}:{self.number}"


async def find_topics(cluster: Cluster, settings: TopicSettings) -> dict[str, TopicInfo]:
    """Returns the topics of a source as they are now.

    Raises:
        NotFound: One that is named does not exist.
        ConnectorError: One must not be read.
        Unavailable: The cluster does not know enough at this time.
    """
    told = (await cluster.metadata(settings.names or None)).topics
    if settings.pattern:
        like = re.compile(settings.pattern)
        return {name: topic for name, topic in told.items() if not topic.internal and like.fullmatch(name)}
    for name in settings.names:
        topic = told.get(name)
        if topic is not None and topic.error == TOPIC_DENIED:
            raise denied(cluster.kafka, name)
        if topic is None or topic.error == UNKNOWN_TOPIC:
            raise NotFound(
                f"Kafka at {cluster.kafka} has no topic {name}",
                hint=f"Make it: kafka-topics.sh --create --topic {name} --partitions 6 (or check the name).",
            )
        if not topic.leaders:
            raise Unsettled(f"Kafka at {cluster.kafka} does not know topic {name} yet", hint="It is asked again.")
    return dict(told)


def places(topics: Mapping[str, TopicInfo]) -> dict[Partition, Place]:
    """Returns the partitions of topics by name."""
    found = [
        Place(name, number, topic.id, node) for name, topic in topics.items() for number, node in topic.leaders.items()
    ]
    return {place.partition: place for place in found}


async def offsets(cluster: Cluster, found: Mapping[Partition, Place], when: int) -> dict[Partition, int]:
    """Asks where partitions begin or end."""
    for place in found.values():
        if place.leader == NO_LEADER:
            raise Unsettled(
                f"partition {place.partition} has no leader at this time", hint="Look at the brokers that hold it."
            )
    told = await cluster.offsets({(place.topic, place.number): place.leader for place in found.values()}, when)
    return {name: told[place.topic, place.number] for name, place in found.items()}


class Opening:
    """Decides where each partition starts.

    A stored position is kept or refused, never moved. What has none starts as the settings say, if the source or a
    topic that it names is read for the first time; else at its beginning, because it is new.

    Args:
        cluster: Where to ask.
        settings: What is read, and where it starts.
        resume: The stored positions; those of topics that are not read any more are left alone.
    """

    def __init__(self, cluster: Cluster, settings: TopicSettings, resume: Mapping[Partition, Position]) -> None:
        self._cluster, self._settings, self._resume = cluster, settings, resume
        self._known = {topic for topic in map(topic_of, resume) if self._reads(topic)}

    async def starts(self) -> tuple[dict[Partition, Place], dict[Partition, Position]]:
        """Returns the partitions and where they start.

        Raises:
            NotFound: A topic does not exist, or none matches.
            RetentionGap, PositionAhead, SourceReplaced: A stored position no longer fits.
            Unavailable: The cluster cannot tell at this time.
        """
        # what was read before should still be there: a cluster that is starting gets time to say so
        passing = (Unsettled, NotFound, PositionAhead) if self._known else (Unsettled,)
        for wait in (*SETTLE_SECONDS, None):
            try:
                return await self._look()
            except passing:
                if wait is None:
                    raise
                await asyncio.sleep(wait)
        raise AssertionError("the last look returns or raises")

    async def _look(self) -> tuple[dict[Partition, Place], dict[Partition, Position]]:
        topics = await find_topics(self._cluster, self._settings)
        if not topics and not self._known:
            raise NotFound(
                f"Kafka at {self._cluster.kafka} has no topic like {self._settings.pattern}",
                hint="A pattern must match a topic when it is first read, so that its start can be stored.",
            )
        found = places(topics)
        for partition in self._resume:
            if topic_of(partition) in self._known and partition not in found:
                raise NotFound(
                    f"Kafka at {self._cluster.kafka} has no partition {partition} any more, but it was read before",
                    hint="Bring the topic back; to go on without what was not read, use: streamflow reset.",
                )
        begins = await offsets(self._cluster, found, EARLIEST)
        ends = await offsets(self._cluster, found, LATEST)
        starts = {
            partition: self._start(place, begins[partition], ends[partition]) for partition, place in found.items()
        }
        return found, starts

    def _start(self, place: Place, begin: int, end: int) -> Position:
        stored = self._resume.get(place.partition)
        if stored is None:
            if place.topic in self._known:
                # it was made after the others were first read, and so its records count from 0 on
                return self._checked(place, 0, begin, end)
            first = not self._known or place.topic in self._settings.names
            return Position(end if first and self._settings.start == "latest" else begin, place.identity)
        if stored.identity and place.identity and stored.identity != place.identity:
            raise SourceReplaced(
                f"topic {place.topic} at {self._cluster.kafka} has id {place.identity}; the one read before, "
                f"{stored.identity}: it was deleted and made again",
                hint="Bring the old topic back, or start anew with: streamflow reset.",
            )
        return self._checked(place, stored.at, begin, end)

    def _checked(self, place: Place, at: int, begin: int, end: int) -> Position:
        if at < begin:
            raise RetentionGap(
                f"partition {place.partition} at {self._cluster.kafka} begins at {begin}, but {at} comes next: "
                "what lay between was deleted unread",
                hint="Raise the topic's retention.ms or retention.bytes; to go on without: streamflow reset.",
            )
        if at > end:
            raise PositionAhead(
                f"partition {place.partition} at {self._cluster.kafka} ends at {end}, but {at - 1} was already read",
                hint="The broker lost records (unclean election, lost disk?). Bring them back, or: streamflow reset.",
            )
        return Position(at, place.identity)

    def _reads(self, topic: str) -> bool:
        pattern = self._settings.pattern
        return bool(re.fullmatch(pattern, topic)) if pattern else topic in self._settings.names


def topic_of(partition: Partition) -> str:
    """Returns the topic of a partition's name."""
    return partition.rpartition(":")[0]
