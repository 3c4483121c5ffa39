"""What a cluster says about its brokers and topics, topic ids included, which aiokafka does not ask for.

Metadata request version 10 (Kafka 2.8, KIP-516); older brokers are asked by version 5 and tell no ids. Topics are never
made by asking, as aiokafka's own requests do where the broker allows it.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Final

from aiokafka.protocol.abstract import AbstractType
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.metadata import MetadataRequest_v5
from aiokafka.protocol.types import Boolean, CompactArray, CompactString, Int16, Int32, Schema, TaggedFields

NO_LEADER: Final = -1
_NO_ID: Final = uuid.UUID(int=0)


class Uuid(AbstractType[uuid.UUID]):  # type: ignore[misc]
    """Sixteen bytes."""

    @classmethod
    def encode(cls, value: uuid.UUID) -> bytes:
        return value.bytes

    @classmethod
    def decode(cls, data: BytesIO) -> uuid.UUID:
        return uuid.UUID(bytes=data.read(16))


class MetadataResponse_v10(Response):  # type: ignore[misc]
    """Answers `MetadataRequest_v10`."""

    API_KEY = 3  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType]
    API_VERSION = 10  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType]
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "brokers",
            CompactArray(
                ("node_id", Int32),
                ("host", CompactString("utf-8")),
                ("port", Int32),
                ("rack", CompactString("utf-8")),
                ("tags", TaggedFields),
            ),
        ),
        ("cluster_id", CompactString("utf-8")),
        ("controller_id", Int32),
        (
            "topics",
            CompactArray(
                ("error_code", Int16),
                ("topic", CompactString("utf-8")),
                ("topic_id", Uuid),
                ("is_internal", Boolean),
                (
                    "partitions",
                    CompactArray(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", CompactArray(Int32)),
                        ("isr", CompactArray(Int32)),
                        ("offline_replicas", CompactArray(Int32)),
                        ("tags", TaggedFields),
                    ),
                ),
                ("authorized_operations", Int32),
                ("tags", TaggedFields),
            ),
        ),
        ("authorized_operations", Int32),
        ("tags", TaggedFields),
    )


class MetadataRequest_v10(RequestStruct):  # type: ignore[misc]
    """Asks for brokers, and for some topics or all (None)."""

    FLEXIBLE_VERSION = True
    API_KEY = 3
    API_VERSION = 10
    RESPONSE_TYPE = MetadataResponse_v10
    SCHEMA = Schema(
        ("topics", CompactArray(("topic_id", Uuid), ("name", CompactString("utf-8")), ("tags", TaggedFields))),
        ("allow_auto_topic_creation", Boolean),
        ("include_cluster_authorized_operations", Boolean),
        ("include_topic_authorized_operations", Boolean),
        ("tags", TaggedFields),
    )


class MetadataRequest(Request[MetadataRequest_v5 | MetadataRequest_v10]):  # type: ignore[misc]
    """Asks for some topics, or all (None), in the newest version that both sides know."""

    API_KEY = 3

    def __init__(self, names: Sequence[str] | None) -> None:
        self._names = names

    def build(self, request_struct_class: Any) -> Any:
        names = self._names
        if request_struct_class is MetadataRequest_v5:
            return MetadataRequest_v5(None if names is None else list(names), False)
        topics: Any = None if names is None else [(_NO_ID, name, {}) for name in names]
        return MetadataRequest_v10(topics, False, False, False, {})


@dataclass(frozen=True, slots=True)
class TopicInfo:
    """A topic as its cluster describes it.

    Args:
        name: Its name.
        id: What distinguishes it from one made later under its name; empty where the cluster tells none.
        error: Kafka's error code; 0 for none.
        leaders: The node that leads each partition; `NO_LEADER` for none.
    """

    name: str
    id: str
    error: int
    internal: bool
    leaders: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class Metadata:
    """A cluster as it describes itself."""

    cluster: str
    controller: int
    brokers: Mapping[int, tuple[str, int]]
    topics: Mapping[str, TopicInfo]


def read_metadata(response: Any) -> Metadata:
    """Takes apart a response of either version."""
    told = response.to_object()
    topics: dict[str, TopicInfo] = {}
    for topic in told["topics"]:
        made = topic.get("topic_id", _NO_ID)
        leaders = {part["partition"]: part["leader"] for part in topic["partitions"]}
        identity = "" if made == _NO_ID else str(made)
        topics[topic["topic"]] = TopicInfo(
            topic["topic"], identity, topic["error_code"], topic["is_internal"], dict(sorted(leaders.items()))
        )
    brokers = {broker["node_id"]: (broker["host"], broker["port"]) for broker in told["brokers"]}
    return Metadata(told["cluster_id"] or "", told["controller_id"], brokers, topics)
