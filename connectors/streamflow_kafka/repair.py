"""What a killed broker left undecided of a sink's last transaction, decided in the way that it ended."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from streamflow.errors import ProgressUnknown
from streamflow_kafka.client import Cluster
from streamflow_kafka.marker import Hidden, Marker
from streamflow_kafka.metadata import TopicInfo
from streamflow_kafka.outcomes import Last
from streamflow_kafka.tail import topic_ends
from streamflow_kafka.transactions import Transactions

REPAIRING: Final = "sink.repairing"
"""A crash point that no other sink has: the transaction that decides what was left is open."""


class Repair:
    """Begins a sink's producer, and repairs what was left of its last transaction before anything is published.

    A broker that was killed while it wrote the ends of a transaction to its partitions may leave some out when it comes
    back, and calls the transaction complete (seen with Kafka 4.3, see docs/brokers/kafka.md). Then the marker stays
    undecided for ever, or records do; the end of this producer's next transaction decides both. So one is ended here
    that has nothing of its own, the way that the last one was.

    GUARANTEE: a death at any instant leaves the coordinator with what the next opening needs: the note of how the last
    transaction ended, or this one open, which is then committed by whoever opens the sink next. BOUND: an open repair
    outlives its process by `REPAIR_MS`; if nobody comes until then, the broker aborts it, and the sink refuses to go
    on.

    Args:
        cluster: Where.
        transactions: The producer's.
        fence: The sink's name.
        point: Called at the crash points.
    """

    def __init__(self, cluster: Cluster, transactions: Transactions, fence: str, point: Callable[[str], None]) -> None:
        self._cluster, self._transactions, self._fence, self._point = cluster, transactions, fence, point
        self._last = Last()
        self._noted = False

    async def begin(self) -> None:
        """Begins a producer that notes how the last transaction ended; a repair that was cut off is ended first.

        Raises:
            Fenced: A newer producer has begun.
            Unavailable: The coordinator cannot do it now.
        """
        last = await self._transactions.last()
        if last.is_open_repair:
            await self._transactions.commit_for(last)
            last = await self._transactions.last()
        self._last = last
        if not last.is_lost_repair:
            await self._begin(last.outcome, again=False)

    async def settle(
        self, topic: TopicInfo, known: Sequence[int] | None, read_marker: Callable[[], Awaitable[Marker | None]]
    ) -> Marker | None:
        """Returns the marker, once nothing of this producer is undecided any more; then it may publish.

        Args:
            topic: The sink's topic.
            known: Where the partitions ended behind what the store knows to be acknowledged, if it knows of any.
            read_marker: Reads the marker.

        Raises:
            ProgressUnknown: Nobody knows any more how the last transaction ended, or records of it are lost.
        """
        if self._last.is_lost_repair and known is not None:
            raise self._lost()
        try:
            marker, hidden = await read_marker(), False
        except Hidden:
            marker, hidden = None, True
        ends = await topic_ends(self._cluster, topic)
        stable = await topic_ends(self._cluster, topic, committed=True)
        outcome = self._last.outcome
        if outcome is None and any(end < old for end, old in zip(stable, known or (), strict=False)):
            outcome = True  # its commit was acknowledged
        if hidden or (stable != ends and outcome is not None):
            if outcome is None:
                raise self._forgotten()
            await self._end_alike(topic, outcome)
            marker = await read_marker()
        if self._noted or self._last.is_lost_repair:
            await self._begin(None, again=not self._last.is_lost_repair)
        return marker

    async def _begin(self, note: bool | None, *, again: bool) -> None:
        """Begins a producer; again only in its own place: one that was frozen must not shut out who has taken over."""
        await self._transactions.begin(note, again=again)
        self._noted = note is not None

    async def _end_alike(self, topic: TopicInfo, outcome: bool) -> None:
        if not self._noted:
            await self._begin(outcome, again=not self._last.is_lost_repair)
        transactions = self._transactions
        await transactions.add(sorted(topic.leaders))
        # whatever happens now, nobody may abort it: that would decide what was left the wrong way
        transactions.open = False
        self._point(REPAIRING)
        await (transactions.commit() if outcome else transactions.abort())

    def _forgotten(self) -> ProgressUnknown:
        return ProgressUnknown(
            f"Kafka at {self._cluster.kafka} left the last transaction of {self._fence} undecided, and has forgotten "
            "how it ended",
            hint="Look at what consumers got, then: streamflow reset --sink NAME --accept-head.",
        )

    def _lost(self) -> ProgressUnknown:
        return ProgressUnknown(
            f"Kafka at {self._cluster.kafka} has aborted what was left of the last transaction of {self._fence}: its "
            "records were acknowledged, and some may be gone",
            hint="Look at what consumers got, then: streamflow reset --sink NAME --accept-head.",
        )
