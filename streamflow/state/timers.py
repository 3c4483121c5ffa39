"""Named timers of one step: entries of a table, and a heap of when they are due."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

from streamflow.batch import TIME_MAX
from streamflow.codecs import JsonCodec
from streamflow.keys import Key, canonical
from streamflow.state.keyed import MISSING, Table

TIMERS_SUFFIX = "@timers"
EVENT_TIMERS_SUFFIX = "@event-timers"

_Item = tuple[int, bytes, str, int, Key]
"""What the heap holds: due time, canonical key, name, a serial number (keys need not compare), and the key."""


class Timers:
    """Timers by (key, name), in milliseconds of processing time or microseconds of event time.

    GUARANTEE: a timer fires once, at the first micro-batch whose time is at or behind its due time, in the order of
    (due, canonical key, name). Setting one again replaces it. One set while timers fire waits for a later time;
    where they are chained, for one behind the due time of the timer that set it.

    Args:
        step: Name of the step.
        names: The names that have a handler.
        key_type: Type of the keys where annotations tell it.
        suffix: Stands behind the step's name in that of the table.
    """

    def __init__(self, step: str, names: Iterable[str], key_type: Any = None, *, suffix: str = TIMERS_SUFFIX) -> None:
        self.names = frozenset(names)
        self.table: Table[int] = Table(step + suffix, JsonCodec[int](int), subs=True, key_type=key_type)
        self._heap: list[_Item] = []
        self._armed: dict[tuple[Key, str], _Item] = {}
        self._serial = itertools.count()
        self._firing_ms: int | None = None
        self._held: list[_Item] = []
        self._before: dict[tuple[Key, str], _Item | None] = {}

    def set(self, key: Key, name: str, due_ms: int) -> None:
        """Sets or replaces a timer."""
        self.table.put((key, name), due_ms)
        armed = self._armed.get((key, name))
        # one that is armed for earlier finds out when it is popped; not while timers fire, when that may be now
        if armed is None or armed[0] > due_ms or (self._firing_ms is not None and due_ms <= self._firing_ms):
            self._arm(key, name, due_ms)

    def cancel(self, key: Key, name: str) -> None:
        """Removes a timer, if it is set."""
        self.table.delete((key, name))

    def due(self, now_ms: int, *, chained: bool = False) -> Iterator[tuple[Key, str, int]]:
        """Takes the timers that are due, one by one.

        Args:
            now_ms: Up to when.
            chained: Take those too that are set meanwhile, for behind the due time of the timer at hand: what time
                has passed at once and what it has passed bit by bit gives the same. Not up to the end of time.
        """
        chained = chained and now_ms < TIME_MAX
        self._firing_ms = now_ms
        # a heap of its own for those that wait for a later time: to move a million into the other takes too long
        held, self._held = self._held, []
        try:
            while True:
                heap = held if held and (not self._heap or held[0] < self._heap[0]) else self._heap
                if not heap or heap[0][0] > now_ms:
                    break
                item = heapq.heappop(heap)
                armed_ms, _, name, _, key = item
                if self._armed.get((key, name)) is not item:
                    continue
                del self._armed[key, name]
                due_ms = self.table.peek((key, name))
                if due_ms is MISSING:
                    continue
                if due_ms > armed_ms:
                    self._firing_ms = None
                    self._arm(key, name, due_ms)
                    self._firing_ms = now_ms
                    continue
                self.table.delete((key, name))
                if chained:
                    self._firing_ms = due_ms
                yield key, name, due_ms
                self._firing_ms = now_ms
        finally:
            self._firing_ms = None
            if held:
                self._held = list(heapq.merge(sorted(held), sorted(self._held)))

    def next_due_ms(self) -> int | None:
        """When the earliest timer may be due; a cancelled or later one is found out by `due`."""
        return min((heap[0][0] for heap in (self._heap, self._held) if heap), default=None)

    def begin(self, key: Key) -> None:
        """Keeps how a key's timers are armed, until `roll_back`."""
        self._before = {(key, name): self._armed.get((key, name)) for name in self.names}
        self.table.begin()

    def roll_back(self) -> None:
        """Restores the timers of the key given to `begin`; what was armed since is found stale when popped."""
        self.table.roll_back()
        for timer, item in self._before.items():
            if item is None:
                self._armed.pop(timer, None)
            else:
                self._armed[timer] = item

    def installed(self) -> None:
        """Ends loading: arms every timer of the table."""
        self.table.installed()
        for key, names in self.table.index.items():
            for name in names:
                self._armed[key, name] = item = self._item(key, name, self.table.peek((key, name)))
                self._heap.append(item)
        heapq.heapify(self._heap)

    def _arm(self, key: Key, name: str, due_ms: int) -> None:
        self._armed[key, name] = item = self._item(key, name, due_ms)
        if self._firing_ms is not None and due_ms <= self._firing_ms:
            heapq.heappush(self._held, item)
        else:
            heapq.heappush(self._heap, item)

    def _item(self, key: Key, name: str, due_ms: int) -> _Item:
        return (due_ms, canonical(key), name, next(self._serial), key)
