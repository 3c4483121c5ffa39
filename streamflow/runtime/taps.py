"""Taps: ends of paths inside the process, where rows become visible when their epoch is committed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from streamflow.batch import Fragment
from streamflow.graph import Port
from streamflow.operators.operator import Outlet


class Tap:
    """The end of a path for a listener inside the process.

    GUARANTEE: rows are delivered once their epoch is committed, in the order of epochs.
    """

    def __init__(self, deliver: Callable[[list[Any]], None]) -> None:
        self._deliver = deliver
        self._rows: list[Any] = []
        self._sealed: dict[int, list[Any]] = {}
        self.waiting = 0
        """Rows that are not committed."""

    async def put(self, part: Fragment) -> None:
        self._rows += part.values
        self.waiting += len(part.values)
        if part.last and part.batch.barrier is not None:
            self._sealed[part.batch.barrier] = self._rows
            self._rows = []

    def committed(self, epoch: int) -> None:
        """Delivers the rows of every epoch up to this one."""
        for sealed in sorted(sealed for sealed in self._sealed if sealed <= epoch):
            if rows := self._sealed.pop(sealed):
                self.waiting -= len(rows)
                self._deliver(rows)


class Taps:
    """The taps of a shard: of listeners, one per port, and of the shard's own parts, which stay.

    Attributes:
        by_port: Those of listeners.
        own: Those of the shard's own parts.
    """

    def __init__(self) -> None:
        self.by_port: dict[Port, Tap] = {}
        self.own: dict[Port, Tap] = {}

    def __iter__(self) -> Iterator[Tap]:
        return iter((*self.own.values(), *self.by_port.values()))

    def ports(self) -> Iterable[Port]:
        """Every port that has a tap."""
        return dict.fromkeys((*self.by_port, *self.own))

    def outlet(self, port: Port) -> Outlet:
        """Where a port's rows go."""
        found = [taps[port] for taps in (self.own, self.by_port) if port in taps]
        return found[0] if len(found) == 1 else _Both(*found)


class _Both:
    """An outlet that gives everything to two."""

    def __init__(self, first: Outlet, second: Outlet) -> None:
        self._outlets = first, second

    async def put(self, part: Fragment) -> None:
        for outlet in self._outlets:
            await outlet.put(part)
