"""The way out: staging before the commit, outbox behind it, and the publisher that empties it.

Staging encodes rows as they arrive and cuts them into numbered chunks. COMMIT makes an epoch's chunks true. Only
then do they enter the outbox, from which the publisher takes runs of them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from streamflow.batch import Chunk, Fragment, Progress, pack_parts
from streamflow.clock import sleep
from streamflow.connect.contracts import Sink, SinkContext
from streamflow.errors import StreamflowError, Unavailable
from streamflow.graph import OnError, Step
from streamflow.operators.bind import refused_by_sink
from streamflow.runtime.pump import BACKOFF_SECONDS, World

RUN_CHUNKS_MAX: Final = 64
RUN_BYTES_MAX: Final = 8 * 1024 * 1024
"""Most that one call of ``publish`` gets."""


class Outbox:
    """A sink's chunks that are committed and not known to be published.

    GUARANTEE: chunks leave in order, and only what the broker confirmed leaves for good.
    BOUND: ``size_bytes`` over the limit stops intake; nothing else waits for it.
    """

    def __init__(self, sink: str, pending: Sequence[Chunk], progress: Progress | None) -> None:
        self.sink = sink
        self.chunks: deque[Chunk] = deque(pending)
        self.progress = progress
        self.size_bytes = sum(len(chunk.payload) for chunk in pending)
        self.arrived = asyncio.Event()

    @property
    def next_seq(self) -> int:
        """The sequence number that the sink's next new frame gets."""
        if self.chunks:
            return self.chunks[-1].first_seq + self.chunks[-1].count
        return self.progress.next_seq if self.progress is not None else 1

    def append(self, chunks: Sequence[Chunk]) -> None:
        """Takes a committed epoch's chunks."""
        for chunk in chunks:
            assert not self.chunks or chunk.first_seq == self.next_seq, f"{self.sink}: hole before {chunk.first_seq}"
            self.chunks.append(chunk)
            self.size_bytes += len(chunk.payload)
        if chunks:
            self.arrived.set()

    def run(self) -> list[Chunk]:
        """The next chunks to publish together."""
        found: list[Chunk] = []
        size = 0
        for chunk in self.chunks:
            if found and (len(found) >= RUN_CHUNKS_MAX or size + len(chunk.payload) > RUN_BYTES_MAX):
                break
            found.append(chunk)
            size += len(chunk.payload)
        return found

    def published(self, progress: Progress) -> None:
        """Drops what the broker confirmed."""
        assert self.progress is None or progress.next_seq >= self.progress.next_seq, f"{self.sink}: progress went back"
        self.progress = progress
        while self.chunks and self.chunks[0].first_seq + self.chunks[0].count <= progress.next_seq:
            self.size_bytes -= len(self.chunks.popleft().payload)


class Staging:
    """The end of a path: encodes rows at once and cuts numbered chunks, up to the barrier.

    GUARANTEE: a sink's sequence numbers have no gap; the bytes behind a number never change.

    Args:
        step: The sink's step.
        encoder: The sink that encodes; replaced when the sink is opened again.
        next_seq: Number of the next frame.
        epoch: The epoch in the making.
        encoded: Whether rows come as frames already, made in the step's loop.
    """

    def __init__(
        self,
        step: Step,
        encoder: Sink,
        next_seq: int,
        epoch: int,
        *,
        world: World,
        encoded: bool,
    ) -> None:
        self.step = step
        self.encoder = encoder
        self._world = world
        self._encoded = encoded
        self._seq = next_seq
        self._epoch = epoch
        self._sizes: list[int] = []
        self._joined: list[bytes] = []
        self._joined_bytes = 0
        self._chunks: list[Chunk] = []
        self._chunks_bytes = 0
        self._spilled: list[Chunk] = []
        self._sealed: dict[int, tuple[list[Chunk], list[Chunk]]] = {}

    @property
    def size_bytes(self) -> int:
        """Bytes staged for the epoch in the making."""
        return self._joined_bytes + self._chunks_bytes

    async def put(self, part: Fragment) -> None:
        """Takes a fragment; closes the epoch's chunks at a barrier."""
        if part.values:
            frames = part.values if self._encoded else self._encode(part)
            # joined while they are at hand: thousands of small objects kept until the chunk is cut cost more
            joined = b"".join(frames)
            self._sizes += map(len, frames)
            self._joined.append(joined)
            self._joined_bytes += len(joined)
            if self._joined_bytes >= self._world.settings.chunk_bytes:
                self._cut()
                if self._chunks_bytes > self._world.settings.epoch_bytes_max:
                    await self._world.spill(self._chunks)
                    self._spilled += self._chunks
                    self._chunks, self._chunks_bytes = [], 0
        if part.last and part.batch.barrier is not None:
            self._close(part.batch.barrier)

    def take(self, epoch: int) -> tuple[list[Chunk], list[Chunk]]:
        """The closed epoch's chunks: those to commit, and those that were written ahead."""
        return self._sealed.pop(epoch)

    def _cut(self) -> None:
        if self._sizes:
            index = len(self._spilled) + len(self._chunks)
            payload = pack_parts(self._sizes, self._joined)
            chunk = Chunk(self.step.name, self._epoch, index, self._seq, len(self._sizes), payload)
            self._chunks.append(chunk)
            self._chunks_bytes += len(payload)
            self._seq += chunk.count
            self._sizes, self._joined, self._joined_bytes = [], [], 0

    def _close(self, epoch: int) -> None:
        assert epoch == self._epoch, f"{self.step.name}: barrier {epoch} in epoch {self._epoch}"
        self._cut()
        self._sealed[epoch] = (self._chunks, self._spilled)
        self._chunks, self._spilled, self._chunks_bytes = [], [], 0
        self._epoch += 1

    def _encode(self, part: Fragment) -> Sequence[bytes]:
        try:
            frames = self.encoder.encode(part)
        except Exception:
            return self._encode_singly(part)
        assert len(frames) == len(part.values), f"{self.step.name}: {len(part.values)} rows, {len(frames)} frames"
        return frames

    def _encode_singly(self, part: Fragment) -> list[bytes]:
        """Finds the row that cannot be encoded."""
        found: list[bytes] = []
        for row, value in enumerate(part.values):
            key = part.keys[row] if part.keys is not None else None
            one = Fragment(part.batch, [value], False, None if part.keys is None else [key])
            try:
                found += self.encoder.encode(one)
            except Exception as error:
                refused = refused_by_sink(self.step.name, value, f"number {part.batch.number}", error)
                if self.step.options["on_error"] is not OnError.SKIP:
                    raise refused from error
                self._world.skipped(self.step.name, f"number {part.batch.number}", refused)
        return found


class Publisher:
    """Publishes a sink's outbox, and opens the sink again when it fails.

    GUARANTEE: a failing sink stops nobody else; after each opening it is fenced and the broker's truth is read
    before anything is published. A new sink's baseline is stored before its first publish.

    Args:
        outbox: What to publish.
        staging: Gets each newly opened sink as its encoder, since only that knows the broker's limits.
        ctx: Where the sink runs.
        note: Stores progress without an epoch.
        told: Called after each progress.
    """

    def __init__(
        self,
        outbox: Outbox,
        staging: Staging,
        ctx: SinkContext,
        *,
        world: World,
        note: Callable[[Mapping[str, Progress]], Awaitable[None]],
        told: Callable[[], None],
    ) -> None:
        self.outbox = outbox
        self.recovered = False
        self._staging = staging
        self._ctx = ctx
        self._world = world
        self._note = note
        self._told = told

    async def run(self) -> None:
        """Publishes until cancelled; raises what opening the sink again cannot mend."""
        attempt = 0
        wait = 0.0
        while True:
            sink = new_sink(self._staging.step)
            try:
                await self._recover(sink)
                attempt = 0
                await self._publish(sink)
            except Unavailable as error:
                wait = BACKOFF_SECONDS[min(attempt, len(BACKOFF_SECONDS) - 1)]
                attempt += 1
                self._world.instrument.connector_failed("sink", self.outbox.sink, error, wait)
            finally:
                await _quietly_close(sink)
            await sleep(self._world.clock, wait)

    async def _recover(self, sink: Sink) -> None:
        outbox = self.outbox
        await sink.open(self._ctx)
        self._world.point("sink.fenced")
        stored = outbox.progress
        progress = await sink.recover(stored, tuple(outbox.chunks))
        self._world.point("sink.asked")
        if stored is None:
            # without a stored baseline a crash right after the first publish would count our own records as old ones
            await self._note({outbox.sink: progress})
            self._world.point("sink.baseline")
        outbox.published(progress)
        self._staging.encoder = sink
        self.recovered = True
        self._told()

    async def _publish(self, sink: Sink) -> None:
        outbox = self.outbox
        while True:
            while not outbox.chunks:
                outbox.arrived.clear()
                await outbox.arrived.wait()
            assert outbox.progress is not None
            self._world.point("publish.begun")
            progress = await sink.publish(outbox.run(), outbox.progress)
            self._world.point("publish.done")
            outbox.published(progress)
            self._world.instrument.published(outbox.sink, progress.epoch, progress.next_seq)
            self._told()


def new_sink(step: Step) -> Sink:
    """Makes an unopened sink of a sink step."""
    sink: Sink = step.options["spec"].sink(step.options["sink_options"])
    return sink


async def _quietly_close(sink: Sink) -> None:
    """Closes a sink that may be broken; what it says then changes nothing."""
    try:
        await sink.close()
    except (StreamflowError, OSError):
        return
