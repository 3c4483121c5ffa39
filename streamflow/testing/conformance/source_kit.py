"""Hooks of the source conformance kit, and the verbs that its tests are written in."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence, Set
from typing import Any, NamedTuple

from streamflow.batch import Partition, Position, SourceBatch
from streamflow.connect.contracts import Guarantee, Source, SourceContext, SourceSpec
from streamflow.testing.conformance.connector import ConnectorConformance, unsupported


class Read(NamedTuple):
    """One record as it was read."""

    partition: Partition
    payload: Any
    position: Position | None
    id: str | None


class SourceKit(ConnectorConformance):
    """Hooks of `SourceConformance`, all about the one stream that `start` makes."""

    partitions: Sequence[Partition] = ("",)
    """The partitions that `spec` reads."""

    by_ids: bool = False
    """Whether records carry ids instead of positions."""

    read_ahead_records_max: int = 0
    """Most records that may still come from a partition after it was paused."""

    unacknowledged_max: int = 0
    """Most records with ids that are handed out before one is acknowledged; 0 if there is no such bound."""

    # Hooks.

    def spec(self) -> SourceSpec[Any]:
        """Returns the settings under test: from the earliest record on, waiting for more at the end. Does no I/O."""
        raise NotImplementedError

    def bounded_spec(self) -> SourceSpec[Any]:
        """Returns settings whose source ends, once `end_input` was called or at the end of what is there."""
        return self.spec()

    async def feed(self, payloads: Sequence[bytes], partition: Partition = "") -> None:
        """Appends records as any other program would; durable on return."""
        raise NotImplementedError

    async def end_input(self) -> None:
        """Says that nothing will be fed any more."""
        unsupported("end_input", "the source never ends")

    async def truncate(self, count: int, partition: Partition = "") -> None:
        """Deletes the first records, as retention does."""
        unsupported("truncate", "nothing is ever deleted in front")

    async def lose(self, count: int, partition: Partition = "") -> None:
        """Makes the last records disappear, as a broker that comes back with less data."""
        unsupported("lose", "the last records cannot disappear")

    def payload(self, index: int) -> bytes:
        """Returns the bytes of a record, different for each index; JSON unless overridden."""
        return b'{"n":%d}' % index

    # Verbs.

    def make(self, spec: Any) -> Source:
        """Makes an unopened source."""
        source: Source = spec.source()
        return source

    async def open(self, connector: Any) -> None:
        """Opens a source at the start."""
        await connector.open(self.context(), {})

    def stated_guarantee(self, spec: Any) -> Guarantee:
        """Reads the guarantee off a spec."""
        guarantee: Guarantee = spec.guarantee
        return guarantee

    def context(self, seen: Set[str] = frozenset()) -> SourceContext:
        """Returns the context that sources are opened with."""
        return SourceContext("conformance", "source", 0, self.incarnation, 1, seen)

    def payloads(self, start: int, stop: int) -> list[bytes]:
        """Returns the records ``start:stop``."""
        return [self.payload(index) for index in range(start, stop)]

    async def opened(
        self, resume: Mapping[Partition, Position] | None = None, *, seen: Set[str] = frozenset()
    ) -> Source:
        """Makes and opens a source."""
        source: Source = self.made(self.spec())
        async with asyncio.timeout(self.timeout_seconds):
            await source.open(self.context(seen), resume or {})
        return source

    async def take(self, source: Source, count: int) -> list[Read]:
        """Reads until there are ``count`` records, and checks the form of each batch."""
        found: list[Read] = []
        async with asyncio.timeout(self.timeout_seconds):
            while len(found) < count:
                batch = await source.read()
                assert batch is not None, f"the source ended after {len(found)} of {count} records"
                found += self.rows(batch)
        assert len(found) == count, f"{len(found)} records came instead of {count}"
        return found

    def rows(self, batch: SourceBatch) -> list[Read]:
        """Takes a batch apart, and checks its form."""
        assert len(batch) > 0 or batch.resume is not None or batch.last, "a batch is empty, and says nothing"
        assert (batch.positions is None) == self.by_ids
        assert (batch.ids is None) != self.by_ids
        for column in (batch.positions, batch.ids, batch.headers, batch.keys, batch.timestamps_ms):
            assert column is None or len(column) == len(batch), "a column is longer or shorter than the records"
        if batch.ids is not None:
            return [
                Read(batch.partition, payload, None, name)
                for payload, name in zip(batch.payloads, batch.ids, strict=True)
            ]
        assert batch.positions is not None
        return [
            Read(batch.partition, payload, Position(at, batch.identity), None)
            for payload, at in zip(batch.payloads, batch.positions, strict=True)
        ]

    async def take_nothing(self, source: Source) -> None:
        """Checks that nothing comes for a while."""
        try:
            async with asyncio.timeout(self.quiet_seconds):
                batch = await source.read()
        except TimeoutError:
            return
        raise AssertionError(f"nothing should have come, but this did: {batch}")

    @property
    def first(self) -> Partition:
        """The partition that one-partition tests use."""
        return self.partitions[0]
