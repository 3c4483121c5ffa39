"""Subscriptions: committed records of a stream, read by the host, and what happens when it reads too slowly."""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from types import TracebackType
from typing import Any, Generic, Literal, Self, TypeVar

from streamflow.errors import DefinitionError, StreamflowError
from streamflow.graph import Port

T = TypeVar("T")

OnSlow = Literal["raise", "drop", "block"]

RECORDS_MAX = 65_536
"""Committed records that wait for a slow subscriber, unless ``records_max=`` says something else."""


class Subscription(AsyncIterator[T], Generic[T]):
    """Iterates over a stream's committed records. Made by `Running.subscribe`.

    GUARANTEE: each record once and in order, from its beginning on; committed before it is given. The end of the flow
    ends it, behind the last record. It ends, too, by `aclose`, with the end of ``async with``, or when nobody holds it.
    BOUND: ``records_max`` records, and with "block" what is in the flow's channels besides.

    Attributes:
        dropped: Records that were left out with ``on_slow="drop"``.
    """

    def __init__(self, port: Port, on_slow: OnSlow, records_max: int, wake: Callable[[], None]) -> None:
        if on_slow not in ("raise", "drop", "block"):
            raise DefinitionError(f"on_slow={on_slow!r:.40}", hint='Write on_slow="raise", "drop" or "block".')
        if type(records_max) is not int or records_max < 1:
            raise DefinitionError(f"records_max={records_max!r:.40} of a subscription", hint="Give a number above 0.")
        self.dropped = 0
        self.on_slow = on_slow
        self._port = port
        self._most = records_max
        self._wake_flow = wake
        self._rows: deque[Any] = deque()
        self._wake = asyncio.Event()
        self._behind = self._ended = self._closed = False

    def full(self, on_the_way: int) -> bool:
        """Whether the flow should wait for it, given how many records are not committed."""
        return self.on_slow == "block" and not self._closed and len(self._rows) + on_the_way >= self._most

    def deliver(self, rows: Sequence[Any]) -> None:
        """Takes what an epoch has committed; called by the flow."""
        if self._closed or self._behind:
            return
        self._rows.extend(rows)
        if len(self._rows) > self._most and self.on_slow != "block":
            if self.on_slow == "raise":
                self._behind = True
            while self.on_slow == "drop" and len(self._rows) > self._most:
                self._rows.popleft()
                self.dropped += 1
        self._wake.set()

    def end(self) -> None:
        """The flow has ended; called by the flow."""
        self._ended = True
        self._wake.set()

    async def __anext__(self) -> T:
        while True:
            if self._behind:
                raise StreamflowError(
                    f"a subscriber of {self._port.step!r} fell {self._most} records behind",
                    hint='Read faster, let a sink keep the records, or say on_slow="drop" or "block".',
                )
            if self._rows:
                row: T = self._rows.popleft()
                if self.on_slow == "block" and len(self._rows) <= self._most // 2:
                    self._wake_flow()
                return row
            if self._ended or self._closed:
                raise StopAsyncIteration
            self._wake.clear()
            await self._wake.wait()

    async def aclose(self) -> None:
        """Ends it; records that were not read are dropped."""
        self._closed = True
        self._rows.clear()
        self._wake.set()
        self._wake_flow()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


class Subscribers:
    """The subscriptions of a running flow.

    Args:
        tap: Asks for a port's committed rows.
        tapped: Says how many rows of a port are not committed.
        wake: Lets the flow look again whether it must wait for a subscriber.
    """

    def __init__(
        self,
        tap: Callable[[Port, Callable[[list[Any]], None]], None],
        tapped: Callable[[Port], int],
        wake: Callable[[], None],
    ) -> None:
        self._tap = tap
        self._tapped = tapped
        self._wake = wake
        self._by_port: dict[Port, weakref.WeakSet[Subscription[Any]]] = {}

    def add(self, port: Port, on_slow: OnSlow, records_max: int) -> Subscription[Any]:
        """Begins a subscription."""
        made: Subscription[Any] = Subscription(port, on_slow, records_max, self._wake)
        if port not in self._by_port:
            found = self._by_port[port] = weakref.WeakSet()

            def deliver(rows: list[Any]) -> None:
                for each in found:
                    each.deliver(rows)

            self._tap(port, deliver)
        self._by_port[port].add(made)
        return made

    def full(self) -> str:
        """Why the flow should take no records now; empty if it may."""
        for port, found in self._by_port.items():
            on_the_way = self._tapped(port)
            if any(each.full(on_the_way) for each in found):
                return f"a subscriber of {port.step!r} reads too slowly"
        return ""

    def end(self) -> None:
        """The flow has ended."""
        for found in self._by_port.values():
            for each in found:
                each.end()
