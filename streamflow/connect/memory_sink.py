"""The sink of a memory topic: publishes frames with their sequence numbers behind a fence."""

# ruff: noqa: D102 - what each method must do is documented once, in streamflow.connect.contracts

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from streamflow.batch import Chunk, Fragment, Partition, Progress
from streamflow.connect.contracts import Frames, Guarantee, Probe, SinkContext, SinkOptions
from streamflow.connect.memory_log import Extras, TopicLog
from streamflow.connect.memory_source import probe_log
from streamflow.connect.recovery import progress_at, unpublished
from streamflow.errors import EncodeError
from streamflow.keys import canonical

BARE: Final = b"\x00"
"""Starts a frame that is nothing but the value."""
DRESSED: Final = b"\x01"
"""Starts a frame of value, partition, key and headers, in MessagePack."""

_Dressed = tuple[bytes, str, bytes | None, dict[str, str] | None]
_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(_Dressed).decode


@dataclass(frozen=True, slots=True)
class MemorySinkSettings:
    """What a memory sink is made of.

    Args:
        log: The topic it writes to.
        encode: Turns a value into bytes.
        stored: Turns those bytes into what the topic keeps.
        guarantee: What the sink gives.
        blind: Whether it does without the topic's truth, and so without a fence.
        options: What ``Stream.to`` added.
    """

    log: TopicLog
    encode: Callable[[Any], bytes]
    stored: Callable[[bytes], Any]
    guarantee: Guarantee
    blind: bool
    options: SinkOptions


class MemorySink:
    """Appends to a memory topic.

    GUARANTEE: exactly-once, since the topic keeps the next sequence number of each fence name together with
    the records; at-least-once if blind. BOUND: holds nothing itself.
    """

    def __init__(self, settings: MemorySinkSettings) -> None:
        self.guarantee = settings.guarantee
        self._settings = settings
        self._log = settings.log
        self._fence_name = ""
        self._holder = 0

    async def probe(self) -> Probe:
        return probe_log(self._log)

    async def open(self, ctx: SinkContext) -> None:
        self._log.check_reachable()
        self._fence_name = ctx.fence
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
        try:
            if records.keys is None and options == SinkOptions():
                encode = self._settings.encode
                return [BARE + encode(value) for value in records.values]
            keys = records.keys or [None] * len(records.values)
            return [self._dressed(value, key) for value, key in zip(records.values, keys, strict=True)]
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
        frames = unpublished(chunks, next_seq)
        self._log.publish(fence, frames, self._append)
        return progress_at(next_seq + len(frames), at, chunks)

    async def close(self) -> None:
        self._holder = 0

    def _dressed(self, value: Any, key: Any) -> bytes:
        options = self._settings.options
        if options.key is not None:
            key = options.key(value)
        headers = None if options.headers is None else dict(options.headers(value))
        partition = self._partition(0 if options.partition is None else options.partition(value))
        return DRESSED + _pack((self._settings.encode(value), partition, _key_bytes(key), headers))

    def _partition(self, number: int) -> Partition:
        names = list(self._log.partitions)
        if not 0 <= number < len(names):
            raise ValueError(f"partition {number} of {len(names)}")
        return names[number]

    def _append(self, frames: Frames) -> None:
        first, stored = self._partition(0), self._settings.stored
        if all(frame[0] == BARE[0] for frame in frames):
            self._log.append(first, [stored(frame[1:]) for frame in frames])
            return
        for frame in frames:
            if frame[0] == BARE[0]:
                self._log.append(first, [stored(frame[1:])])
            else:
                value, partition, key, headers = _unpack(frame[1:])
                self._log.append(partition, [stored(value)], Extras(key, headers))


def _key_bytes(key: Any) -> bytes | None:
    """A key as a broker would hold it: text and bytes as they are, all else in its canonical form."""
    if key is None or isinstance(key, bytes):
        return key
    return key.encode() if isinstance(key, str) else canonical(key)
