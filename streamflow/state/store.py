"""The store contract: what one commit writes, what one open returns.

A shard has ONE store. Each method is one function on one thread (inline under test), so no transaction is ever
open while the event loop runs something else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol, overload

from streamflow.batch import Chunk, ClockOf, DeadLetter, EventClock, Progress, Taken


class Entry(NamedTuple):
    """One state entry as stored: all fields are JSON text in UTF-8.

    ``sub`` is ``""`` (two quotes) for a plain value, the sub-key of a map, the ordinal of a list, the name of a
    timer. ``value`` None is a deletion. ``expires_ms`` None is never.
    """

    key: bytes
    sub: bytes
    value: bytes | None
    expires_ms: int | None = None


class Entries(Sequence[Entry]):
    """Entries as four columns of equal length; whoever takes them one by one gets `Entry`."""

    __slots__ = ("expires_ms", "keys", "subs", "values")

    def __init__(
        self,
        keys: Sequence[bytes],
        subs: Sequence[bytes],
        values: Sequence[bytes | None],
        expires_ms: Sequence[int | None],
    ) -> None:
        self.keys, self.subs, self.values, self.expires_ms = keys, subs, values, expires_ms

    @classmethod
    def of(cls, entries: Sequence[Entry]) -> Entries:
        """The columns of entries."""
        if isinstance(entries, Entries):
            return entries
        return cls(*zip(*entries, strict=True)) if entries else cls((), (), (), ())

    def __len__(self) -> int:
        return len(self.keys)

    def __iter__(self) -> Iterator[Entry]:
        return map(Entry, self.keys, self.subs, self.values, self.expires_ms)

    @overload
    def __getitem__(self, at: int) -> Entry: ...
    @overload
    def __getitem__(self, at: slice) -> Entries: ...
    def __getitem__(self, at: int | slice) -> Entry | Entries:
        if isinstance(at, slice):
            return Entries(self.keys[at], self.subs[at], self.values[at], self.expires_ms[at])
        return Entry(self.keys[at], self.subs[at], self.values[at], self.expires_ms[at])


@dataclass(frozen=True, slots=True)
class Delta:
    """Sealed entries of one table, encoded in first-touch order.

    Args:
        table: Name of the table; a step's timers are the table ``<step>@timers``.
        groups: The key-group range it covers, first and last.
        count: Number of entries.
        payload: A JSON array of ``[key, sub, value, expires_ms]``, or ``[key, sub]`` for a deletion; each entry's
            key, sub and value are JSON, without white space in between. Plain SQLite can read it with ``json_each``.
    """

    table: str
    groups: tuple[int, int]
    count: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Epoch:
    """All that one COMMIT writes.

    Args:
        epoch: Its number: the one after the last committed.
        number: The micro-batch that carried its barrier.
        now_ms: Processing time of that micro-batch.
        taken: New positions and ids per source (only sources that moved).
        journal: How its micro-batches were cut, encoded by the engine.
        pushed: Records pushed from inside the process that it took, encoded by the engine; empty if none.
        deltas: State changes.
        chunks: Outputs for the outbox, except those spilled before.
        progress: The sinks' progress as known now; rows of chunks below ``next_seq`` may go.
        dead: Records that policies put aside.
        revived: Ids of dead letters that it took in again.
        digest: Computes the digest of state changes and outputs; called once, on the store's thread.
        clocks: Event time of the partitions and groups of sources where it moved.
        records: Number of input records, for `checkpoints`.
        started: `time.perf_counter` at its barrier, to tell how long it took.
    """

    epoch: int
    number: int
    now_ms: int
    taken: Mapping[str, Taken] = field(default_factory=dict)
    journal: bytes = b""
    pushed: bytes = b""
    deltas: Sequence[Delta] = ()
    chunks: Sequence[Chunk] = ()
    progress: Mapping[str, Progress] = field(default_factory=dict)
    dead: Sequence[DeadLetter] = ()
    revived: Sequence[int] = ()
    digest: Callable[[], bytes] = bytes
    clocks: Mapping[ClockOf, EventClock] = field(default_factory=dict)
    records: int = 0
    started: float = 0.0


@dataclass(frozen=True, slots=True)
class TableShape:
    """What the manifest records of a stateful step.

    Args:
        kind: ``value``, ``map``, ``list`` or ``timers``.
        value: Fingerprint of the value type.
        key: Fingerprint of the key type; empty when it is not known from annotations.
        migrates: Whether the step brings a function that upgrades old values: then another value type is fine.
    """

    kind: str
    value: str
    key: str = ""
    migrates: bool = False


@dataclass(frozen=True, slots=True)
class Manifest:
    """What the flow is, to be held against what the store was made with.

    Args:
        flow: Name of the flow.
        fingerprint: Fingerprint of the whole graph; a change is fine, what matters is below.
        tables: Stateful steps by table name.
        sources: Names of the sources.
        sinks: Names of the sinks.
        drop: Names of steps, sources and sinks whose stored state may be deleted.
        renamed: Old name -> new name.
        accept_missing: Open even if the epoch witness is missing.
    """

    flow: str
    fingerprint: str
    tables: Mapping[str, TableShape] = field(default_factory=dict)
    sources: Sequence[str] = ()
    sinks: Sequence[str] = ()
    drop: Set[str] = frozenset()
    renamed: Mapping[str, str] = field(default_factory=dict)
    accept_missing: bool = False


LISTED_MAX: Final = 1_000_000
"""Most dead letters that are read at once."""


@dataclass(frozen=True, slots=True)
class StoredLetter:
    """A dead letter in the store.

    Args:
        id: Its number.
        epoch: The epoch whose commit put it aside; 0 if it was put aside between epochs.
        at_ms: When.
        letter: The record and the reason.
        requeued: What is to be taken in again by the next run; None for nothing.
    """

    id: int
    epoch: int
    at_ms: int
    letter: DeadLetter
    requeued: bytes | None = None


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What the store says at open; recovery starts from it alone.

    Args:
        epoch: The last committed epoch; 0 in a new store.
        number: The last committed micro-batch number; 0 in a new store.
        now_ms: Its processing time; 0 in a new store.
        generation: Counts the openings, this one included.
        incarnation: Id made together with the store.
        taken: Positions per source; ``ids`` holds every id still remembered.
        progress: Per sink, absent for one that never published.
        pending: Per sink the committed chunks not known to be published, in order; the first have their payload, the
            others are at rest.
        digest: Digest of the last epoch.
        clocks: Event time of the partitions and groups of sources.
        dead: Number of dead letters.
        requeued: Dead letters that are to be taken in again.
        retyped: Tables whose value type changed and whose step migrates: loaded values go through its function.
        deaths: Openings in a row before this one that ended without a commit and without a close.
    """

    epoch: int
    number: int
    now_ms: int
    generation: int
    incarnation: str
    taken: Mapping[str, Taken]
    progress: Mapping[str, Progress]
    pending: Mapping[str, Sequence[Chunk]]
    digest: bytes = b""
    dead: int = 0
    requeued: Sequence[StoredLetter] = ()
    retyped: Set[str] = frozenset()
    clocks: Mapping[ClockOf, EventClock] = field(default_factory=dict)
    deaths: int = 0


Install = Callable[[str, Sequence[Entry]], None]
"""Takes loaded entries of one table; later entries replace earlier ones, deletions included."""


def _nothing() -> None:
    """What `Store.load` calls at its end where nobody wants to know."""


class Store(Protocol):
    """The one file of a shard.

    GUARANTEE: `commit` is all or nothing and durable on return; it succeeds only for the newest generation and the
    epoch after the last one.
    """

    @property
    def fold_debt_bytes(self) -> int:
        """Bytes of committed deltas that are not folded into rows yet."""
        ...

    async def open(self, manifest: Manifest) -> Checkpoint:
        """Locks, opens, verifies and claims the store.

        Raises:
            StateLockedError: Another process holds it.
            CorruptStateError, EpochWentBack: It fails a check, or is older than its witness.
            IncompatibleStateError: The flow changed in a way that would lose state.
        """
        ...

    async def load(self, install: Install, done: Callable[[], None] = _nothing) -> None:
        """Hands every live entry to ``install``, in chunks, on the store's thread: rows first, then unfolded deltas.

        Args:
            install: Takes entries.
            done: Called there too, at the end.
        """
        ...

    async def commit(self, epoch: Epoch) -> None:
        """Writes one epoch in one transaction: THE commit point.

        Raises:
            Fenced: The epoch or the generation moved: another process committed.
            CheckpointError: The disk refused; nothing of the epoch is stored.
        """
        ...

    async def note(self, taken: Mapping[str, Taken], progress: Mapping[str, Progress]) -> None:
        """Writes positions and progress without an epoch: pinned starts, baselines, when idle, at a clean stop."""
        ...

    async def spill(self, chunks: Sequence[Chunk]) -> None:
        """Writes outbox chunks of the epoch in the making ahead of its commit; invisible until then."""
        ...

    async def chunks(self, sink: str, first_seq: int, count: int) -> Sequence[Chunk]:
        """Reads outbox chunks back, with their payload: up to ``count`` of a sink, from the one at ``first_seq`` on.

        Raises:
            CorruptStateError: One does not match its checksum.
        """
        ...

    async def dead_letters(
        self, ids: Sequence[int] = (), *, above: int = 0, most: int = LISTED_MAX
    ) -> Sequence[StoredLetter]:
        """Reads dead letters, oldest first: all, some by their ids, or those above a number."""
        ...

    async def edit_dead(self, drop: Sequence[int], requeue: Mapping[int, bytes]) -> None:
        """Drops dead letters, or marks some, with their payload, to be taken in again by the next run.

        Raises:
            StateError: There is no such letter.
        """
        ...

    async def bury(self, chunk: Chunk, letter: DeadLetter | None) -> None:
        """Replaces a chunk of the outbox by one in which a frame is empty, and keeps the letter, in one transaction.

        The broker refuses that frame for good: its number is used, and nothing is published for it.
        """
        ...

    async def fold(self, *, idle: bool = True) -> bool:
        """Merges one slice (about 20 ms) of deltas into rows; returns False when nothing is left.

        Args:
            idle: Fold everything. Otherwise only tables whose deltas outweigh their rows, so that a key changed by
                many epochs is written once; False then says that none is due.
        """
        ...

    async def get(self, table: str, key: bytes) -> bytes | None:
        """Reads one committed plain value by its key's JSON; None if absent."""
        ...

    async def items(self, table: str, most: int) -> list[tuple[bytes, bytes]]:
        """Reads the first committed plain values, key and value as JSON, in the order of the keys' text."""
        ...

    async def close(self) -> None:
        """Folds nothing more, writes the witness, releases the lock; safe to call twice."""
        ...

    def abandon(self) -> None:
        """Lets go of file and lock without writing anything, as the death of the process would."""
        ...
