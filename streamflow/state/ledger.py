"""What the store remembers about its file between transactions, so that a commit need not ask."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from streamflow.state.content import Content


class Held(NamedTuple):
    """A row that waits to be deleted: its epoch or first sequence number, the ids or frames in it, its checksum."""

    at: int
    items: int
    crc: int


@dataclass(slots=True)
class Ledger:
    """A mirror of the file's small facts; it changes only after the COMMIT that made them true.

    Args:
        incarnation: Id made together with the store.
        generation: Number of this opening.
        deaths: Openings in a row before this one that ended without a commit and without a close.
        content: What every table holds.
        epoch: The last committed epoch.
        number: Its last micro-batch.
        now_ms: Its processing time.
        steps: Table name -> id in the file.
        retyped: Id -> the new value type of tables whose old values have not been written back yet.
        next_seq: Sink -> the sequence number its next chunk must start with, spilled ones included.
        seen: Source -> each blob of remembered ids, oldest first.
        pending: Sink -> each chunk in the outbox, oldest first.
        crcs: Table -> key -> checksum of its row, for ``source``, ``event_time`` and ``sink``.
        debt: Step id -> bytes of unfolded deltas.
        row_bytes: Step id -> estimated bytes of its rows.
        checked: Step id -> number of its deltas seen; some are looked at closely.
        spilled_bytes: Bytes of the chunks spilled for the epoch in the making.
        measured: An epoch and how many milliseconds it took, its COMMIT included; told by the next commit.
    """

    incarnation: str = ""
    generation: int = 0
    deaths: int = 0
    content: Content = field(default_factory=Content)
    epoch: int = 0
    number: int = 0
    now_ms: int = 0
    steps: dict[str, int] = field(default_factory=dict)
    retyped: dict[int, str] = field(default_factory=dict)
    next_seq: dict[str, int] = field(default_factory=dict)
    seen: dict[str, deque[Held]] = field(default_factory=dict)
    pending: dict[str, deque[Held]] = field(default_factory=dict)
    crcs: dict[str, dict[Hashable, int]] = field(default_factory=lambda: {"source": {}, "event_time": {}, "sink": {}})
    debt: dict[int, int] = field(default_factory=dict)
    row_bytes: dict[int, int] = field(default_factory=dict)
    checked: dict[int, int] = field(default_factory=dict)
    spilled_bytes: int = 0
    measured: tuple[int, float] | None = None

    @property
    def debt_bytes(self) -> int:
        """Bytes of all unfolded deltas."""
        return sum(self.debt.values())

    def step(self, table: str) -> int:
        """The id of a table.

        Raises:
            KeyError: The manifest the store was opened with does not name it.
        """
        try:
            return self.steps[table]
        except KeyError:
            raise KeyError(f"table {table!r} is not in the manifest; it has {sorted(self.steps)}") from None

    def add_chunk(self, sink: str, chunk: Held) -> None:
        """Takes note of a chunk that is in the outbox."""
        self.next_seq[sink] = chunk.at + chunk.items
        self.pending.setdefault(sink, deque()).append(chunk)

    def replace_chunk(self, sink: str, chunk: Held) -> None:
        """Takes note of a chunk in the outbox whose bytes have changed."""
        held = self.pending[sink]
        at = next(at for at, one in enumerate(held) if one.at == chunk.at)
        held[at] = chunk

    def adopt(self, next_seqs: Mapping[str, int]) -> None:
        """Takes over that brokers are further than the outbox ever was: a baseline, or an accepted head."""
        for sink, next_seq in next_seqs.items():
            self.next_seq[sink] = max(next_seq, self.next_seq.get(sink, 1))
