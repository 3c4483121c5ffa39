"""Transactions of one producer, request by request.

aiokafka's producer sends again without end, swallows why, and after a refused batch counts on (its next batch of that
partition is out of order). Here every answer is looked at, and what is not plainly good ends the producer: it is begun
anew, which shuts the old one out, and the marker tells what became of its last transaction.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, Final

from streamflow.errors import ConnectorError, Fenced, NotFound, Unavailable
from streamflow_kafka.client import Cluster
from streamflow_kafka.outcomes import Last, with_note

GROUP: Final = 0
TRANSACTION: Final = 1
IN_FLIGHT_MAX: Final = 5
"""Requests on their way to one broker: more, and a broker no longer knows batches that come twice (KIP-98)."""
_WAITS: Final = (0.001, 0.002, 0.004, 0.008, 0.016)
"""Between tries while the markers of the last transaction are still being written, which takes some milliseconds."""
_START_SECONDS: Final = 0.05
REPAIR_MS: Final = 900_000
"""How long the broker keeps a repair open that was cut off, if it allows for so much: 15 minutes are its default."""
_COMMIT: Final = True
_ALL_REPLICAS: Final = -1

# Kafka's error codes
MESSAGE_TOO_LARGE: Final = 10
BATCH_TOO_LARGE: Final = 18
INVALID_TIMESTAMP: Final = 32
INVALID_RECORD: Final = 87
REFUSED_FOR_GOOD: Final = frozenset({MESSAGE_TOO_LARGE, BATCH_TOO_LARGE, INVALID_TIMESTAMP, INVALID_RECORD})
_UNKNOWN_TOPIC: Final = 3
_NOT_YET: Final = frozenset({19, 20})  # not enough replicas, before and after it was written
_THERE_ALREADY: Final = 46  # the number of a batch that was sent again
_LOADING: Final = frozenset({14, 15, 16})  # the coordinator is loading, not there, or somebody else
_CONCURRENT: Final = 51
_FENCED: Final = frozenset({47, 90})  # the epoch is an older one's
_DENIED: Final = {29: "topic", 30: "group", 31: "cluster", 53: "transactional id"}
_TIMEOUT_TOO_LONG: Final = 50
_UNKNOWN_ID: Final = 105


class TooLong(ConnectorError):
    """The broker does not allow transactions to take so long."""


class Refused(Exception):
    """A broker refuses the records of one batch for good.

    Args:
        first_seq: Number of the batch's first record.
        count: How many records it has.
        code: Kafka's error code.
    """

    def __init__(self, first_seq: int, count: int, code: int) -> None:
        super().__init__(f"records {first_seq} to {first_seq + count - 1}: error {code}")
        self.first_seq, self.count, self.code = first_seq, count, code


@dataclass(frozen=True, slots=True)
class Batch:
    """Records of one partition, as they go to the broker.

    Args:
        partition: The partition.
        first_seq: Number of the first record in the sink; the others need not follow without a gap.
        count: How many there are.
        content: The batch in Kafka's format.
    """

    partition: int
    first_seq: int
    count: int
    content: bytes


@dataclass(slots=True)
class _Identity:
    """What the coordinator gave: it tells this producer's batches from all others'."""

    id: int
    epoch: int
    sequences: dict[int, int] = field(default_factory=dict)


class Transactions:
    """One producer's transactions on one topic, one after the other.

    GUARANTEE: from the return of `begin` on, no older producer of this name commits anything; a transaction whose
    `commit` returns is visible whole, one that is left is never. BOUND: `IN_FLIGHT_MAX` requests per broker.

    Args:
        cluster: Where.
        name: The transactional id, and the group whose offset is the marker.
        topic: Where records go.
    """

    def __init__(self, cluster: Cluster, name: str, topic: str) -> None:
        self._cluster, self._name, self._topic = cluster, name, topic
        self._identity = _Identity(-1, -1)
        self._coordinators: dict[int, int] = {}
        self._slots: dict[int, asyncio.Semaphore] = {}
        self.open = False
        """Whether a transaction may be open."""

    @property
    def producer(self) -> tuple[int, int]:
        """Id and epoch of the producer, for its batches."""
        return self._identity.id, self._identity.epoch

    def take_sequence(self, partition: int, count: int) -> int:
        """The sequence number of a batch's first record; each batch must be sent in the order of these."""
        first = self._identity.sequences.get(partition, 0)
        self._identity.sequences[partition] = (first + count) & 0x7FFFFFFF
        return first

    async def begin(self, after: bool | None = None, *, again: bool = False) -> None:
        """Shuts older producers of this name out, and ends what they left open.

        Args:
            again: Whether this one began before; it is refused then if a newer one has begun since.
            after: Notes at the coordinator how the transaction before it ended: whether by a commit. Such a producer
                only repairs what is left of that one (see `repair`); records are sent by one without a note.

        Raises:
            Fenced: A newer producer has begun.
            Unavailable: The coordinator cannot do it now.
            ConnectorError: This user may not.
        """
        producer = self.producer if again else None
        if again:
            await self._check_newest()
        own_ms = int(self._cluster.options.transaction_timeout_seconds * 1000)
        if after is not None:
            try:
                await self._begin(with_note(max(own_ms, REPAIR_MS), after), producer)
                return
            except TooLong:
                pass
        await self._begin(with_note(own_ms, after), producer)

    async def _check_newest(self) -> None:
        """Looks before it asks: whoever asks to begin again while a transaction of a newer one is open ends that.

        Kafka 4.3 aborts and shuts out what is open first, and only then sees that the one who asks is an older one.
        """
        last = await self.last()
        if last.state and last.producer != self.producer:
            raise self._fenced()

    async def _begin(self, timeout_ms: int, producer: tuple[int, int] | None) -> None:
        from aiokafka.protocol.transaction import InitProducerIdRequest

        from streamflow_kafka.requests import BeginAgain

        def request() -> Any:
            if producer is None:
                return InitProducerIdRequest(self._name, timeout_ms)
            return BeginAgain(self._name, timeout_ms, producer)

        answer = await self._asked(TRANSACTION, request)
        self._identity = _Identity(answer.producer_id, answer.producer_epoch)
        self.open = False

    async def last(self) -> Last:
        """Asks what the coordinator knows of the last transaction; nothing where it is older than Kafka 3.0."""
        from aiokafka.errors import IncompatibleBrokerVersion

        from streamflow_kafka.requests import DescribeTransactions

        try:
            answer = await self._asked(TRANSACTION, lambda: DescribeTransactions(self._name))
        except ConnectorError as error:
            if isinstance(error.__cause__, IncompatibleBrokerVersion):
                return Last()
            raise
        _, _, state, timeout_ms, _, number, epoch, *_ = answer.states[0]
        return Last(state, timeout_ms, (number, epoch))

    async def commit_for(self, last: Last) -> None:
        """Commits a transaction that an older producer of this name left open.

        Raises:
            Fenced: A newer producer has begun.
            Unavailable: Unknown outcome.
        """
        from aiokafka.protocol.transaction import EndTxnRequest

        request = EndTxnRequest(self._name, *last.producer, _COMMIT)
        await self._asked(TRANSACTION, lambda: request)

    async def add(self, partitions: Sequence[int]) -> None:
        """Opens a transaction on partitions and on the marker.

        Raises:
            Fenced: A newer producer has begun.
            Unavailable: The coordinator cannot do it now.
        """
        from aiokafka.protocol.transaction import AddOffsetsToTxnRequest, AddPartitionsToTxnRequest

        producer = self._name, *self.producer
        self.open = True
        if partitions:
            topics = [(self._topic, list(partitions))]
            await self._asked(TRANSACTION, lambda: AddPartitionsToTxnRequest(*producer, topics))
        await self._asked(TRANSACTION, lambda: AddOffsetsToTxnRequest(*producer, self._name))

    async def send(self, batches: Sequence[Batch], node: int) -> dict[int, int]:
        """Sends at most one batch per partition to the broker that leads them.

        Returns:
            The offset behind the last record, per partition.

        Raises:
            Refused: The broker will never take one of them.
            Fenced: A newer producer has begun.
            Unavailable: It cannot take them now, or does not say.
        """
        ends: dict[int, int] = {}
        async with self._slots.setdefault(node, asyncio.Semaphore(IN_FLIGHT_MAX)):
            await self._send(batches, node, ends)
        return ends

    async def send_first(self, batches: Sequence[Batch], node: int) -> dict[int, int]:
        """Does what `send` does with the first batches of a transaction, before others are on their way.

        The leader of a partition then asks the coordinator whether the transaction is open (KIP-890). Until it knows,
        it takes nothing, and says that there are not enough replicas.
        """
        deadline = asyncio.get_running_loop().time() + self._cluster.options.timeout_seconds
        ends: dict[int, int] = {}
        tries = 0
        while left := await self._send(batches, node, ends, passing=_NOT_YET):
            if asyncio.get_running_loop().time() > deadline:
                self._check(left[0][1], f"partition {self._topic}:{left[0][0].partition}")
            batches = [batch for batch, _ in left]
            await asyncio.sleep(_WAITS[min(tries, len(_WAITS) - 1)])
            tries += 1
        return ends

    async def _send(
        self, batches: Sequence[Batch], node: int, ends: dict[int, int], passing: Set[int] = frozenset()
    ) -> list[tuple[Batch, int]]:
        """Sends once; returns the batches that met an error that passes, and the error."""
        from aiokafka.protocol.produce import ProduceRequest

        timeout_ms = int(self._cluster.options.timeout_seconds * 1000)
        parts = [(batch.partition, batch.content) for batch in batches]
        request = ProduceRequest(self._name, _ALL_REPLICAS, timeout_ms, [(self._topic, parts)])
        answer = await self._cluster.send(request, node, "produce")
        sent = {batch.partition: batch for batch in batches}
        left = []
        for _, told in answer.topics:
            for partition, code, offset, *_ in told:
                batch = sent[partition]
                if code in passing:
                    left.append((batch, code))
                elif code in REFUSED_FOR_GOOD:
                    raise Refused(batch.first_seq, batch.count, code)
                elif code != _THERE_ALREADY:
                    self._check(code, f"partition {self._topic}:{partition}")
                    ends[partition] = offset + batch.count
        return left

    async def mark(self, offset: int, metadata: str) -> None:
        """Moves the marker within the open transaction.

        Raises:
            Fenced: A newer producer has begun.
            Unavailable: The coordinator cannot do it now.
        """
        from aiokafka.protocol.transaction import TxnOffsetCommitRequest

        topics = [(self._topic, [(0, offset, metadata)])]
        request = TxnOffsetCommitRequest(self._name, self._name, *self.producer, topics)
        await self._asked(GROUP, lambda: request)

    async def commit(self) -> None:
        """Makes the transaction visible.

        Raises:
            Fenced: A newer producer has begun; it was not committed, unless an earlier try was.
            Unavailable: Unknown outcome.
        """
        from aiokafka.protocol.transaction import EndTxnRequest

        request = EndTxnRequest(self._name, *self.producer, _COMMIT)
        await self._asked(TRANSACTION, lambda: request)
        self.open = False

    async def abort(self) -> None:
        """Ends an open transaction, which else holds up readers until a producer begins anew, or it takes too long.

        Raises:
            Fenced: A newer producer has begun, and ended it.
            Unavailable: It could not be ended, or had ended.
        """
        from aiokafka.protocol.transaction import EndTxnRequest

        request = EndTxnRequest(self._name, *self.producer, not _COMMIT)
        await self._asked(TRANSACTION, lambda: request)
        self.open = False

    async def ask_group(self, request: Any) -> Any:
        """Sends a request to the coordinator of the marker's group; its answer is not looked at."""
        return await self._cluster.send(request, await self._coordinator(GROUP), "group")

    def lost(self) -> None:
        """Forgets which brokers coordinate."""
        self._coordinators.clear()

    async def _asked(self, kind: int, request: Callable[[], Any]) -> Any:
        """Sends a request to a coordinator until it is able to answer."""
        deadline = asyncio.get_running_loop().time() + self._cluster.options.timeout_seconds
        tries = 0
        while True:
            node = await self._coordinator(kind)
            answer = await self._cluster.send(request(), node, "group" if kind == GROUP else "transaction")
            codes = list(_codes(answer))
            passing = [code for code in codes if code in _LOADING or code == _CONCURRENT]
            if not passing:
                for code in codes:
                    self._check(code, f"transactional id {self._name}")
                return answer
            if _CONCURRENT not in passing:
                self.lost()
            if asyncio.get_running_loop().time() > deadline:
                self._check(passing[0], f"transactional id {self._name}")
            await asyncio.sleep(_WAITS[min(tries, len(_WAITS) - 1)])
            tries += 1

    async def _coordinator(self, kind: int) -> int:
        from aiokafka.protocol.coordination import FindCoordinatorRequest

        if kind not in self._coordinators:
            deadline = asyncio.get_running_loop().time() + self._cluster.options.timeout_seconds
            answer = await self._cluster.send(FindCoordinatorRequest(self._name, kind))
            # in a cluster that has just started, the topic of coordinators has no leader yet, or is still to be made
            while answer.error_code in _LOADING and asyncio.get_running_loop().time() < deadline:
                await asyncio.sleep(_START_SECONDS)
                answer = await self._cluster.send(FindCoordinatorRequest(self._name, kind))
            self._check(answer.error_code, f"the coordinator of {self._name}")
            if answer.coordinator_id not in self._cluster.nodes:
                await self._cluster.metadata([])
            self._coordinators[kind] = answer.coordinator_id
        return self._coordinators[kind]

    def _fenced(self) -> Fenced:
        return Fenced(
            f"a newer producer has begun with transactional id {self._name} at Kafka {self._cluster.kafka}",
            hint="A newer instance of this flow has taken over; this one has stopped.",
        )

    def _check(self, code: int, what: str) -> None:
        """Raises what an error code means."""
        if not code:
            return
        from aiokafka.errors import for_code

        kafka = self._cluster.kafka
        if code in _FENCED:
            raise self._fenced()
        if code in _DENIED:
            raise ConnectorError(
                f"Kafka at {kafka} does not allow this user the {_DENIED[code]} of {what}",
                hint=f"kafka-acls.sh --add --allow-principal User:NAME --producer --topic {self._topic} "
                f"--transactional-id 'sf.' --group 'sf.' --resource-pattern-type prefixed",
            )
        if code == _UNKNOWN_TOPIC:
            raise NotFound(
                f"Kafka at {kafka} has no topic {self._topic}, or not this partition of it: was it deleted?",
                hint="Bring the topic back; the sink then goes on.",
            )
        if code == _TIMEOUT_TOO_LONG:
            raise TooLong(
                f"Kafka at {kafka} refuses transactions of {self._cluster.options.transaction_timeout_seconds:g} s",
                hint="Lower Options.transaction_timeout_seconds, or raise transaction.max.timeout.ms on the broker.",
            )
        raise Unavailable(
            f"Kafka at {kafka} cannot go on with {what}: {for_code(code).__name__}",
            hint="The sink is opened again; look at the broker if this repeats.",
        )


def _codes(answer: Any) -> Sequence[int]:
    """The error codes in the answer of a coordinator."""
    if hasattr(answer, "error_code"):
        return [answer.error_code]
    if hasattr(answer, "states"):
        return [code for code, *_ in answer.states if code != _UNKNOWN_ID]
    return [code for _, parts in answer.errors for _, code in parts]
