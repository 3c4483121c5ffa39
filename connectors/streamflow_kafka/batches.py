"""Record batches as a broker sends them: found in its answer, checked, decompressed, and freed of aborted records.

Layout: "Record Batch" in Kafka's protocol guide (format 2, since Kafka 0.11). Records are parsed by aiokafka.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Any, Final, NamedTuple

from aiokafka.record.control_record import ABORT_MARKER, ControlRecord
from aiokafka.record.default_records import DefaultRecordBatch

from streamflow.errors import ConnectorError, DecodeError, Unavailable
from streamflow_kafka.inflate import CODECS, TooLarge, inflate

_HEADER: Final = struct.Struct(">qiibIhiqqqhii")
_PREFIX_BYTES: Final = 12
"""Base offset and length, which the length does not count."""
_MAGIC: Final = 2
_CODEC_MASK: Final = 0x07
_TRANSACTIONAL: Final = 0x10
_CONTROL: Final = 0x20
_READ_AGAIN: Final = "They are read again; if this repeats, look at the broker's disk."


class RawBatch(NamedTuple):
    """One batch of records, not parsed yet.

    Args:
        base: Offset of its first record when it was written.
        next: The offset behind it.
        attributes: Codec and flags.
        producer: Id of its producer; -1 without one.
        data: All of it.
    """

    base: int
    next: int
    attributes: int
    producer: int
    data: memoryview


def split(data: bytes, where: str) -> list[RawBatch]:
    """Finds the batches in a broker's answer; one that is cut off at the end is left out.

    Raises:
        ConnectorError: A batch has a format older than Kafka 0.11.
        Unavailable: A batch is shorter than its own header, so nobody knows where the next one begins.
    """
    found: list[RawBatch] = []
    view, at = memoryview(data), 0
    while at + _HEADER.size <= len(data):
        base, length, _, magic, _, attributes, last, _, _, producer, _, _, _ = _HEADER.unpack_from(view, at)
        if magic != _MAGIC:
            raise ConnectorError(
                f"{where}: records at offset {base} have message format {magic}, from before Kafka 0.11",
                hint="Copy the topic with a current client, or let retention delete these records.",
            )
        if length < _HEADER.size - _PREFIX_BYTES:
            raise Unavailable(
                f"{where}: the records at offset {base} arrived damaged (a batch of {length} bytes)", hint=_READ_AGAIN
            )
        end = at + _PREFIX_BYTES + length
        if end > len(data):
            break
        found.append(RawBatch(base, base + last + 1, attributes, producer, view[at:end]))
        at = end
    return found


class Batches:
    """The batches of one answer for one partition, in order.

    GUARANTEE: gives the records of committed transactions and those outside of transactions, once and in order.
    BOUND: one batch at a time is decompressed, to at most ``size_bytes_max``.

    Args:
        where: Topic and partition, for errors.
        raw: The batches.
        aborted: Producer and first offset of each aborted transaction that the broker named.
        size_bytes_max: How large a batch may become.
    """

    def __init__(
        self, where: str, raw: Iterable[RawBatch], aborted: Iterable[tuple[int, int]], *, size_bytes_max: int
    ) -> None:
        self._where = where
        self._raw = deque(raw)
        self._aborted = deque(sorted(aborted, key=lambda each: each[1]))
        self._aborting: set[int] = set()
        self._size_bytes_max = size_bytes_max
        self._records: Iterator[Any] | None = None
        self._next = 0
        self.size_bytes = sum(len(batch.data) for batch in self._raw)

    def take(self, at: int, most: int) -> tuple[list[Any], int]:
        """Returns up to ``most`` records from offset ``at`` on, and the offset behind them and what follows them.

        Fewer, or none, only at the end of the answer or of a batch.

        Raises:
            DecodeError: A batch is larger than the limit, or its records cannot be parsed.
            Unavailable: A batch arrived damaged.
        """
        if self._records is None and not self._open():
            return [], max(at, self._next)
        assert self._records is not None
        try:
            records = list(islice(self._records, most))
        except Exception as error:
            raise self._refused(at, f"cannot be parsed: {error}") from error
        if len(records) == most:
            return self._behind(records, at), max(at, records[-1].offset + 1)
        self._records = None
        return self._behind(records, at), max(at, self._next)

    @property
    def empty(self) -> bool:
        """Whether all has been taken."""
        return self._records is None and not self._raw

    def _behind(self, records: list[Any], at: int) -> list[Any]:
        """Leaves out what lies before an offset: a broker gives whole batches."""
        if records and records[0].offset < at:
            return [record for record in records if record.offset >= at]
        return records

    def _open(self) -> bool:
        """Goes on to the next batch with records; False if it was passed over, or there is none."""
        if not self._raw:
            return False
        raw = self._raw.popleft()
        self._next = raw.next
        batch = self._checked(raw)
        if raw.producer >= 0:
            while self._aborted and self._aborted[0][1] <= raw.base:
                self._aborting.add(self._aborted.popleft()[0])
        if raw.attributes & _CONTROL:
            if self._aborts(raw, batch):
                self._aborting.discard(raw.producer)
            return False
        if raw.attributes & _TRANSACTIONAL and raw.producer in self._aborting:
            return False
        # aiokafka's batch bears one call of iter only, and islice makes one each time
        self._records = chain(self._inflated(raw, batch))
        return True

    def _aborts(self, raw: RawBatch, control: Any) -> bool:
        """Whether a control batch ends a transaction that was aborted."""
        try:
            return bool(ControlRecord.parse(next(control).key) == ABORT_MARKER)
        except Exception as error:
            raise self._refused(raw.base, f"is no control batch: {error}") from error

    def _checked(self, raw: RawBatch) -> Any:
        batch = DefaultRecordBatch(raw.data)
        if not batch.validate_crc():
            raise Unavailable(
                f"{self._where}: the records at offset {raw.base} arrived damaged (their checksum is wrong)",
                hint=_READ_AGAIN,
            )
        return batch

    def _inflated(self, raw: RawBatch, batch: Any) -> Any:
        """Returns the batch as an uncompressed one."""
        codec = raw.attributes & _CODEC_MASK
        if not codec:
            return batch
        limit = self._size_bytes_max
        try:
            data = inflate(codec, raw.data[_HEADER.size :], _HEADER.size, limit)
        except TooLarge:
            raise DecodeError(
                f"{self._where}: the batch of records at offset {raw.base} has {len(raw.data)} bytes and would "
                f"grow beyond batch_bytes_max = {limit} when decompressed by {CODECS[codec]}",
                step=self._where,
                hint="If its producer can be trusted, raise Options(batch_bytes_max=...); it is not decompressed.",
            ) from None
        except ValueError as error:
            raise self._refused(raw.base, f"cannot be decompressed: {error}") from error
        fields = list(_HEADER.unpack_from(raw.data))
        fields[1], fields[5] = len(data) - _PREFIX_BYTES, raw.attributes & ~_CODEC_MASK
        _HEADER.pack_into(data, 0, *fields)
        return DefaultRecordBatch(data)

    def _refused(self, offset: int, reason: str) -> DecodeError:
        return DecodeError(
            f"{self._where}: the batch of records at offset {offset} {reason}",
            step=self._where,
            hint="Its producer wrote what Kafka cannot read; delete the records up to there, or copy the topic.",
        )
