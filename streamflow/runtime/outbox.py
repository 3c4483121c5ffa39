"""The way out behind the commit: the outbox, and the publisher that empties it.

`streamflow.runtime.staging` encodes rows as they arrive and cuts them into numbered chunks. COMMIT makes an epoch's
chunks true. Only then do they enter the outbox, from which the publisher takes runs of them. What does not fit in
memory, before the commit or behind it, rests in the store until it is published.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final, Protocol

from streamflow.batch import Chunk, DeadLetter, Progress, pack_frames, unpack_frames
from streamflow.clock import sleep
from streamflow.connect.contracts import LossNoticing, Sink, SinkContext
from streamflow.errors import RecordRejected, StreamflowError, Unavailable
from streamflow.graph import OnError, Step
from streamflow.operators.letters import letter_of
from streamflow.runtime.staging import Staging
from streamflow.runtime.world import STEADY_SECONDS, World

RUN_CHUNKS_MAX: Final = 64
RUN_BYTES_MAX: Final = 8 * 1024 * 1024
"""Most that one call of ``publish`` gets."""

NOTE_BYTES: Final = 64 * 1024 * 1024
"""Progress is stored after so many bytes even if no epoch ends: recovery need not look at more than that."""


class Outbox:
    """A sink's chunks that are committed and not known to be published.

    GUARANTEE: chunks leave in order, and only what the broker confirmed leaves for good.
    BOUND: ``size_bytes`` over the limit stops intake; nothing else waits for it. Chunks beyond ``memory_bytes_max``
    are held without their payload.
    """

    def __init__(
        self, sink: str, pending: Sequence[Chunk], progress: Progress | None, memory_bytes_max: int = 1 << 62
    ) -> None:
        self.sink = sink
        self.chunks: deque[Chunk] = deque()
        self.progress = progress
        self.size_bytes = 0
        self.memory_bytes = 0
        self.arrived = asyncio.Event()
        self._memory_bytes_max = memory_bytes_max
        self.append(pending)

    @property
    def next_seq(self) -> int:
        """The sequence number that the sink's next new frame gets."""
        if self.chunks:
            return self.chunks[-1].end_seq
        return self.progress.next_seq if self.progress is not None else 1

    def append(self, chunks: Sequence[Chunk]) -> None:
        """Takes a committed epoch's chunks."""
        for chunk in chunks:
            assert not self.chunks or chunk.first_seq == self.next_seq, f"{self.sink}: hole before {chunk.first_seq}"
            if self.memory_bytes + len(chunk.payload) > self._memory_bytes_max:
                chunk = chunk.at_rest()  # noqa: PLW2901 - the store has its payload
            self.chunks.append(chunk)
            self.size_bytes += chunk.size_bytes
            self.memory_bytes += len(chunk.payload)
        if chunks:
            self.arrived.set()

    def replace(self, chunk: Chunk) -> None:
        """Takes a chunk whose bytes have changed, in the place of the one with the same numbers."""
        at = next(at for at, one in enumerate(self.chunks) if one.first_seq == chunk.first_seq)
        before = self.chunks[at]
        if not before.payload:
            chunk = chunk.at_rest()
        self.chunks[at] = chunk
        self.size_bytes += chunk.size_bytes - before.size_bytes
        self.memory_bytes += len(chunk.payload) - len(before.payload)

    def run(self) -> list[Chunk]:
        """The next chunks to publish together."""
        found: list[Chunk] = []
        size = 0
        for chunk in self.chunks:
            if found and (len(found) >= RUN_CHUNKS_MAX or size + chunk.size_bytes > RUN_BYTES_MAX):
                break
            found.append(chunk)
            size += chunk.size_bytes
        return found

    def published(self, progress: Progress) -> None:
        """Drops what the broker confirmed."""
        assert self.progress is None or progress.next_seq >= self.progress.next_seq, f"{self.sink}: progress went back"
        self.progress = progress
        while self.chunks and self.chunks[0].end_seq <= progress.next_seq:
            gone = self.chunks.popleft()
            self.size_bytes -= gone.size_bytes
            self.memory_bytes -= len(gone.payload)


class Records(Protocol):
    """What a publisher asks of the store, through the committer."""

    async def note(self, progress: Mapping[str, Progress]) -> None:
        """Stores progress without an epoch."""
        ...

    async def read(self, sink: str, first_seq: int, count: int) -> Sequence[Chunk]:
        """Reads chunks that are at rest: up to ``count``, from the one at ``first_seq`` on."""
        ...

    async def bury(self, chunk: Chunk, letter: DeadLetter | None) -> None:
        """Stores a chunk in which a frame was given up, and what it was, where that is kept."""
        ...


class Publisher:
    """Publishes a sink's outbox, and opens the sink again when it fails.

    GUARANTEE: a failing sink stops nobody else; after each opening it is fenced and the broker's truth is read
    before anything is published. A new sink's baseline is stored before its first publish.

    Args:
        outbox: What to publish.
        staging: Gets each newly opened sink as its encoder, since only that knows the broker's limits.
        ctx: Where the sink runs.
        records: Stores progress, and reads what is at rest.
        told: Called after each progress.
    """

    def __init__(
        self,
        outbox: Outbox,
        staging: Staging,
        ctx: SinkContext,
        *,
        world: World,
        records: Records,
        told: Callable[[], None],
    ) -> None:
        self.outbox = outbox
        self.recovered = False
        self._unnoted_bytes = 0
        self._staging = staging
        self._ctx = ctx
        self._world = world
        self._records = records
        self._told = told

    async def run(self) -> None:
        """Publishes until cancelled; raises what opening the sink again cannot mend."""
        attempt = 0
        wait = 0.0
        while True:
            sink = new_sink(self._staging.step)
            since, before = self._world.clock.monotonic(), self.outbox.progress
            try:
                await self._recover(sink)
                await self._publish_until_lost(sink)
            except Unavailable as error:
                if self._has_got_on(before) or self._world.clock.monotonic() - since >= STEADY_SECONDS:
                    attempt = 0
                wait = self._world.settings.reopen_seconds(attempt)
                attempt += 1
                self._world.instrument.connector_failed("sink", self.outbox.sink, error, wait)
            except RecordRejected as error:
                if self._staging.step.options["on_error"] is OnError.STOP:
                    raise
                await self._bury(error)
                wait = 0.0
            finally:
                await _quietly_close(sink)
            if wait:
                await sleep(self._world.clock, wait)

    async def _bury(self, error: RecordRejected) -> None:
        """Gives a record up that the broker refuses for good: durably, before anything behind it is published."""
        found = [one for one in self.outbox.chunks if one.first_seq <= error.seq < one.end_seq]
        assert found, f"{self.outbox.sink}: record {error.seq}, which was refused, is not in the outbox"
        (chunk,) = await self._loaded(found)
        frames = unpack_frames(chunk.payload)
        frame, frames[error.seq - chunk.first_seq] = frames[error.seq - chunk.first_seq], b""
        place = f"its record {error.seq}, of epoch {chunk.epoch}"
        letter = None
        if self._staging.step.options["on_error"] is OnError.DEAD_LETTER:
            letter = replace(letter_of("sink", self.outbox.sink, place, error, None), payload=frame)
            self._world.dead.admit(letter)
        buried = replace(chunk, payload=pack_frames(frames))
        await self._records.bury(buried, letter)
        self._world.point("record.buried")
        self.outbox.replace(buried)
        self._world.skipped(self.outbox.sink, place, error)

    def _has_got_on(self, before: Progress | None) -> bool:
        now = self.outbox.progress
        return now is not None and (before is None or now.next_seq > before.next_seq)

    async def _recover(self, sink: Sink) -> None:
        outbox = self.outbox
        await sink.open(self._ctx)
        self._world.point("sink.fenced")
        stored = outbox.progress
        progress = await sink.recover(stored, tuple(outbox.chunks))
        self._world.point("sink.asked")
        if stored is None:
            # without a stored baseline a crash right after the first publish would count our own records as old ones
            await self._records.note({outbox.sink: progress})
            self._world.point("sink.baseline")
        outbox.published(progress)
        self._staging.encoder = sink
        self.recovered = True
        self._told()

    async def _publish_until_lost(self, sink: Sink) -> None:
        if not isinstance(sink, LossNoticing):
            await self._publish(sink, None)
            return
        losing = asyncio.ensure_future(sink.lost())
        losing.add_done_callback(lambda _: self.outbox.arrived.set())
        try:
            await self._publish(sink, losing)
        finally:
            losing.cancel()
            await asyncio.wait([losing])

    async def _publish(self, sink: Sink, losing: asyncio.Future[None] | None) -> None:
        outbox = self.outbox
        while True:
            while not outbox.chunks:
                if losing is not None and losing.done():
                    losing.result()
                outbox.arrived.clear()
                await outbox.arrived.wait()
            assert outbox.progress is not None
            run = await self._loaded(outbox.run())
            self._world.point("publish.begun")
            progress = await sink.publish(run, outbox.progress)
            self._world.point("publish.done")
            outbox.published(progress)
            self._world.instrument.published(outbox.sink, progress.epoch, progress.next_seq)
            self._told()
            await self._note_now_and_then(run, progress)

    async def _loaded(self, run: list[Chunk]) -> Sequence[Chunk]:
        """A run with the payload of every chunk."""
        if all(chunk.payload for chunk in run):
            return run
        found = await self._records.read(self.outbox.sink, run[0].first_seq, len(run))
        heads = [(chunk.first_seq, chunk.count) for chunk in found]
        assert heads == [(chunk.first_seq, chunk.count) for chunk in run], f"{self.outbox.sink}: the store has {heads}"
        return found

    async def _note_now_and_then(self, run: Sequence[Chunk], progress: Progress) -> None:
        self._unnoted_bytes += sum(chunk.size_bytes for chunk in run)
        if self._unnoted_bytes >= NOTE_BYTES:
            self._unnoted_bytes = 0
            await self._records.note({self.outbox.sink: progress})


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
