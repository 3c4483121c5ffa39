"""Line: the fragments that a step is at work on, in their order, and what may leave of them."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from streamflow.batch import END, Fragment, Origin
from streamflow.operators.exits import Exits, Rows

NUMBERS_AHEAD_MAX: Final = 64
"""Most micro-batches that an async step has taken in and not let go on; the oldest is always taken."""


class Failed:
    """The outcome of a call that raised, when all attempts were spent."""

    __slots__ = ("error",)

    def __init__(self, error: Exception) -> None:
        self.error = error


class Sided:
    """The outcome of a call that gave rows for side outputs, too: pairs of port and value."""

    __slots__ = ("outputs", "side")

    def __init__(self, outputs: list[Any], side: list[tuple[int, Any]]) -> None:
        self.outputs = outputs
        self.side = side


Outcome = tuple[Any, ...] | list[Any] | Sided | Failed | None
"""What a row's call gave: a tuple of what takes the row's place, a list of what it became, why it failed, or None."""


class Flight:
    """A fragment on its way through a step.

    Attributes:
        part: The fragment.
        outcomes: Per row.
        begun: Rows whose calls were begun.
        given: Rows that have left.
        finished: Rows that may leave, of a step that keeps no order.
        queues: Per key its rows that have not left, of a step that keeps no order but that of each key.
    """

    __slots__ = ("begun", "finished", "given", "outcomes", "part", "queues")

    def __init__(self, part: Fragment) -> None:
        self.part = part
        self.outcomes: list[Outcome] = [None] * len(part.values)
        self.begun = 0
        self.given = 0
        self.finished: list[int] = []
        self.queues: dict[Any, deque[int]] | None = None

    @property
    def rows(self) -> int:
        return len(self.outcomes)


class Line:
    """Fragments in the order in which they came, each leaving as far as its rows are done.

    GUARANTEE: every number leaves once and in order, its last fragment marked; a failed row is told of in its turn.
    With ``ordered`` rows leave in their order; without it those of one number leave as they are done, those of one
    key in their order.
    BOUND: whoever adds looks at ``full`` first.

    Args:
        exits: Makes the fragments.
        failed: Called with fragment, row and error of a call that failed; raises if that ends the flow.
        rows_max: Most rows in a fragment.
        ordered: Whether rows leave in their order.
    """

    def __init__(
        self, exits: Exits, failed: Callable[[Fragment, int, Exception], None], rows_max: int, *, ordered: bool
    ) -> None:
        self.exits = exits
        self.open = 0
        self.between = True
        self._failed = failed
        self._rows_max = rows_max
        self._ordered = ordered
        self._sided = exits.sided
        self._flights: deque[Flight] = deque()
        self._numbers: Counter[int] = Counter()

    def __bool__(self) -> bool:
        return bool(self._flights)

    @property
    def full(self) -> bool:
        """Whether nothing more should be taken in."""
        return len(self._numbers) >= NUMBERS_AHEAD_MAX

    @property
    def holds_barrier(self) -> bool:
        """Whether an epoch waits to be complete."""
        return any(flight.part.batch.barrier is not None for flight in self._flights)

    def add(self, part: Fragment) -> Flight:
        """Takes a fragment in."""
        flight = Flight(part)
        if not self._ordered and part.keys is not None:
            flight.queues = {}
            for row, key in enumerate(part.keys):
                flight.queues.setdefault(key, deque()).append(row)
        self._flights.append(flight)
        self._numbers[part.batch.number] += 1
        return flight

    def settle(self, flight: Flight, row: int, outcome: Outcome) -> None:
        """Notes what a row's call gave."""
        flight.outcomes[row] = outcome
        if self._ordered:
            return
        if flight.queues is None:
            flight.finished.append(row)
            return
        assert flight.part.keys is not None
        queue = flight.queues[flight.part.keys[row]]
        while queue and flight.outcomes[queue[0]] is not None:
            flight.finished.append(queue.popleft())

    def ready(self) -> Iterator[tuple[Fragment, tuple[Fragment, ...]]]:
        """What may leave now: the fragment it is part of, cut to its mark and promise, and one per exit and tap.

        ``between`` says whether the last one ended its number.
        """
        while self._flights:
            flight = self._flights[0]
            for like, rows in self._pieces(flight):
                outs = self.exits.fragments(like, rows)
                self.between = like.last
                if flight.given == flight.rows and like is flight.part:
                    self._leave(flight)
                yield like, outs
            if flight.given < flight.rows:
                return

    def _leave(self, flight: Flight) -> None:
        self._flights.popleft()
        number = flight.part.batch.number
        self._numbers[number] -= 1
        if not self._numbers[number]:
            del self._numbers[number]

    def _pieces(self, flight: Flight) -> Iterator[tuple[Fragment, Rows]]:
        """The rows of a fragment that may leave, in pieces of which the final one is the fragment's own end."""
        part = flight.part
        origins = part.origins
        assert origins is not None, "an edge between stages carries origins"
        rows = Rows(outs=[] if self._sided else None)
        upto: Origin = ()
        for row in self._done(flight):
            outcome = flight.outcomes[row]
            flight.outcomes[row] = None
            key = None if part.keys is None else part.keys[row]
            if outcome.__class__ is Failed:
                assert isinstance(outcome, Failed)
                self._failed(part, row, outcome.error)
                outcome = ()
            for out, value, origin in _given(outcome, origins[row]):
                rows.values.append(value)
                rows.keys.append(key)
                rows.origins.append(origin)
                if rows.outs is not None:
                    rows.outs.append(out)
                if part.times is not None and part.marks is not None:
                    rows.times.append(part.times[row])
                    rows.marks.append(part.marks[row])
                if len(rows.values) >= self._rows_max:
                    yield part._replace(last=False, upto=origin if self._ordered else None), rows
                    rows = Rows(outs=[] if self._sided else None)
            upto = (*origins[row], END)
            flight.given += 1
            self.open -= 1
        if flight.given == flight.rows:
            yield part, rows
        elif upto:
            # without an order nothing can be promised, and nobody behind such a step asks
            yield part._replace(last=False, upto=upto if self._ordered else None), rows

    def _done(self, flight: Flight) -> Iterator[int]:
        if self._ordered:
            while flight.given < flight.rows and flight.outcomes[flight.given] is not None:
                yield flight.given
        else:
            finished, flight.finished = flight.finished, []
            yield from finished


def _given(outcome: Outcome, origin: Origin) -> Iterable[tuple[int, Any, Origin]]:
    """The rows of a call: port, value, origin."""
    if outcome.__class__ is tuple:
        assert isinstance(outcome, tuple)
        return [(0, value, origin) for value in outcome]
    return _expanded(outcome, origin)


def _expanded(outcome: Outcome, origin: Origin) -> Iterator[tuple[int, Any, Origin]]:
    sided = isinstance(outcome, Sided)
    assert isinstance(outcome, Sided | list)
    for j, value in enumerate(outcome.outputs if isinstance(outcome, Sided) else outcome):
        yield 0, value, (*origin, j)
    if sided:
        assert isinstance(outcome, Sided)
        for j, (out, value) in enumerate(outcome.side):
            yield out, value, (*origin, END, j)
