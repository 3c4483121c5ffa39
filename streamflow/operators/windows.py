"""Windows: what a window step does with one record, and what it gives when the watermark moves.

State is one entry per key and pane in the step's table; nothing else is stored. When the windows of a key close is
derived from the entries, again after a restart. See docs/semantics.md for what is decided, and docs/adr for why.
"""

from __future__ import annotations

import datetime
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Generic, TypeVar

import msgspec

from streamflow.batch import Watermark
from streamflow.graph import Graph, Step
from streamflow.keys import Key
from streamflow.operators.aggregator import Aggregator
from streamflow.operators.due import Due
from streamflow.operators.step_clock import clock_of
from streamflow.operators.values import FROZEN, own
from streamflow.state.panes import PaneTable

K = TypeVar("K")
V = TypeVar("V")

LATE: Final[Any] = type("Late", (), {"__repr__": lambda self: "LATE"})()
"""What `Windows.take` says of a record that is too late for every window."""

_EPOCH: Final = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_MOMENTS_MAX: Final = 1024

Row = tuple[Any, int]
"""What a window gives, and its event time."""

Fired = tuple[Key, Any, int, tuple[int, ...]]
"""What a window gives at a watermark: key, value, event time, and what identifies it."""


def moment_of(time_us: int) -> datetime.datetime:
    """An event time as users see it."""
    return _EPOCH + datetime.timedelta(microseconds=time_us)


class Windowed(msgspec.Struct, Generic[K, V], frozen=True):
    """The result of one window.

    Args:
        key: The key.
        start: Its start; of a count window the event time of its first record.
        end: Its end, which is not part of it; of a session its last record plus the gap.
        value: The result. None where a session that was told of by ``emit="updates"`` became part of another one.
    """

    key: K
    start: datetime.datetime
    end: datetime.datetime
    value: V


class Windows(ABC):
    """One window step at run time.

    GUARANTEE: a record counts in exactly the windows that it is not late for; what `closing` gives is in the order of
    (window end, key); an entry is deleted when no record can count in it any more.

    Args:
        graph: The graph.
        step: The step.
        table: Its table.
    """

    def __init__(self, graph: Graph, step: Step, table: PaneTable[Any]) -> None:
        options = step.options
        self.step = step
        self.table = table
        self.aggregator: Aggregator[Any, Any, Any] = options["aggregator"]
        self.clock = clock_of(graph, step) if options["window"].timed else None
        self.due = Due()
        self.allowed_us: int = options["allowed_us"]
        self.updates: bool = options["emit"] == "updates"
        self.early: int | None = options["early"]
        self.early_us: int | None = options["early_us"]
        self._pane_us: int = options["pane"][1] if options["pane"] else 0
        self.tells_early = self.early is not None or self.early_us is not None
        self.late = 0
        self.lose: Callable[[Exception, Key], None] | None = None
        self._moments: dict[int, datetime.datetime] = {}

    # -- what loops call --------------------------------------------------------------------------

    @abstractmethod
    def take(self, key: Key, value: Any, time_us: Any, mark_us: Any, now_ms: int) -> Sequence[Row] | None:
        """Takes one record; gives what it makes its windows give at once, or `LATE`."""

    def attempt(self, key: Key, value: Any, time_us: Any, mark_us: Any, now_ms: int) -> Sequence[Row] | None:
        """`take` under a policy other than stop: restores the state if it raises."""
        self.table.begin()
        try:
            found = self.take(key, value, time_us, mark_us, now_ms)
            self.table.verify()
        except BaseException:
            self.table.roll_back()
            # what it took away, and was put back, is to be looked at again
            self._arm_all(key, list(self.table.index.get(key, ())))
            raise
        self.table.keep()
        return found

    def advance(self, watermarks: Sequence[Watermark]) -> bool:
        """Moves the step's clock to what a number says at its end; says whether it moved."""
        return self.clock is not None and self.clock.advance(watermarks)

    def closing(self) -> Iterator[Fired | None]:
        """Gives the results of all windows that the clock has passed, and frees what nobody needs any more.

        Gives None for what was looked at and gives nothing, so that who iterates can pause.
        """
        if self.clock is not None and self.due.is_due(self.clock.at_us):
            self._settle(self.clock.at_us)
            for time_us, key, sub in self.due.take(self.clock.at_us):
                try:
                    fired = self._look(time_us, key, sub)
                except Exception as error:
                    if self.lose is None:
                        raise
                    self.lose(error, key)
                    fired = None
                yield fired

    def _settle(self, at_us: int) -> None:
        """Lets the table put in order what no record goes into any more; what is open is at hand of loops."""
        if self._pane_us:
            self.table.settle(at_us - self._pane_us)

    def installed(self) -> None:
        """Ends loading: finds out when the windows of each entry close."""
        for key, subs in self.table.index.items():
            self._arm_all(key, list(subs))

    @abstractmethod
    def _look(self, time_us: int, key: Key, sub: Any) -> Fired | None:
        """Looks at an entry at a time that was asked for."""

    def _arm_all(self, key: Key, subs: Sequence[Any]) -> None:  # noqa: B027 - most untimed kinds have nothing to arm
        """Arms all that a key holds, after a restart."""

    # -- for the kinds ----------------------------------------------------------------------------

    def _is_late(self) -> Sequence[Row]:
        self.late += 1
        late: Sequence[Row] = LATE
        return late

    def _bound(self, mark_us: int) -> int:
        """Up to where windows are closed for a record: by its own partition, or because they have fired."""
        assert self.clock is not None
        return max(mark_us, self.clock.at_us)

    def _windowed(self, key: Key, start_us: int, end_us: int, accumulator: Any) -> Any:
        result = self.aggregator.result
        value = accumulator if result is None else result(accumulator)
        if value.__class__ not in FROZEN:
            value = own(value)
        moments = self._moments
        try:
            return Windowed(key, moments[start_us], moments[end_us], value)
        except KeyError:
            return Windowed(key, self._moment(start_us), self._moment(end_us), value)

    def _moment(self, time_us: int) -> datetime.datetime:
        found = self._moments.get(time_us)
        if found is None:
            if len(self._moments) >= _MOMENTS_MAX:
                self._moments.clear()
            found = self._moments[time_us] = moment_of(time_us)
        return found

    def _admit(self, key: Key) -> None:
        """Refuses a key more than ``max_keys`` allows."""
        if self.table.bound is not None and key not in self.table.index:
            self.table.bound.admit(key)


def next_early(start_us: int, every_us: int, behind_us: int) -> int:
    """The first time behind another one at which a window tells of itself early."""
    return start_us + max(1, (behind_us - start_us) // every_us + 1) * every_us
