"""Due: windows in the order in which they close, without sorting many at once."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Any, Final

from streamflow.keys import Key, canonical

RUN_MAX: Final = 4096
"""So many windows that close together are sorted at once, which takes about 2 ms; runs are merged one by one."""

_Item = tuple[bytes, Key, Any]


class Due:
    """What is to be looked at when the watermark gets there: (key, sub) by time.

    GUARANTEE: `take` gives in the order of (time, canonical key); it never sorts more than `RUN_MAX` at a time.
    BOUND: one item per `arm`; what became stale in between is for the caller to find out.
    """

    def __init__(self) -> None:
        self._buckets: dict[int, list[list[_Item]]] = {}
        self._times: list[int] = []
        self._text = b""

    def arm(self, time_us: int, key: Key, sub: Any) -> None:
        """Asks for a look at (key, sub) at a time."""
        self._add(time_us, (canonical(key), key, sub))

    def again(self, time_us: int, key: Key, sub: Any) -> None:
        """`arm` for the key that `take` gave last: its text is known."""
        runs = self._buckets.get(time_us)
        if runs is None or len(runs[-1]) >= RUN_MAX - 1:
            self._add(time_us, (self._text, key, sub))
        else:
            runs[-1].append((self._text, key, sub))

    def _add(self, time_us: int, item: _Item) -> None:
        runs = self._buckets.get(time_us)
        if runs is None:
            runs = self._buckets[time_us] = [[]]
            heapq.heappush(self._times, time_us)
        run = runs[-1]
        run.append(item)
        if len(run) >= RUN_MAX:
            run.sort()
            runs.append([])

    def is_due(self, upto_us: int) -> bool:
        """Whether `take` would give something."""
        return bool(self._times) and self._times[0] <= upto_us

    def take(self, upto_us: int) -> Iterator[tuple[int, Key, Any]]:
        """Takes what is due, one by one; what is armed meanwhile for such a time comes too."""
        while self._times and self._times[0] <= upto_us:
            time_us = heapq.heappop(self._times)
            runs = self._buckets.pop(time_us)
            runs[-1].sort()
            items = _drained(runs[0]) if len(runs) == 1 else heapq.merge(*map(_drained, runs))
            for self._text, key, sub in items:
                yield time_us, key, sub


def _drained(run: list[_Item]) -> Iterator[_Item]:
    """Gives a sorted run and lets go of what was given: to free a million at the end would take too long."""
    run.reverse()
    while run:
        yield run.pop()
