"""Deletions: the keys of a table that were deleted since a barrier, however many they are."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator
from itertools import chain
from typing import Any, Final

_PARTS: Final = 256
_RUN_KEYS: Final = 1000
_FREED_BYTES_MAX: Final = 2 << 20
_NO_PARTS: Final[list[dict[Any, int]]] = [{}] * _PARTS
"""Of a set to which nothing was added yet, as in most epochs: never written to."""


class Deletions:
    """A set of keys in the order in which they were added.

    GUARANTEE: no call takes long: the keys are spread over small dicts, since one dict that grows to a million keys
    stops the loop for tens of milliseconds each time it does. They go in the order in which they came: then what they
    occupy goes back to the system bit by bit, and not with the last of them.
    """

    __slots__ = ("_cleared", "_parts", "_runs", "_serial", "size")

    def __init__(self) -> None:
        self.size = 0
        self._serial = 0
        self._cleared = 0
        self._parts = _NO_PARTS
        self._runs: deque[list[Any]] = deque()

    def __contains__(self, key: Any) -> bool:
        return key in self._parts[hash(key) % _PARTS]

    def __iter__(self) -> Iterator[Any]:
        """Gives the keys in order; nothing may be added or discarded meanwhile."""
        parts = self._parts
        for serial, key in enumerate(chain.from_iterable(self._runs), start=1):
            if parts[hash(key) % _PARTS].get(key) == serial:
                yield key

    def add(self, key: Any) -> None:
        if self._parts is _NO_PARTS:
            self._parts = [{} for _ in range(_PARTS)]
        part = self._parts[hash(key) % _PARTS]
        self.size += key not in part
        if self._serial % _RUN_KEYS == 0:
            self._runs.append([])
        self._serial += 1
        self._runs[-1].append(key)
        part[key] = self._serial

    def discard(self, key: Any) -> None:
        # its place in the run stays: a later `add` gives it another
        if self._parts[hash(key) % _PARTS].pop(key, None) is not None:
            self.size -= 1

    def release(self, most: int) -> bool:
        """Forgets about ``most`` keys, the oldest first, so that very many go in several calls; says if all are gone.

        Nothing else may be asked of it before they are.
        """
        while self._runs and most > 0:
            run = self._runs.popleft()
            most -= len(run)
            for key in run:
                self._parts[hash(key) % _PARTS].pop(key, None)
        if self._runs:
            return False
        self.size = 0
        freed = 0
        while self._serial and self._cleared < _PARTS and freed < _FREED_BYTES_MAX:
            freed += sys.getsizeof(self._parts[self._cleared])
            self._parts[self._cleared].clear()
            self._cleared += 1
        if self._serial and self._cleared < _PARTS:
            return False
        self._serial = self._cleared = 0
        return True
