"""On the way out: the frames of one transaction, spread over partitions, packed into batches, and sent in order."""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any, Final, NamedTuple

from streamflow.errors import RecordRejected, Unavailable
from streamflow_kafka.frames import HAS_KEY, Frame, KafkaHeaders, pack, unpack
from streamflow_kafka.marker import Marker
from streamflow_kafka.metadata import NO_LEADER, TopicInfo
from streamflow_kafka.partitioner import STICKY_RECORDS, by_key, partition_of_seq
from streamflow_kafka.tail import FENCE_HEADER, SEQ_HEADER
from streamflow_kafka.transactions import Batch, Transactions

SLICE_RECORDS: Final = 1024
"""After so many records the loop is given back."""
_CODECS: Final = {"": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
_FORMAT: Final = 2

_NO_HEADERS: Final[KafkaHeaders] = []
_UINT: Final = struct.Struct(">I").unpack_from


class Share(NamedTuple):
    """The records of one transaction that go to one partition: their numbers, and their frames as they are.

    A frame is taken apart only when it is packed: so many small objects kept at once cost more than doing it twice.
    """

    seqs: list[int]
    frames: list[bytes]


class Outgoing:
    """Packs and sends the records of transactions.

    GUARANTEE: a partition's records are sent in order; a record goes to the partition that its key, ``partition=`` or
    its number gives. BOUND: one batch per partition is in the making.

    Args:
        transactions: The producer.
        compression: Name of the codec of batches; empty for none.
        batch_bytes: Size of a batch before compression; a larger record has a batch of its own.
    """

    def __init__(self, transactions: Transactions, compression: str, batch_bytes: int) -> None:
        self._transactions = transactions
        self._codec, self._batch_bytes = _CODECS[compression], batch_bytes
        self._by_key: tuple[int, Callable[[bytes], int]] = (0, lambda key: 0)

    async def send(
        self,
        topic: TopicInfo,
        frames: Sequence[bytes],
        first_seq: int,
        marker: Marker,
        fence: str,
        *,
        singly: bool = False,
    ) -> dict[int, int]:
        """Opens a transaction, sends the frames, and moves the marker; all but the commit.

        Args:
            topic: Where to, and who leads its partitions.
            frames: The frames; empty ones are left out.
            first_seq: The number of the first.
            marker: What the marker says once all of it is visible.
            fence: The sink's fence, for the last record's header.
            singly: Whether each record gets a batch of its own.

        Returns:
            The offset behind the last record, per partition that got some.

        Raises:
            Refused: A broker will never take a batch.
            RecordRejected: There is no such partition.
            Fenced, Unavailable: As `Transactions` raises them.
        """
        shares = await self._spread(frames, first_seq, len(topic.leaders), topic.name)
        _sign_last(shares, fence)
        nodes = {partition: topic.leaders[partition] for partition in shares}
        for partition, node in nodes.items():
            if node == NO_LEADER:
                raise Unavailable(
                    f"partition {topic.name}:{partition} has no leader at this time",
                    hint="Look at the brokers that hold it.",
                )
        await self._transactions.add(sorted(shares))
        ends: dict[int, int] = {}
        tasks = [asyncio.create_task(self._transactions.mark(marker.next_seq, marker.metadata()))]
        try:
            for turn, requests in enumerate(self._turns(shares, nodes, 1 if singly else self._batch_bytes)):
                send = self._transactions.send if turn else self._transactions.send_first
                tasks += [asyncio.create_task(_sent(send(batches, node), ends)) for node, batches in requests.items()]
                if turn:
                    await asyncio.sleep(0)
                    tasks = [task for task in tasks if not task.done() or task.result()]
                else:
                    await asyncio.gather(*tasks[1:])
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return ends

    async def _spread(self, frames: Sequence[bytes], first_seq: int, partitions: int, topic: str) -> dict[int, Share]:
        """Finds the partition of each record."""
        if self._by_key[0] != partitions:
            self._by_key = partitions, by_key(partitions)
        of_key = self._by_key[1]
        shares = [Share([], []) for _ in range(partitions)]
        for start in range(0, len(frames), SLICE_RECORDS):
            for seq, packed in enumerate(frames[start : start + SLICE_RECORDS], first_seq + start):
                if not packed:
                    continue
                flags = packed[0]
                if flags == 0:
                    partition = seq // STICKY_RECORDS % partitions
                elif flags == HAS_KEY:
                    partition = of_key(packed[5 : 5 + _UINT(packed, 1)[0]])
                else:
                    partition = _partition(unpack(packed), seq, of_key, partitions, topic)
                share = shares[partition]
                share.seqs.append(seq)
                share.frames.append(packed)
            await asyncio.sleep(0)
        return {partition: share for partition, share in enumerate(shares) if share.seqs}

    def _turns(
        self, shares: Mapping[int, Share], nodes: Mapping[int, int], batch_bytes: int
    ) -> Iterator[dict[int, list[Batch]]]:
        """The requests to each node, turn by turn: each has the next batch of every partition that it leads."""
        now_ms = int(time.time() * 1000)
        packers = [self._batches(partition, share, batch_bytes, now_ms) for partition, share in shares.items()]
        for batches in zip_longest(*packers):
            requests: dict[int, list[Batch]] = {}
            for batch in batches:
                if batch is not None:
                    requests.setdefault(nodes[batch.partition], []).append(batch)
            yield requests

    def _batches(self, partition: int, share: Share, batch_bytes: int, now_ms: int) -> Iterator[Batch]:
        """Packs a partition's records, one batch at a time."""
        from aiokafka.record.default_records import DefaultRecordBatchBuilder

        producer, epoch = self._transactions.producer
        at, total = 0, len(share.seqs)
        left = iter(share.frames)
        packed = next(left)
        while at < total:
            builder = DefaultRecordBatchBuilder(
                _FORMAT,
                self._codec,
                is_transactional=1,
                producer_id=producer,
                producer_epoch=epoch,
                base_sequence=0,
                batch_size=batch_bytes,
            )
            # aiokafka's list takes None for a value too, and is only read
            append: Any = builder.append
            count = 0
            while True:
                flags = packed[0]
                if flags == 0:
                    done = append(count, now_ms, None, packed[1:], _NO_HEADERS)
                elif flags == HAS_KEY:
                    middle = 5 + _UINT(packed, 1)[0]
                    done = append(count, now_ms, packed[5:middle], packed[middle:], _NO_HEADERS)
                else:
                    frame = unpack(packed)
                    done = append(count, now_ms, frame.key, frame.value, frame.headers)
                if done is None:  # full: it is the first of the next batch, which takes it in any case
                    break
                count += 1
                if at + count == total:
                    break
                packed = next(left)
            builder.set_producer_state(producer, epoch, self._transactions.take_sequence(partition, count))
            yield Batch(partition, share.seqs[at], count, bytes(builder.build()))
            at += count


async def _sent(sending: Awaitable[dict[int, int]], ends: dict[int, int]) -> None:
    """Waits for an answer, and takes over what it says."""
    for partition, end in (await sending).items():
        ends[partition] = max(end, ends.get(partition, 0))


def _partition(frame: Frame, seq: int, of_key: Callable[[bytes], int], partitions: int, topic: str) -> int:
    """The partition of a record that says more than its key."""
    if frame.partition is not None:
        if frame.partition >= partitions:
            raise RecordRejected(
                seq,
                f"record {seq} wants partition {frame.partition} of topic {topic}, which has {partitions}",
                hint="Add partitions to the topic, or let partition= return a smaller number.",
            )
        return frame.partition
    return partition_of_seq(seq, partitions) if frame.key is None else of_key(frame.key)


def _sign_last(shares: Mapping[int, Share], fence: str) -> None:
    """Writes into the headers of the last record whose it is and which number it has."""
    if shares:
        share = max(shares.values(), key=lambda each: each.seqs[-1])
        frame = unpack(share.frames[-1])
        own: KafkaHeaders = [(FENCE_HEADER, fence.encode()), (SEQ_HEADER, b"%d" % share.seqs[-1])]
        share.frames[-1] = pack(frame._replace(headers=[*frame.headers, *own]))
