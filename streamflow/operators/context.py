"""What a step function may ask for beside its record: key, state, time, timers, ids, side outputs."""

from __future__ import annotations

import datetime
import random
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

from streamflow.batch import END, MicroBatch, Origin
from streamflow.clock import Duration, duration_ms
from streamflow.errors import DefinitionError
from streamflow.keys import Key, canonical, stable_hash
from streamflow.operators.tables import Find, TableHandle
from streamflow.operators.values import own
from streamflow.state.collections import ListState, MapState
from streamflow.state.keyed import MISSING
from streamflow.state.timers import Timers

K = TypeVar("K")
S = TypeVar("S")
T = TypeVar("T")
Q = TypeVar("Q")
V = TypeVar("V")

CALL_OUTPUTS_MAX: Final = 65_536
"""Most side outputs of one call, and most outputs of one call under an error policy other than stop."""

_EPOCH: Final = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)

CLEARED: Final[Any] = type("Cleared", (), {"__repr__": lambda self: "CLEARED"})()


@dataclass(frozen=True, slots=True)
class Message(Generic[T]):
    """A record with what the broker holds beside its value; sources yield it with ``message=True``.

    Args:
        value: The decoded value.
        key: The broker's key, if it has one.
        headers: The broker's headers.
        position: Where the source resumes behind this record; None for queues.
        timestamp_ms: The broker's time, in milliseconds since 1970.
    """

    value: T
    key: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    position: int | None = None
    timestamp_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Output(Generic[T]):
    """A named side output of a `process` step, with the type of what goes there."""

    name: str
    type: type[T]


class Context(Generic[K, S]):
    """What a step learns about the record at hand. Valid only during the call that got it.

    Attributes:
        key: The record's key; None in a step on a stream without keys.
        state: The key's state in a `process` step: change it in place or assign it.
    """

    __slots__ = (
        "_flow",
        "_outputs",
        "_side",
        "_step",
        "_tables",
        "_timers",
        "batch",
        "event_timers",
        "key",
        "origin",
        "state",
        "time",
    )

    def __init__(
        self,
        flow: str,
        step: str,
        timers: Timers | None = None,
        outputs: tuple[str, ...] = (),
        tables: Mapping[str, Find] | None = None,
    ) -> None:
        self._flow = flow
        self._step = step
        self._tables = tables or {}
        self._timers = timers
        self.event_timers: Timers | None = None
        self._outputs = {name: at for at, name in enumerate(outputs, start=1)}
        self._side: list[tuple[int, Any]] = []
        self.batch: MicroBatch = MicroBatch(0, 0)
        self.origin: Origin = ()
        self.time: int | None = None
        self.key: K = None  # type: ignore[assignment]
        self.state: S = None  # type: ignore[assignment]

    @property
    def id(self) -> str:
        """Identity of this call, 32 hex digits: the same after a crash, in any grouping of records, and unique.

        Made from flow, step, source, partition, position and the ordinals on the way here; for a timer from step,
        key, name and due time.
        """
        parts = (self._flow, self._step, *self._place())
        return stable_hash(*(part.encode() for part in parts)).hex()

    def _place(self) -> tuple[str, ...]:
        row, *rest = self.origin
        if row < 0 or row == END:
            # a timer: its step and its ordinal in the number are told by its mark already
            return ("timer", str(rest[2]), _path(rest[3:]))
        found = self.batch.locate(row)
        assert found is not None, f"row {row} of number {self.batch.number} comes from nowhere"
        part, at = found
        records = part.records
        position = records.positions[at] if records.positions is not None else (records.ids or ())[at]
        return (part.source, records.partition, str(position), _path(rest))

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers of the source record that led here; empty if it had none, and for timers."""
        return self.batch.headers(self.origin) or {}

    @property
    def now_ms(self) -> int:
        """Processing time of this micro-batch, in milliseconds since 1970; the same again in a replay."""
        return self.batch.now_ms

    def now(self) -> datetime.datetime:
        """Processing time of this micro-batch, UTC; the same again in a replay."""
        return datetime.datetime.fromtimestamp(self.batch.now_ms / 1000, datetime.UTC)

    @property
    def event_time(self) -> datetime.datetime | None:
        """When the record happened, UTC; for a timer its due time. None if the source has no event time."""
        return None if self.time is None else _EPOCH + datetime.timedelta(microseconds=self.time)

    @property
    def random(self) -> random.Random:
        """A random generator seeded from `id`: a new one, in the same state, at each access."""
        return random.Random(self.id)

    def uuid(self) -> uuid.UUID:
        """A UUID made from `id`."""
        return uuid.UUID(hex=self.id, version=4)

    def lookup(self, table: TableHandle[Q, V], key: Q | None) -> V | None:
        """The value of a key of a table, as of this record's place in the order of all records; None if it has none.

        It is the caller's to keep and to change: a copy, unless nobody can change it.

        Args:
            table: A table that the step names.
            key: Any key, not only the record's own; None finds nothing.

        Raises:
            DefinitionError: The step does not name the table.
            TypeError: The key is of another type than the table's.
        """
        find = self._tables.get(table.id)
        if find is None:
            raise DefinitionError(
                f"step {self._step!r} looks up a table that it does not name", hint="Name it: tables=[...]."
            )
        found = find(key, self.batch.now_ms)
        return None if found is MISSING else found

    def timer(self, name: str, *, after: Duration | None = None, at: datetime.datetime | None = None) -> None:
        """Sets the key's timer ``name``, replacing it if it is set; its handler is given by ``on_timer(name)``.

        It fires once, when its time has come. After a start one that goes by processing time waits until every source
        has been read up to the end that it had then, so that "no order for an hour" is not said of a backlog:
        ``Settings(timers_after_backlog=False)`` lets it fire at once.

        Args:
            name: Name of the timer.
            after: How long from now; for an event-time timer from the record's event time.
            at: When, as an aware datetime.

        Raises:
            DefinitionError: The step has no handler of that name, or neither or both times are given.
        """
        if self.event_timers is not None and name in self.event_timers.names:
            self.event_timers.set(self.key, name, self._due_us(name, after, at))
            return
        due_ms = self._due_ms(name, after, at)
        assert self._timers is not None
        self._timers.set(self.key, name, due_ms)

    def cancel_timer(self, name: str) -> None:
        """Removes the key's timer ``name``, if it is set."""
        for timers in (self._timers, self.event_timers):
            if timers is not None and name in timers.names:
                timers.cancel(self.key, name)

    def _due_us(self, name: str, after: Duration | None, at: datetime.datetime | None) -> int:
        if (after is None) == (at is None):
            raise DefinitionError(f"timer {name!r} of step {self._step!r} needs either after= or at=")
        if at is not None:
            return (at - _EPOCH) // datetime.timedelta(microseconds=1)
        assert after is not None
        if self.time is None:
            raise DefinitionError(f"timer {name!r} of step {self._step!r} goes by event time, and the record has none")
        return self.time + duration_ms(after) * 1000

    def _due_ms(self, name: str, after: Duration | None, at: datetime.datetime | None) -> int:
        if self._timers is None or name not in self._timers.names:
            raise DefinitionError(
                f"step {self._step!r} sets timer {name!r} but has no handler for it",
                hint=f'Give it one: @{self._step}.on_timer("{name}").',
            )
        if (after is None) == (at is None):
            raise DefinitionError(f"timer {name!r} of step {self._step!r} needs either after= or at=")
        if at is not None:
            return round(at.timestamp() * 1000)
        assert after is not None
        return self.batch.now_ms + duration_ms(after)

    def emit(self, output: Output[T], value: T) -> None:
        """Sends a value to a side output; read it with ``stream.output(output)``.

        Raises:
            DefinitionError: The step does not name that output.
        """
        port = self._outputs.get(output.name)
        if port is None:
            raise DefinitionError(
                f"step {self._step!r} has no output {output.name!r}", hint="Name it: process(..., outputs=[...])."
            )
        if len(self._side) >= CALL_OUTPUTS_MAX:
            raise ValueError(f"more than {CALL_OUTPUTS_MAX} side outputs in one call")
        self._side.append((port, own(value)))

    def clear(self) -> None:
        """Removes the key's state; the next record of the key finds a new one."""
        self.state = CLEARED

    def close(self) -> None:
        """Ends the call: what it still does has no effect on state and timers; called by the engine."""
        self._timers = None
        if isinstance(self.state, MapState | ListState):
            self.state.close()
        self.state = None  # type: ignore[assignment]

    def drain(self) -> list[tuple[int, Any]]:
        """Takes the side outputs of the call that just ended; called by the engine."""
        side, self._side = self._side, []
        return side


def timer_mark(step: str, key: Key, name: str, due_ms: int) -> int:
    """What identifies a timer's firing; it stands in the origin of all that follows from it."""
    return int.from_bytes(stable_hash(step.encode(), canonical(key), name.encode(), str(due_ms).encode()))


def window_mark(step: str, key: Key, about: Sequence[int]) -> int:
    """What identifies a window's firing by the watermark; it stands in the origin of all that follows from it."""
    return int.from_bytes(stable_hash(step.encode(), canonical(key), repr(tuple(about)).encode()))


def _path(ordinals: Sequence[int]) -> str:
    return ".".join("s" if ordinal == END else str(ordinal) for ordinal in ordinals)
