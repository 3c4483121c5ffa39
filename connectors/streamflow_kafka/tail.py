"""What a sink finds out from the topic itself when its marker is gone: the last record that tells its number."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final

from streamflow.batch import Position
from streamflow.errors import ProgressUnknown, Unavailable
from streamflow_kafka.client import EARLIEST, LATEST, READ_COMMITTED, READ_UNCOMMITTED, Cluster, Unsettled
from streamflow_kafka.fetching import Fetching
from streamflow_kafka.metadata import TopicInfo
from streamflow_kafka.starts import SETTLE_SECONDS, Place, offsets

FENCE_HEADER: Final = "sf-fence"
SEQ_HEADER: Final = "sf-seq"
"""Each transaction's last record says whose it is, and its number in the sink."""


async def topic_ends(cluster: Cluster, topic: TopicInfo, *, committed: bool = False) -> list[int]:
    """Returns the offset behind each partition's last record, those of open transactions included.

    Args:
        cluster: Where the topic is.
        topic: The topic.
        committed: Whether to return where the first open transaction begins instead, if there is one.

    Raises:
        Unavailable: A partition has no leader, or cannot be asked now.
    """
    leaders = {(topic.name, number): node for number, node in sorted(topic.leaders.items())}
    isolation = READ_COMMITTED if committed else READ_UNCOMMITTED
    for wait in SETTLE_SECONDS:
        try:
            return await _ends(cluster, leaders, isolation)
        except Unsettled:
            # a topic that was just made, or a broker that has just become leader
            await asyncio.sleep(wait)
    return await _ends(cluster, leaders, isolation)


async def next_seq_in_tail(cluster: Cluster, topic: TopicInfo, since: Sequence[int], fence: str) -> int:
    """Reads every partition from an offset to its end; returns the number behind a sink's last record there, else 0.

    Args:
        cluster: Where the topic is.
        topic: The topic.
        since: Offsets behind the sink's last known records; partitions beyond them are read from the beginning.
        fence: The sink.

    Raises:
        ProgressUnknown: Records that might be the sink's are deleted or compacted away.
        Unavailable: Somebody's open transaction hides the end for too long.
    """
    found = _places(topic)
    places = {place.partition: place for place in found}
    begins, ends = await offsets(cluster, places, EARLIEST), await topic_ends(cluster, topic)
    starts = {place.partition: since[place.number] if place.number < len(since) else 0 for place in found}
    missing = [name for name, start in starts.items() if begins[name] > start]
    if missing:
        raise ProgressUnknown(
            f"the marker {fence} of this sink is gone, and so are the records of {missing[0]} from offset "
            f"{starts[missing[0]]} to {begins[missing[0]]}, among which its last ones may have been",
            hint="Look at what consumers got, then: streamflow reset --sink NAME --accept-head.",
        )
    left = {place.partition: ends[place.number] for place in found if ends[place.number] > starts[place.partition]}
    if not left:
        return 0
    if await _is_compacted(cluster, topic.name):
        raise ProgressUnknown(
            f"the marker {fence} of this sink is gone, and topic {topic.name} is compacted: its last records may have "
            "been replaced by somebody else's",
            hint="Look at what consumers got, then: streamflow reset --sink NAME --accept-head.",
        )
    reading = Fetching(cluster, lambda: None)
    reading.add([(places[name], Position(starts[name])) for name in left])
    try:
        return await _read(reading, left, fence, cluster)
    finally:
        await reading.close()


async def _read(reading: Fetching, left: dict[str, int], fence: str, cluster: Cluster) -> int:
    found = 0
    while any(reading.readings[name].at < end for name, end in left.items()):
        try:
            async with asyncio.timeout(cluster.options.timeout_seconds):
                batch = await reading.take()
        except TimeoutError:
            behind = next(name for name, end in left.items() if reading.readings[name].at < end)
            raise Unavailable(
                f"{behind} cannot be read beyond offset {reading.readings[behind].at}: a transaction is open there, "
                "or its leader is away",
                hint="It is read again; end transactions that hang with kafka-transactions.sh.",
            ) from None
        for headers in batch.headers or ():
            if headers and headers.get(FENCE_HEADER) == fence:
                found = max(found, int(headers[SEQ_HEADER]) + 1)
    return found


async def _ends(cluster: Cluster, leaders: Mapping[tuple[str, int], int], isolation: int) -> list[int]:
    told = await cluster.offsets(leaders, LATEST, isolation)
    return [told[place] for place in leaders]


def _places(topic: TopicInfo) -> list[Place]:
    return [Place(topic.name, number, topic.id, node) for number, node in sorted(topic.leaders.items())]


async def _is_compacted(cluster: Cluster, topic: str) -> bool:
    """Whether records may go away because of others with their key; also if the broker does not say."""
    return "compact" in (await topic_settings(cluster, topic)).get("cleanup.policy", "compact")


async def topic_settings(cluster: Cluster, topic: str) -> dict[str, str]:
    """Returns a topic's settings by name; empty where this user may not see them."""
    from aiokafka.protocol.admin import DescribeConfigsRequest

    answer = await cluster.send(DescribeConfigsRequest([(_TOPIC, topic, ["cleanup.policy", "max.message.bytes"])]))
    return {entry[0]: entry[1] for code, _, _, _, entries in answer.resources if not code for entry in entries}


_TOPIC: Final = 2
"""The kind of resource, in a request for settings."""
