"""Reading ahead: asks every broker for the records of the partitions it leads, and hands them out in order.

aiokafka's consumer does this too, but decompresses without a bound, and makes an object of eleven fields per record.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass, field
from typing import Any, Final

from streamflow.batch import Headers, Partition, Position, SourceBatch
from streamflow.errors import ConnectorError, StreamflowError, Unavailable
from streamflow_kafka.batches import Batches, split
from streamflow_kafka.client import READ_COMMITTED, Cluster, denied
from streamflow_kafka.metadata import NO_LEADER
from streamflow_kafka.starts import TOPIC_DENIED, Place

READ_RECORDS_MAX: Final = 1024
FULL_WAIT_SECONDS: Final = 0.02
"""How long a broker may wait for records of some partitions while another one's are being used up."""
PAUSED_WAIT_SECONDS: Final = 0.1
OUT_OF_RANGE: Final = 1
_MOVED: Final = frozenset({3, 5, 6, 9, 56, 72, 74, 75, 76, 78, 100, 103})
"""Errors that pass once the leader is asked for anew."""
_PURPOSE: Final = "fetch"


@dataclass(slots=True)
class Reading:
    """One partition that is read.

    Args:
        place: Which one.
        leader: The node to ask; `NO_LEADER` while it is not known.
        asked: Offset to ask for next.
        at: Offset to hand out next.
    """

    place: Place
    leader: int
    asked: int
    at: int
    replica: int = NO_LEADER
    size_bytes: int = 0
    answers: deque[Batches] = field(default_factory=deque)
    error: StreamflowError | None = None

    @property
    def node(self) -> int:
        """The node to ask: a nearer replica where the leader named one."""
        return self.leader if self.replica == NO_LEADER else self.replica


class Fetching:
    """Keeps records of every partition at hand.

    GUARANTEE: hands out each committed record from the start on once, in order per partition, or raises.
    BOUND: ``fetch_bytes`` at hand and as much again on the way from each broker; one batch decompressed at a time.

    Args:
        cluster: The brokers; they are asked for records on connections of their own.
        stale: Called when a partition's leader must be asked for.
    """

    def __init__(self, cluster: Cluster, stale: Callable[[], None]) -> None:
        self.readings: dict[Partition, Reading] = {}
        self.paused: Set[Partition] = frozenset()
        self.failure: Exception | None = None
        self._cluster, self._options = cluster, cluster.options
        self._stale = stale
        self._ready: dict[Partition, Reading] = {}
        self._size_bytes = 0
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()
        self._tasks: dict[int, asyncio.Task[None]] = {}

    def add(self, found: Iterable[tuple[Place, Position]]) -> None:
        """Begins to read partitions."""
        for place, start in found:
            self.readings[place.partition] = Reading(place, place.leader, start.at, start.at)
        self.look()

    def lead(self, leaders: Mapping[Partition, int]) -> None:
        """Says who leads partitions now."""
        for partition, node in leaders.items():
            reading = self.readings[partition]
            if reading.leader != node:
                reading.leader, reading.replica = node, NO_LEADER
        self.look()

    def look(self) -> None:
        """Lets every node be asked anew: room was made, or partitions changed."""
        for node in {reading.node for reading in self.readings.values()} - self._tasks.keys() - {NO_LEADER}:
            self._tasks[node] = asyncio.create_task(self._run(node))
        self._room.set()

    def pause(self, partitions: Set[Partition]) -> None:
        """Names the partitions that are neither asked for nor handed out."""
        self.paused = frozenset(partitions)
        self._room.set()
        self._arrived.set()

    def fail(self, error: Exception) -> None:
        """Ends the reading: what is at hand is still handed out, then this is raised."""
        if self.failure is None:
            self.failure = error
        self._arrived.set()

    async def close(self) -> None:
        """Ends the tasks."""
        tasks, self._tasks = list(self._tasks.values()), {}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- handing out ------------------------------------------------------------------------------

    async def take(self) -> SourceBatch:
        """Waits for records, or for a position that moves on without any; nothing is lost by cancelling it."""
        while True:
            for partition in list(self._ready):
                if partition not in self.paused and (batch := self._take(self._ready[partition])) is not None:
                    return batch
            if self.failure is not None:
                raise self.failure
            self._arrived.clear()
            await self._arrived.wait()

    def _take(self, reading: Reading) -> SourceBatch | None:
        """Returns what one partition has at hand; the others go first next time."""
        partition = reading.place.partition
        del self._ready[partition]
        if reading.error is not None:
            raise reading.error
        start, records = reading.at, list[Any]()
        while reading.answers and len(records) < READ_RECORDS_MAX:
            answer = reading.answers[0]
            try:
                some, reading.at = answer.take(reading.at, READ_RECORDS_MAX - len(records))
            except StreamflowError as error:
                # first what lies before it, so that a restart finds the place at once
                reading.error = error
                break
            records += some
            if answer.empty:
                reading.answers.popleft()
                self._used(reading, answer.size_bytes)
        if reading.answers or reading.error is not None:
            self._ready[partition] = reading
        if reading.error is not None and not records:
            raise reading.error
        return None if reading.at == start else as_batch(reading.place, records, reading.at)

    def _used(self, reading: Reading, size_bytes: int) -> None:
        reading.size_bytes -= size_bytes
        self._size_bytes -= size_bytes
        self._room.set()

    # -- asking -----------------------------------------------------------------------------------

    async def _run(self, node: int) -> None:
        """Asks one node for as long as it leads something."""
        turn = 0
        try:
            while self.failure is None:
                wanted, wait_seconds = self._wanted(node)
                if not wanted:
                    self._room.clear()
                    await self._room.wait()
                    continue
                # a broker fills its answer in the order it is asked
                turn += 1
                first = turn % len(wanted)
                await self._fetch(node, wanted[first:] + wanted[:first], wait_seconds)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            self.fail(error)

    def _wanted(self, node: int) -> tuple[list[Reading], float]:
        """The partitions to ask a node for, and how long it may wait for their records."""
        options = self._options
        led = [reading for reading in self.readings.values() if reading.node == node]
        if self._size_bytes >= options.fetch_bytes:
            self._let_go()
        if self._size_bytes >= options.fetch_bytes:
            return [], 0.0
        open_ones = [reading for reading in led if reading.place.partition not in self.paused]
        wanted = [reading for reading in open_ones if reading.size_bytes < options.fetch_partition_bytes]
        wait_seconds = options.fetch_wait_seconds
        if len(open_ones) < len(led):
            wait_seconds = min(wait_seconds, PAUSED_WAIT_SECONDS)
        if len(wanted) < len(open_ones):
            wait_seconds = min(wait_seconds, FULL_WAIT_SECONDS)
        return wanted, wait_seconds

    def _let_go(self) -> None:
        """Forgets what paused partitions have at hand, which else would hold up the others; it is asked for again."""
        for partition in self.paused & self._ready.keys():
            reading = self._ready.pop(partition)
            self._used(reading, reading.size_bytes)
            reading.answers.clear()
            reading.asked = reading.at

    async def _fetch(self, node: int, wanted: list[Reading], wait_seconds: float) -> None:
        from aiokafka.protocol.fetch import FetchRequest

        options = self._options
        topics: dict[str, list[tuple[int, int, int]]] = {}
        asked: dict[Partition, int] = {}
        for reading in wanted:
            place = reading.place
            asked[place.partition] = reading.asked
            part = (place.number, reading.asked, options.fetch_partition_bytes)
            topics.setdefault(place.topic, []).append(part)
        request = FetchRequest(
            int(wait_seconds * 1000),
            options.fetch_bytes_min,
            options.fetch_bytes,
            READ_COMMITTED,
            list(topics.items()),
            options.rack,
        )
        response = await self._cluster.send(request, node, _PURPOSE)
        names = response.SCHEMA.fields[response.SCHEMA.names.index("topics")].array_of.fields[1].array_of.names
        for topic, parts in response.topics:
            for values in parts:
                told = dict(zip(names, values, strict=True))
                reading = self.readings[f"{topic}:{told['partition']}"]
                # what is at hand may have been let go, or another node been named, while it was under way
                if reading.node == node and reading.asked == asked[reading.place.partition]:
                    self._accept(reading, node, told)
        if any(reading.node != node for reading in wanted):
            self.look()

    def _accept(self, reading: Reading, node: int, told: Mapping[str, Any]) -> None:
        """Keeps what a node answers about a partition."""
        place, code = reading.place, told["error_code"]
        if code == OUT_OF_RANGE and node != reading.leader:
            reading.replica = NO_LEADER
        elif code == OUT_OF_RANGE:
            raise Unavailable(
                f"Kafka at {self._cluster.kafka} has no offset {reading.asked} of {place.partition}",
                hint="The position is compared with what the broker holds, and refused if records are gone.",
            )
        elif code == TOPIC_DENIED:
            raise denied(self._cluster.kafka, place.topic)
        elif code in _MOVED:
            reading.leader = reading.replica = NO_LEADER
            self._stale()
        elif code:
            from aiokafka.errors import for_code

            raise Unavailable(
                f"Kafka at {self._cluster.kafka} cannot give records of {place.partition}: {for_code(code).__name__}",
                hint="It is asked again; look at the broker's log if this repeats.",
            )
        elif told.get("preferred_read_replica", NO_LEADER) != NO_LEADER:
            reading.replica = told["preferred_read_replica"]
        elif told["message_set"]:
            self._keep(reading, told["message_set"], told["aborted_transactions"] or ())

    def _keep(self, reading: Reading, data: bytes, aborted: Iterable[tuple[int, int]]) -> None:
        partition = reading.place.partition
        raw = split(data, partition)
        if not raw or raw[-1].next <= reading.asked:
            raise ConnectorError(
                f"Kafka at {self._cluster.kafka} gives no records of {partition} at offset {reading.asked}, "
                f"but {len(data)} bytes of something else",
                hint="Look at the broker's log; Kafka 2.1 to 4.x is supported.",
            )
        reading.asked = raw[-1].next
        answer = Batches(partition, raw, aborted, size_bytes_max=self._options.batch_bytes_max)
        reading.answers.append(answer)
        reading.size_bytes += answer.size_bytes
        self._size_bytes += answer.size_bytes
        self._ready[partition] = reading
        self._arrived.set()


def as_batch(place: Place, records: list[Any], end: int) -> SourceBatch:
    """Makes a batch of aiokafka's records, which end before offset ``end``."""
    if not records:
        return SourceBatch(place.partition, [], [], identity=place.identity, resume=end)
    first, last = records[0].offset, records[-1].offset
    if last - first == len(records) - 1:
        positions: Any = range(first + 1, last + 2)
    else:
        positions = [record.offset + 1 for record in records]
    keys = [record.key for record in records]
    headers = [record.headers for record in records]
    return SourceBatch(
        place.partition,
        [record.value for record in records],
        positions,
        identity=place.identity,
        headers=[as_headers(each) if each else None for each in headers] if any(headers) else None,
        keys=keys if any(key is not None for key in keys) else None,
        timestamps_ms=[record.timestamp for record in records],
        resume=None if end == last + 1 else end,
    )


def as_headers(pairs: Iterable[tuple[str, bytes | None]]) -> Headers:
    """Headers as text: bytes that are not UTF-8 become surrogates, a null the empty text; of one name the last one."""
    return {name: "" if value is None else value.decode("utf-8", "surrogateescape") for name, value in pairs}
