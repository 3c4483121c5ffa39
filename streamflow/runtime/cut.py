"""Cut: what an epoch takes in, and the records that enter from inside the process."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import msgspec

from streamflow.batch import ClockOf, EventClock, Headers, Partition, Position, SourceBatch, Taken

PUSHED: Final = "@push"
"""Name of the internal source by which records enter from inside the process."""

_pack = msgspec.msgpack.Encoder().encode


class Envelope(NamedTuple):
    """Where a dead letter's record came from, and what its broker held beside the value."""

    partition: Partition = ""
    position: int | None = None
    id: str = ""
    key: bytes | None = None
    headers: Headers | None = None
    timestamp_ms: int | None = None

    def records(self, payload: bytes) -> SourceBatch:
        """The record as it came, with these bytes: what follows from it is known by the same identity."""
        return SourceBatch(
            self.partition,
            [payload],
            None if self.position is None else [self.position],
            [self.id] if self.position is None else None,
            headers=None if self.headers is None else [self.headers],
            keys=None if self.key is None else [self.key],
            timestamps_ms=None if self.timestamp_ms is None else [self.timestamp_ms],
        )


@dataclass(slots=True)
class Pushed:
    """A record handed in from inside the process.

    Args:
        source: The source whose stream it joins.
        value: The record.
        payload: The record encoded, for the store.
        done: Resolves with the epoch that holds it, after its COMMIT.
        id: Its identity, whatever becomes of the process before it is committed: `Context.id` is made of it.
        letter: The dead letter that it was; its epoch takes that out of the store.
        envelope: What is known of the record that it was; None if it is a new one.
    """

    source: str
    value: Any
    payload: bytes
    done: asyncio.Future[int]
    id: str
    letter: int | None = None
    envelope: Envelope | None = None

    def entry(self) -> tuple[Any, ...]:
        """It for the store, from which a replay takes it."""
        return (self.source, self.payload, self.id, *([] if self.envelope is None else [self.envelope]))


@dataclass(slots=True)
class Cut:
    """What intake knows of an epoch: where it ends and what it took."""

    epoch: int = 0
    number: int = 0
    now_ms: int = 0
    started: float = 0.0
    positions: dict[str, dict[Partition, Position]] = field(default_factory=dict)
    ids: dict[str, list[str]] = field(default_factory=dict)
    journal: list[Any] = field(default_factory=list)
    pushed: list[Pushed] = field(default_factory=list)
    clocks: dict[ClockOf, EventClock] = field(default_factory=dict)
    records: int = 0

    def taken(self) -> dict[str, Taken]:
        names = {*self.positions, *self.ids}
        return {name: Taken(self.positions.get(name, {}), tuple(self.ids.get(name, ()))) for name in sorted(names)}

    def encoded_journal(self) -> bytes:
        """Per micro-batch: number, time, whether timers fired, and per input its partition, count and end.

        A fifth part, where there is one, says which partitions turned idle before it, which sources ended, and how
        far those have got whose records go by event time.
        """
        return _pack(self.journal)

    def encoded_pushes(self) -> bytes:
        return _pack([push.entry() for push in self.pushed]) if self.pushed else b""
