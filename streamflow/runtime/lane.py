"""Lane: one partition's records from the lowest that was not released to the last that was read."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Final

from streamflow.batch import Ahead, Partition, Position, SourceBatch

RELEASED: Final[Any] = type("Released", (), {"__repr__": lambda self: "RELEASED"})()
"""Stands for the value of what was released already: nothing of it is kept but its positions."""


class Held:
    """A record that is held, or a run of records that was released.

    Attributes:
        first, last: Positions: of a record the same twice, of a run of its ends. Ordinals where the source has ids.
        before_us: The latest event time of the partition in front of it.
        id: The message's id, where the source has ids.
        beside: Headers, broker's key and timestamp; None where it has none of them.
    """

    __slots__ = ("before_us", "beside", "first", "id", "last", "mark_us", "payload", "time_us", "value")

    def __init__(self, first: int, last: int, before_us: int) -> None:
        self.first = first
        self.last = last
        self.before_us = before_us
        self.value: Any = RELEASED
        self.payload: Any = None
        self.time_us = self.mark_us = 0
        self.id = ""
        self.beside: tuple[Mapping[str, str] | None, bytes | None, int | None] | None = None


class Lane:
    """One partition of a source whose records are released in another order than they are read.

    GUARANTEE: `position` says exactly which of the records read so far were released.

    Args:
        source: Name of the source.
        partition: The partition.
        at: Where it resumes by the checkpoint; everything in front was released.
    """

    def __init__(self, source: str, partition: Partition, at: int) -> None:
        self.source = source
        self.partition = partition
        self.identity = ""
        self.by_ids = False
        self.at = self.end = at
        self.records: deque[Held] = deque()

    def reads(self, records: SourceBatch) -> None:
        """Takes note of the end of what was read."""
        self.identity = records.identity
        if records.positions is None:
            self.by_ids = True
        else:
            assert records.end > self.end, f"{self.source}: position {records.end} behind {self.end}"
            self.end = records.end

    def enter(self, records: SourceBatch, at: int, before_us: int) -> Held:
        """Adds one record of a batch."""
        position = records.positions[at] if records.positions is not None else self._next_ordinal()
        held = Held(position, position, before_us)
        held.payload = records.payloads[at]
        if records.ids is not None:
            held.id = records.ids[at]
        if not (records.headers is None and records.keys is None and records.timestamps_ms is None):
            held.beside = (
                None if records.headers is None else records.headers[at],
                None if records.keys is None else records.keys[at],
                None if records.timestamps_ms is None else records.timestamps_ms[at],
            )
        self.records.append(held)
        return held

    def _next_ordinal(self) -> int:
        self.end += 1
        return self.end

    def pass_over(self, records: SourceBatch, before_us: int) -> None:
        """Adds records that were released before, or that nothing is released of."""
        if records.positions is not None:
            self.records.append(Held(records.positions[0], records.positions[-1], before_us))
        self.trim()

    def trim(self) -> None:
        """Forgets what was released in front of everything that was not."""
        records = self.records
        while records and records[0].value is RELEASED:
            self.at = records.popleft().last
        if not records:
            self.at = self.end

    def position(self, unread: Sequence[Ahead] = ()) -> Position:
        """What the checkpoint says of it; joins what was released to runs.

        Args:
            unread: What was released by an earlier life, and was not read again yet.
        """
        joined: list[Held] = []
        for held in self.records:
            if held.value is RELEASED and joined and joined[-1].value is RELEASED:
                joined[-1].last = held.last  # a run takes the room of one record
            else:
                joined.append(held)
        self.records = deque(joined)
        above = [Ahead(held.first, held.last) for held in joined if held.value is RELEASED]
        return Position(self.at, self.identity, (*above, *unread))

    def clock_us(self, latest_us: int) -> int:
        """The latest event time in front of where it resumes."""
        return self.records[0].before_us if self.records else latest_us
