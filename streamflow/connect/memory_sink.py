"""The sink of a memory topic: publishes frames with their sequence numbers behind a fence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import repeat
from operator import add
from typing import Any

from streamflow.batch import Chunk, Fragment, Headers, Partition, Progress
from streamflow.connect.contracts import Frames, Guarantee, Probe, SinkContext, SinkOptions, row_headers
from streamflow.connect.memory_frames import BARE, Heads, dressed, may_hold_dead, names_partitions
from streamflow.connect.memory_log import Fence, TopicLog
from streamflow.connect.memory_source import probe_log
from streamflow.connect.recovery import progress_at, unpublished
from streamflow.errors import EncodeError, RecordRejected
from streamflow.points import Point, no_point


@dataclass(frozen=True, slots=True)
class MemorySinkSettings:
    """What a memory sink is made of.

    Args:
        log: The topic it writes to.
        encode: Turns a value into bytes.
        guarantee: What the sink gives.
        blind: Whether it does without the topic's truth, and so without a fence.
        options: What ``Stream.to`` added.
        mark: What stands in front of a value without key and headers.
        writes_keys: Whether the stream's own key is kept.
    """

    log: TopicLog
    encode: Callable[[Any], bytes]
    guarantee: Guarantee
    blind: bool
    options: SinkOptions
    mark: bytes = BARE
    writes_keys: bool = False


class MemorySink:
    """Appends to a memory topic.

    GUARANTEE: exactly-once, since the topic keeps the next sequence number of each fence name together with
    the records; at-least-once if blind. BOUND: holds nothing itself but the heads of ``HEADS_MAX`` keys.
    """

    def __init__(self, settings: MemorySinkSettings) -> None:
        self.guarantee = settings.guarantee
        self._settings = settings
        self._log = settings.log
        self._heads = Heads()
        self._fence_name = ""
        self._holder = 0
        self._point: Point = no_point

    async def probe(self) -> Probe:
        return probe_log(self._log)

    async def open(self, ctx: SinkContext) -> None:
        self._log.check_reachable()
        self._fence_name, self._point = ctx.fence, ctx.point
        if not self._settings.blind:
            self._holder = self._log.take_fence(ctx.fence, ctx.generation)

    async def recover(self, stored: Progress | None, pending: Sequence[Chunk]) -> Progress:
        self._log.check_reachable()
        if self._settings.blind:
            return stored or Progress(0, 1)
        fence = self._log.fences.get(self._fence_name)
        progress = progress_at(fence.next_seq if fence else 1, stored, pending)
        # Only now: an older copy of the store, which is behind, shall hear SinkAhead rather than Fenced.
        self._log.held_fence(self._fence_name, self._holder)
        return progress

    def encode(self, records: Fragment) -> Frames:
        options = self._settings.options
        values = records.values
        try:
            keys = records.keys if self._settings.writes_keys else None
            if options.key is not None:
                keys = list(map(options.key, values))
            headers = row_headers(options, records)
            if headers is not None or options.partition is not None:
                return self._dressed_where_needed(values, keys, headers)
            heads = self._heads.of(keys) if keys else repeat(self._settings.mark)
            return list(map(add, heads, map(self._settings.encode, values)))
        except (ValueError, TypeError, OverflowError) as error:
            raise EncodeError(
                f"a value for memory topic {self._log.name} cannot be encoded: {error}",
                step=self._log.name,
                hint="Emit values that fit the topic's type, or give the topic another codec.",
            ) from error

    async def publish(self, chunks: Sequence[Chunk], at: Progress) -> Progress:
        self._log.check_reachable()
        next_seq = at.next_seq
        fence = None
        if not self._settings.blind:
            fence = self._log.held_fence(self._fence_name, self._holder)
            next_seq = max(next_seq, fence.next_seq)
            assert next_seq == fence.next_seq, f"record {fence.next_seq} was never published, {next_seq} comes next"
        packed = chunks[0].first_seq == next_seq and self._log.takes_packed
        if packed and not any(map(names_partitions, chunks)) and not any(map(may_hold_dead, chunks)):
            count = self._publish_packed(fence, chunks)
        else:
            frames = unpublished(chunks, next_seq)
            self._check(fence, frames, next_seq)
            self._log.publish(fence, frames)
            count = len(frames)
        return progress_at(next_seq + count, at, chunks)

    def _check(self, fence: Fence | None, frames: Frames, first_seq: int) -> None:
        """Publishes what stands before a frame that the topic refuses.

        Raises:
            RecordRejected: There is one.
        """
        refuses = self._log.refuses
        if refuses is None:
            return
        for at, frame in enumerate(frames):
            if frame and refuses(frame):
                self._log.publish(fence, frames[:at])
                raise RecordRejected(
                    first_seq + at, f"memory topic {self._log.name} refuses record {first_seq + at}", hint="Correct it."
                )

    def _publish_packed(self, fence: Fence | None, chunks: Sequence[Chunk]) -> int:
        count = 0
        for chunk in chunks:
            if count:
                self._point("publish.part")
            count += self._log.publish_packed(fence, [chunk])
        return count

    async def close(self) -> None:
        self._holder = 0

    def _dressed_where_needed(
        self, values: Sequence[Any], keys: Sequence[Any] | None, headers: Sequence[Headers | None] | None
    ) -> Frames:
        options = self._settings.options
        if headers is not None and options.headers is None and options.partition is None:
            # trace context alone: rows without it are what they are elsewhere
            heads = self._heads.of(keys) if keys else [self._settings.mark] * len(values)
            return [
                head + self._settings.encode(value) if one is None else self._dressed(value, key, one)
                for value, key, head, one in zip(values, keys or [None] * len(values), heads, headers, strict=True)
            ]
        return list(map(self._dressed, values, keys or repeat(None), headers or repeat(None)))

    def _dressed(self, value: Any, key: Any, headers: Headers | None) -> bytes:
        options = self._settings.options
        partition = self._partition(0 if options.partition is None else options.partition(value))
        return dressed(self._settings.encode(value), partition, key, headers)

    def _partition(self, number: int) -> Partition:
        names = list(self._log.partitions)
        if not 0 <= number < len(names):
            raise ValueError(f"partition {number} of {len(names)}")
        return names[number]
