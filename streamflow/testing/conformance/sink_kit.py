"""Hooks of the sink conformance kit, and the verbs that its tests are written in."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence, Set
from dataclasses import replace
from typing import Any

from streamflow.batch import Chunk, Fragment, MicroBatch, Progress, SourceBatch, SourceInput, pack_frames, unpack_frames
from streamflow.connect.contracts import Guarantee, Level, Sink, SinkContext, SinkOptions, SinkSpec
from streamflow.testing.conformance.connector import ConnectorConformance, unsupported

SINK = "sink"


class SinkKit(ConnectorConformance):
    """Hooks of `SinkConformance`, all about the one target that `start` makes.

    Values are numbered like their records: ``value(1)`` is the value with sequence number 1.
    """

    # Hooks.

    def spec(self) -> SinkSpec[Any]:
        """Returns the settings under test. Does no I/O."""
        raise NotImplementedError

    async def visible(self) -> list[Any]:
        """Returns what a plain consumer sees of `value`'s values, in order, decoded.

        For an effectively-once sink: a consumer that drops a record whose id it has seen.
        """
        raise NotImplementedError

    def value(self, seq: int) -> Any:
        """Returns a value to publish, different for each number."""
        return f"record {seq}"

    def unencodable(self) -> Any:
        """Returns a value that the codec refuses."""
        return object()

    def oversized(self) -> Any:
        """Returns a value that encodes to more bytes than the target takes."""
        unsupported("oversized", "the target takes records of any size")

    async def write_foreign(self, values: Sequence[Any]) -> None:
        """Appends values to the same target as another program would, not as this sink."""
        unsupported("write_foreign", "nobody else can write there")

    async def traceparents(self) -> list[str | None]:
        """Returns the header ``traceparent`` of each record that `visible` gives."""
        unsupported("traceparents", "the target has no headers")

    # Verbs.

    def make(self, spec: Any) -> Sink:
        """Makes an unopened sink."""
        sink: Sink = spec.sink(SinkOptions())
        return sink

    async def open(self, connector: Any) -> None:
        """Opens a sink as a newer instance than all before."""
        await connector.open(self.context(self.next_generation()))

    def stated_guarantee(self, spec: Any) -> Guarantee:
        """Reads the guarantee off a spec."""
        guarantee: Guarantee = spec.sink_guarantee
        return guarantee

    @property
    def level(self) -> Level:
        """What the sink states to give."""
        return self.spec().sink_guarantee.level

    def next_generation(self) -> int:
        """Counts the openings, as the store does."""
        self._generation = getattr(self, "_generation", 0) + 1
        return self._generation

    def context(self, generation: int) -> SinkContext:
        """Returns the context that sinks are opened with."""
        return SinkContext("conformance", SINK, 0, self.incarnation, generation)

    async def opened(self) -> Sink:
        """Makes and opens a sink, which fences all earlier ones."""
        sink: Sink = self.made(self.spec())
        async with asyncio.timeout(self.timeout_seconds):
            await self.open(sink)
        return sink

    async def reopened(self, stored: Progress | None, pending: Sequence[Chunk]) -> tuple[Sink, Progress]:
        """Does what a restart does: opens a sink and asks what arrived."""
        sink = await self.opened()
        async with asyncio.timeout(self.timeout_seconds):
            return sink, await sink.recover(stored, pending)

    async def publish(self, sink: Sink, chunks: Sequence[Chunk], at: Progress) -> Progress:
        """Publishes and checks the progress that comes back."""
        async with asyncio.timeout(self.timeout_seconds):
            progress = await sink.publish(chunks, at)
        assert progress.next_seq == chunks[-1].first_seq + chunks[-1].count
        assert progress.epoch == chunks[-1].epoch
        return progress

    def encoded(self, values: Sequence[Any]) -> list[bytes]:
        """Encodes values with an unopened sink: encoding needs no broker."""
        return list(self.make(self.spec()).encode(fragment(values)))

    def chunks(self, first_epoch: int, first_seq: int, *epochs: Sequence[int]) -> list[Chunk]:
        """Makes the chunks of some epochs, each given by the sizes of its chunks."""
        made: list[Chunk] = []
        seq = first_seq
        for epoch, sizes in enumerate(epochs, first_epoch):
            for index, size in enumerate(sizes):
                frames = self.encoded([self.value(number) for number in range(seq, seq + size)])
                made.append(Chunk(SINK, epoch, index, seq, size, pack_frames(frames)))
                seq += size
        return made

    async def sees(self, count: int, *, before: Sequence[Any] = ()) -> None:
        """Checks what a consumer sees: ``before``, then the first ``count`` values."""
        await self.sees_exactly([*before, *(self.value(seq) for seq in range(1, count + 1))])

    async def sees_exactly(self, expected: Sequence[Any]) -> None:
        """Checks what a consumer sees."""
        found = await self.visible()
        if self.level is Level.AT_LEAST_ONCE:
            found = _first_occurrences(found)
        missing = [value for value in expected if value not in found]
        assert not missing, f"{len(missing)} of {len(expected)} are missing: {missing[:3]}"
        assert len(found) == len(expected), f"{len(found) - len(expected)} records too many of {len(expected)}"
        assert found == list(expected), "records are out of order"


def fragment(values: Sequence[Any]) -> Fragment:
    """A fragment of bare values."""
    return Fragment(MicroBatch(1, 0), list(values), True)


def traced(values: Sequence[Any], traceparents: Sequence[str | None]) -> Fragment:
    """A fragment whose rows come from records with these headers."""
    headers = [None if text is None else {"traceparent": text, "other": "stays"} for text in traceparents]
    records = SourceBatch("", list(values), positions=range(1, len(values) + 1), headers=headers)
    batch = MicroBatch(1, 0, (SourceInput("source", 0, records),), traced=True)
    return Fragment(batch, list(values), True, origins=[(row,) for row in range(len(values))])


def first_frames(chunks: Sequence[Chunk], count: int) -> list[Chunk]:
    """Cuts chunks off behind the first ``count`` frames: what a crash in the middle let through."""
    kept: list[Chunk] = []
    for chunk in chunks:
        size = min(chunk.count, count)
        if size > 0:
            frames = unpack_frames(chunk.payload)[:size]
            kept.append(replace(chunk, count=size, payload=pack_frames(frames)))
        count -= size
    return kept


def without(chunk: Chunk, given_up: Set[int]) -> Chunk:
    """A chunk in which some records were given up."""
    frames = unpack_frames(chunk.payload)
    kept = [b"" if seq in given_up else frame for seq, frame in enumerate(frames, chunk.first_seq)]
    return replace(chunk, payload=pack_frames(kept))


def _first_occurrences(values: Sequence[Any]) -> list[Any]:
    kept: list[Any] = []
    for value in values:
        if value not in kept:
            kept.append(value)
    return kept
