"""The flow's own dead letters as one of its sources: read from the store by their numbers, once they are committed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from typing import Any, Final

from streamflow.batch import Partition, Position, SourceBatch, Taken
from streamflow.connect.contracts import Guarantee, Level, Probe, SourceContext
from streamflow.connect.ended import EndedSource
from streamflow.graph import LETTERS
from streamflow.state.store import Store

READ_LETTERS_MAX: Final = 100
"""Letters that are read at once: each may be as large as a record."""

_BY_NUMBER: Final = Guarantee(Level.EXACTLY_ONCE, "letters are in the state file and are read by their numbers")


@dataclass(frozen=True, slots=True)
class DeadLetterLog:
    """What the graph holds of the source of dead letters."""

    name: str = LETTERS
    codec: None = None
    internal: bool = True

    @property
    def guarantee(self) -> Guarantee:
        return _BY_NUMBER

    def describe(self) -> str:
        return "dead letters of this flow"

    def source(self) -> EndedSource:
        """Without a shard there are no letters; a shard reads them by a `LetterSource`."""
        return EndedSource(_BY_NUMBER)


class LetterSource:
    """Reads letters in the order in which they were stored.

    GUARANTEE: each letter once that is there when its turn comes; it ends when nothing can make another one.
    BOUND: 100 letters at a time.

    Args:
        store: Where they are.
        over: Whether nothing can come any more.
        changed: Set when there may be new ones, or nothing can come any more.
    """

    guarantee = _BY_NUMBER

    def __init__(self, store: Store, over: Callable[[], bool], changed: asyncio.Event) -> None:
        self._store = store
        self._over = over
        self._changed = changed
        self._at = 0

    async def probe(self) -> Probe:
        return Probe(True)

    async def open(self, ctx: SourceContext, resume: Mapping[Partition, Position]) -> Mapping[Partition, Position]:
        start = resume.get("", Position(0))
        self._at = start.at
        return {"": start}

    async def read(self) -> SourceBatch | None:
        while True:
            self._changed.clear()
            found = await self._store.dead_letters(above=self._at, most=READ_LETTERS_MAX)
            if found:
                self._at = found[-1].id
                payloads: list[Any] = list(found)
                times = [letter.at_ms for letter in found]
                return SourceBatch("", payloads, [letter.id for letter in found], timestamps_ms=times)
            if self._over():
                return None
            await self._changed.wait()

    async def ends(self) -> Mapping[Partition, Position | None]:
        return {"": None}

    def pause(self, partitions: Set[Partition]) -> None:
        """Does nothing: few are read at a time."""

    async def committed(self, epoch: int, taken: Taken) -> None:
        """Does nothing: letters stay until somebody drops them."""

    async def close(self) -> None:
        """Does nothing."""
