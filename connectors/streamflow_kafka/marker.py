"""The marker: a group's committed offset that moves in the same transaction as the records it stands for.

It is the offset of partition 0 of the sink's topic in a group that is called like the sink's fence and that nobody
joins. The offset is the number of the next record; its metadata says who wrote it. Read by OffsetFetch version 7 with
``require_stable`` (Kafka 2.5, KIP-447), so that a transaction whose end is still being written is waited for.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Iterable
from typing import Any, Final
from zlib import adler32, crc32

import msgspec

# aiokafka's own requests end at version 3, which does not know `require_stable`
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import Boolean, CompactArray, CompactString, Int16, Int32, Int64, Schema, TaggedFields

from streamflow.errors import ConnectorError, Unavailable
from streamflow_kafka.client import Cluster
from streamflow_kafka.transactions import Transactions

_WAIT_SECONDS: Final = 0.02
HIDDEN_SECONDS: Final = 1.0
"""After its producer has begun, nothing of a sink is under way any more."""
_UNSTABLE: Final = 88
_LOADING: Final = frozenset({14, 15, 16})
_GROUP_DENIED: Final = 30
_TOKEN: Final = secrets.token_hex(8)


class Marker(msgspec.Struct, frozen=True):
    """What stands at the broker, or is about to.

    Args:
        next_seq: The first record that is not in the topic.
        generation: Of the store whose instance wrote it.
        process: Tells the process that wrote it from every other.
        link: Stands for all frames published so far, made by `linked`.
    """

    next_seq: int
    generation: int = 0
    process: str = ""
    link: str = ""

    def metadata(self) -> str:
        """What goes beside the offset."""
        return msgspec.json.encode({"gen": self.generation, "process": self.process, "link": self.link}).decode()


class Hidden(Unavailable):
    """The marker stays behind a transaction that is over: the broker still keeps an offset of it as undecided."""


class _Metadata(msgspec.Struct):
    gen: int = 0
    process: str = ""
    link: str = ""


def linked(link: str, frames: Iterable[bytes | memoryview]) -> str:
    """Adds frames to a link: checksums of all bytes so far, the same however the frames are cut into pieces."""
    crc, adler = int(link[:8] or "0", 16), int(link[8:] or "1", 16)
    for piece in frames:
        crc, adler = crc32(piece, crc), adler32(piece, adler)
    return f"{crc:08x}{adler:08x}"


def this_process() -> str:
    """Tells this process from every other, also from its own forks."""
    return f"{_TOKEN}.{os.getpid()}"


class OffsetFetchResponse_v7(Response):  # type: ignore[misc]
    """Answers `OffsetFetchRequest_v7`."""

    API_KEY = 9  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType]
    API_VERSION = 7  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType]
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "topics",
            CompactArray(
                ("topic", CompactString("utf-8")),
                (
                    "partitions",
                    CompactArray(
                        ("partition", Int32),
                        ("offset", Int64),
                        ("leader_epoch", Int32),
                        ("metadata", CompactString("utf-8")),
                        ("error_code", Int16),
                        ("tags", TaggedFields),
                    ),
                ),
                ("tags", TaggedFields),
            ),
        ),
        ("error_code", Int16),
        ("tags", TaggedFields),
    )


class OffsetFetchRequest_v7(RequestStruct):  # type: ignore[misc]
    """Asks for offsets of a group, those of open transactions waited for."""

    FLEXIBLE_VERSION = True
    API_KEY = 9
    API_VERSION = 7
    RESPONSE_TYPE = OffsetFetchResponse_v7
    SCHEMA = Schema(
        ("group", CompactString("utf-8")),
        (
            "topics",
            CompactArray(
                ("topic", CompactString("utf-8")), ("partitions", CompactArray(Int32)), ("tags", TaggedFields)
            ),
        ),
        ("require_stable", Boolean),
        ("tags", TaggedFields),
    )


class OffsetFetch(Request[OffsetFetchRequest_v7]):  # type: ignore[misc]
    """Asks for a group's offset of one partition; ``stable``: not while a transaction is about to move it."""

    API_KEY = 9

    def __init__(self, group: str, topic: str, partition: int, *, stable: bool) -> None:
        self._group, self._topic, self._partition, self._stable = group, topic, partition, stable

    def build(self, request_struct_class: Any) -> Any:
        return request_struct_class(self._group, [(self._topic, [self._partition], {})], self._stable, {})


async def read_marker(
    cluster: Cluster, transactions: Transactions, group: str, topic: str, *, stable: bool
) -> Marker | None:
    """Returns the marker, or None where there is none.

    Args:
        cluster: Where.
        transactions: Finds the coordinator.
        group: The sink's fence.
        topic: The sink's topic.
        stable: Whether a transaction that is about to move it is waited for.

    Raises:
        Unavailable: The coordinator does not know it yet.
        Hidden: An open transaction hides it for longer than `HIDDEN_SECONDS`.
        ConnectorError: This user must not read it, or what stands there is no marker.
    """
    began = asyncio.get_running_loop().time()
    deadline = began + cluster.options.timeout_seconds
    while True:
        answer = await transactions.ask_group(OffsetFetch(group, topic, 0, stable=stable))
        _, offset, _, metadata, code, _ = answer.topics[0][1][0] if answer.topics else (0, -1, 0, "", 0, {})
        code = answer.error_code or code
        if not code:
            return None if offset < 0 else _marker(offset, metadata, group)
        if code == _GROUP_DENIED:
            raise ConnectorError(
                f"Kafka at {cluster.kafka} does not allow this user to read group {group}, the sink's marker",
                hint="kafka-acls.sh --add --allow-principal User:NAME --operation Read --group 'sf.' "
                "--resource-pattern-type prefixed",
            )
        if code in _LOADING:
            transactions.lost()
        elif code != _UNSTABLE:
            raise Unavailable(f"Kafka at {cluster.kafka} does not tell the marker {group}: error {code}", hint="")
        if code == _UNSTABLE and asyncio.get_running_loop().time() > began + HIDDEN_SECONDS:
            raise Hidden(
                f"Kafka at {cluster.kafka} keeps the marker {group} behind a transaction that is over",
                hint="The sink asks the topic itself.",
            )
        if asyncio.get_running_loop().time() > deadline:
            raise Unavailable(
                f"Kafka at {cluster.kafka} cannot tell the marker {group} at this time (error {code})",
                hint="It is asked again; look at the broker if this repeats.",
            )
        await asyncio.sleep(_WAIT_SECONDS)


def _marker(offset: int, metadata: str | None, group: str) -> Marker:
    try:
        told = msgspec.json.decode((metadata or "").encode(), type=_Metadata)
    except (ValueError, RecursionError):
        raise ConnectorError(
            f"the committed offset {offset} of group {group} is no marker of streamflow: {metadata!r:.60}",
            hint="Let nobody else commit offsets in this group. If it was reset by hand, put it back, or: "
            "streamflow reset --sink NAME --accept-head.",
        ) from None
    return Marker(offset, told.gen, told.process, told.link)
