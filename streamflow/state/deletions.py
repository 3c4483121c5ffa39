"""Deletions: the keys of a table that were deleted since a barrier, however many they are."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Any, Final

_PARTS: Final = 256


class Deletions:
    """A set of keys in the order in which they were added.

    GUARANTEE: no call takes long: the keys are spread over small dicts, since one dict that grows to a million keys
    stops the loop for tens of milliseconds each time it does, and again when it goes.
    """

    __slots__ = ("_parts", "_serial", "size")

    def __init__(self) -> None:
        self.size = 0
        self._serial = 0
        self._parts: list[dict[Any, int]] = [{} for _ in range(_PARTS)]

    def __contains__(self, key: Any) -> bool:
        return key in self._parts[hash(key) % _PARTS]

    def __iter__(self) -> Iterator[Any]:
        """Gives the keys in order; nothing may be added or discarded meanwhile."""
        # serial numbers differ, so that keys are never compared
        ordered = heapq.merge(*(((serial, key) for key, serial in part.items()) for part in self._parts if part))
        return (key for _, key in ordered)

    def add(self, key: Any) -> None:
        part = self._parts[hash(key) % _PARTS]
        self.size += key not in part
        self._serial += 1
        part.pop(key, None)
        part[key] = self._serial

    def discard(self, key: Any) -> None:
        if self._parts[hash(key) % _PARTS].pop(key, None) is not None:
            self.size -= 1

    def release(self, most: int) -> None:
        """Forgets about ``most`` keys, so that very many go in several calls."""
        for part in self._parts:
            if part:
                self.size -= len(part)
                most -= len(part)
                part.clear()
                if most <= 0:
                    break
