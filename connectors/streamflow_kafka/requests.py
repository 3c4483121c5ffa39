"""Requests about transactions that aiokafka does not know, or in versions that it does not know."""

from __future__ import annotations

from typing import Any

from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import CompactArray, CompactString, Int16, Int32, Int64, Schema, TaggedFields


class DescribeTransactionsResponse_v0(Response):  # type: ignore[misc]
    """Answers `DescribeTransactionsRequest_v0`."""

    API_KEY = 65  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType]
    API_VERSION = 0  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType]
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "states",
            CompactArray(
                ("error_code", Int16),
                ("transactional_id", CompactString("utf-8")),
                ("state", CompactString("utf-8")),
                ("timeout_ms", Int32),
                ("start_time_ms", Int64),
                ("producer_id", Int64),
                ("producer_epoch", Int16),
                (
                    "topics",
                    CompactArray(
                        ("topic", CompactString("utf-8")), ("partitions", CompactArray(Int32)), ("tags", TaggedFields)
                    ),
                ),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class DescribeTransactionsRequest_v0(RequestStruct):  # type: ignore[misc]
    """Asks about transactional ids."""

    FLEXIBLE_VERSION = True
    API_KEY = 65
    API_VERSION = 0
    RESPONSE_TYPE = DescribeTransactionsResponse_v0
    SCHEMA = Schema(("transactional_ids", CompactArray(CompactString("utf-8"))), ("tags", TaggedFields))


class DescribeTransactions(Request[DescribeTransactionsRequest_v0]):  # type: ignore[misc]
    """Asks about one transactional id."""

    API_KEY = 65

    def __init__(self, name: str) -> None:
        self._name = name

    def build(self, request_struct_class: Any) -> Any:
        return request_struct_class([self._name], {})


class InitProducerIdResponse_v3(Response):  # type: ignore[misc]
    """Answers `InitProducerIdRequest_v3`."""

    API_KEY = 22  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType]
    API_VERSION = 3  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType]
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("error_code", Int16),
        ("producer_id", Int64),
        ("producer_epoch", Int16),
        ("tags", TaggedFields),
    )


class InitProducerIdRequest_v3(RequestStruct):  # type: ignore[misc]
    """Begins a producer, in the place of one that is named."""

    FLEXIBLE_VERSION = True
    API_KEY = 22
    API_VERSION = 3
    RESPONSE_TYPE = InitProducerIdResponse_v3
    SCHEMA = Schema(
        ("transactional_id", CompactString("utf-8")),
        ("transaction_timeout_ms", Int32),
        ("producer_id", Int64),
        ("producer_epoch", Int16),
        ("tags", TaggedFields),
    )


class BeginAgain(Request[InitProducerIdRequest_v3]):  # type: ignore[misc]
    """Begins a producer anew, if nobody has begun one since (Kafka 2.5, KIP-360)."""

    API_KEY = 22

    def __init__(self, name: str, timeout_ms: int, producer: tuple[int, int]) -> None:
        self._name, self._timeout_ms, self._producer = name, timeout_ms, producer

    def build(self, request_struct_class: Any) -> Any:
        return request_struct_class(self._name, self._timeout_ms, *self._producer, {})
