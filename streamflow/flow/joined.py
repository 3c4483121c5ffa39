"""Joined streams: what a join gives, and its late records."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from streamflow.flow.keyed import KeyedStream
from streamflow.graph import Port

if TYPE_CHECKING:
    from streamflow.flow.flow import Flow

K = TypeVar("K")
L = TypeVar("L")
R = TypeVar("R")
P = TypeVar("P")


class LateRecords(NamedTuple, Generic[K, L, R]):
    """The records of a join that came too late to match anything, by side."""

    left: KeyedStream[K, L]
    right: KeyedStream[K, R]


class JoinResult(KeyedStream[K, P], Generic[K, L, R, P]):
    """What a join gives: pairs, under the key that both records have."""

    def __init__(self, flow: Flow, port: Port, kind: Any, key_type: Any, types: tuple[Any, Any]) -> None:
        super().__init__(flow, port, kind, key_type)
        self._types = types

    @property
    def late(self) -> LateRecords[K, L, R]:
        """The records that came too late to match anything: ``.late.left`` and ``.late.right``."""
        left, right = (
            KeyedStream[K, Any](self._flow, Port(self._port.step, 1 + side), kind, self._key_type)
            for side, kind in enumerate(self._types)
        )
        return LateRecords(left, right)
