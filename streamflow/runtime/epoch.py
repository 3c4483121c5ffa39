"""The commit protocol: gather an epoch, commit it, and only then let anything leave.

The order is the whole secret (I1): seal, encode, ONE transaction with positions, state and outputs, then outboxes,
acknowledgements and whoever waits.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import groupby, islice
from time import sleep as block  # on purpose: see Committer.breathe
from typing import Any, Final

from streamflow.batch import Chunk, DeadLetter, Partition, Position, Progress, Taken
from streamflow.clock import Cancellable
from streamflow.keys import stable_hash
from streamflow.runtime.cut import Cut
from streamflow.runtime.dead import DeadLetters
from streamflow.runtime.intake import Intake
from streamflow.runtime.outbox import Outbox
from streamflow.runtime.pacing import Pacer
from streamflow.runtime.staging import Staged, Staging
from streamflow.runtime.taps import Taps
from streamflow.runtime.world import World
from streamflow.state.keyed import Table
from streamflow.state.store import Delta, Epoch, Store

SLICE_ENTRIES: Final = 250
"""Entries encoded before the loop is looked at again."""
SLICE_SECONDS: Final = 0.002
IDLE_SECONDS: Final = 1.0
"""Without a commit for so long, all that can be folded is."""
DIGEST_SLICES: Final = 64
"""So many slices are hashed at once: some hundred KiB."""
BREATH_SECONDS: Final = 0.001
"""How often the loop gives the interpreter away while the store's thread works."""
IDLE_BREATH_SECONDS: Final = 0.004
"""The same while it does what nobody waits for."""


class Gate:
    """Waits until every stage has passed a barrier."""

    def __init__(self, stages: int) -> None:
        self._stages = stages
        self._arrived: dict[int, set[int]] = {}
        self._ready = asyncio.Event()
        self._epoch: int | None = None

    def arrive(self, epoch: int, stage: int) -> None:
        """Everything of the epoch has passed a stage."""
        stages = self._arrived.setdefault(epoch, set())
        assert stage not in stages, f"stage {stage} arrived twice at {epoch}"
        stages.add(stage)
        if len(stages) == self._stages:
            del self._arrived[epoch]
            self._epoch = epoch
            self._ready.set()

    def nudge(self) -> None:
        """Lets `wait` return without an epoch."""
        self._ready.set()

    @property
    def ready(self) -> bool:
        return self._ready.is_set()

    async def wait(self) -> int | None:
        """Waits for the next epoch that is complete; None after a `nudge`."""
        await self._ready.wait()
        self._ready.clear()
        epoch, self._epoch = self._epoch, None
        return epoch


@dataclass(slots=True)
class Parts:
    """What an epoch is gathered from; ``digest`` is the last epoch's."""

    tables: Sequence[Table[Any]]
    stagings: Sequence[Staging]
    outboxes: Mapping[str, Outbox]
    taps: Taps
    digest: bytes
    dead: DeadLetters = field(default_factory=lambda: DeadLetters(0, lambda kind, name, error: None))


class Digest:
    """Digest of an epoch: of the one before, its state changes and its outputs, however these were cut."""

    def __init__(self, before: bytes, deltas: Sequence[Delta], outputs: Sequence[Staged]) -> None:
        self.value = b""
        self._before = before
        self._deltas = deltas
        self._outputs = outputs

    def compute(self) -> bytes:
        """Hashes; runs on the store's thread, where large outputs do not hold up the loop."""
        results: list[bytes] = []
        for staged in sorted(self._outputs, key=lambda staged: staged.sink):
            for chunk in staged.chunks:
                staged.digest.add(chunk)
            if staged.ahead or staged.chunks:
                results += [staged.sink.encode(), *staged.digest.parts()]
        changes = [
            part
            for table, deltas in groupby(self._deltas, key=lambda delta: delta.table)
            for part in (table.encode(), _joined_digest(deltas))
        ]
        self.value = stable_hash(self._before, *changes, *results)
        return self.value


def _joined_digest(deltas: Iterable[Delta]) -> bytes:
    """Digest of one table's changes, as if they were one delta, however they were sliced."""
    digest, between, slices = blake2b(digest_size=16), b"", iter(deltas)
    # few updates: each gives the interpreter away
    while some := list(islice(slices, DIGEST_SLICES)):
        digest.update(between + b",".join([delta.payload[1:-1] for delta in some]))
        between = b","
    return digest.digest()


class Committer:
    """Commits epochs one after the other.

    GUARANTEE: nothing reaches an outbox, a tap, a source or a waiting push before the COMMIT that contains it (I1).

    Args:
        store: Where epochs go.
        gate: Says which epoch is complete.
        intake: Knows what each epoch took.
        pacer: Is told what a commit cost.
        parts: What an epoch is made of.
        acknowledge: Tells the sources, in the background.
    """

    def __init__(self, store: Store, gate: Gate, intake: Intake, pacer: Pacer, parts: Parts, *, world: World) -> None:
        self.acknowledge: Callable[[int, Mapping[str, Taken]], None] = lambda epoch, taken: None
        self.give_way: Callable[[float], object] = block
        self.last_epoch = 0
        self._store = store
        self._gate = gate
        self._intake = intake
        self._pacer = pacer
        self._parts = parts
        self._world = world
        self._digest = parts.digest
        self._stored: dict[str, Progress] = {
            name: outbox.progress for name, outbox in parts.outboxes.items() if outbox.progress is not None
        }
        self._breathed = 0.0
        self._urgent_jobs = 0
        self._folding = False
        self._cost_seconds = 0.0
        self._committed = asyncio.Event()

    def breathe(self) -> None:
        """Sleeps a moment while the store's thread has work.

        A thread that waits for the interpreter while the loop is saturated can wait for seconds (cpython #90204).
        """
        if self._urgent_jobs or self._folding:
            clock = self._world.clock.monotonic
            now = clock()
            if now - self._breathed > (BREATH_SECONDS if self._urgent_jobs else IDLE_BREATH_SECONDS):
                self.give_way(50e-6)
                self._breathed = clock()
                self._cost_seconds += self._breathed - now

    async def run(self) -> None:
        """Commits until cancelled; folds in between."""
        idle: Cancellable | None = None
        try:
            while True:
                epoch = await self._gate.wait()
                if idle is not None:
                    idle.cancel()
                if epoch is not None:
                    await self._commit(self._intake.cuts[epoch])
                    idle = self._world.clock.call_later(IDLE_SECONDS, self._gate.nudge)
                await self._fold(idle=epoch is None)
        finally:
            if idle is not None:
                idle.cancel()

    async def _fold(self, *, idle: bool) -> None:
        """Folds slice by slice while nothing more urgent comes up."""
        self._folding = True
        try:
            while not self._gate.ready and not self._intake.closing:
                # intake may wait for just that
                stalled = bool(self._intake.stall)
                more = await _to_its_end(self._store.fold(idle=idle or stalled))
                if stalled:
                    self._intake.wake()
                if not more:
                    return
        finally:
            self._folding = False

    async def note(self, progress: Mapping[str, Progress]) -> None:
        """Stores progress without an epoch."""
        await self._on_thread(self._store.note({}, progress))
        self._world.point("progress.noted")
        self._stored |= progress

    async def pin(self, source: str, starts: Mapping[Partition, Position]) -> None:
        """Stores where a source starts, before anything of it is taken."""
        await self._on_thread(self._store.note({source: Taken(starts)}, {}))

    async def spill(self, chunks: Sequence[Chunk]) -> None:
        """Writes chunks of the epoch in the making ahead of its commit, once the epoch before it is committed."""
        while self.last_epoch + 1 < chunks[0].epoch:
            self._committed.clear()
            await self._committed.wait()
        await self._on_thread(self._store.spill(chunks))

    async def read(self, sink: str, first_seq: int, count: int) -> Sequence[Chunk]:
        """Reads chunks back that are at rest."""
        found: Sequence[Chunk] = await self._on_thread(self._store.chunks(sink, first_seq, count))
        return found

    async def bury(self, chunk: Chunk, letter: DeadLetter | None) -> None:
        """Stores a chunk in which a frame was given up, and what it was, where that is kept."""
        await self._on_thread(self._store.bury(chunk, letter))
        self._parts.dead.written()

    async def note_if_behind(self) -> None:
        """Stores the progress that no commit has stored yet, if there is any."""
        behind = {
            name: outbox.progress
            for name, outbox in self._parts.outboxes.items()
            if outbox.progress is not None and outbox.progress != self._stored.get(name)
        }
        if behind:
            await self.note(behind)

    async def _commit(self, cut: Cut) -> None:
        self._cost_seconds = 0.0
        deltas = await self._encode()
        self._world.point("epoch.encoded")
        outputs = [staging.take(cut.epoch) for staging in self._parts.stagings]
        digest = Digest(self._digest, deltas, outputs)
        progress = {n: box.progress for n, box in self._parts.outboxes.items() if box.progress is not None}
        taken = cut.taken()
        revived = [push.letter for push in cut.pushed if push.letter is not None]
        epoch = Epoch(
            epoch=cut.epoch,
            number=cut.number,
            now_ms=cut.now_ms,
            taken=taken,
            journal=cut.encoded_journal(),
            pushed=cut.encoded_pushes(),
            deltas=deltas,
            chunks=[chunk for staged in outputs for chunk in staged.chunks],
            progress=progress,
            dead=self._parts.dead.take(cut.epoch),
            revived=revived,
            digest=digest.compute,
            clocks=cut.clocks,
            records=cut.records,
            started=cut.started,
        )
        committing = asyncio.ensure_future(self._store.commit(epoch))
        try:
            await self._on_thread(committing)
        except asyncio.CancelledError:
            # the store's thread goes on: what it makes durable must not be fed again by a restart, nor be left untold
            if await _succeeds(committing):
                self._tell(cut)
            raise
        # -- the commit point: from here on the epoch is true ------------------------------------------------------
        self._digest, self.last_epoch, self._stored = digest.value, cut.epoch, progress
        for staged in outputs:
            self._parts.outboxes[staged.sink].append([*staged.ahead, *staged.chunks])
        self._committed.set()
        self._parts.dead.revived(len(revived))
        if epoch.dead:
            self._parts.dead.written()
        self._world.point("epoch.appended")
        self._tell(cut)
        self._pacer.committed(self._cost_seconds)
        size = sum(len(delta.payload) for delta in deltas) + sum(staged.size_bytes for staged in outputs)
        self._world.instrument.committed(cut.epoch, cut.records, size, time.perf_counter() - cut.started)
        self.acknowledge(cut.epoch, taken)
        self._intake.wake()

    def _tell(self, cut: Cut) -> None:
        """Tells whoever waits in this process that an epoch is durable."""
        del self._intake.cuts[cut.epoch]
        for tap in self._parts.taps:
            tap.committed(cut.epoch)
        for push in cut.pushed:
            if not push.done.done():
                push.done.set_result(cut.epoch)

    async def _encode(self) -> list[Delta]:
        """Encodes what the barrier sealed, in slices, giving way to the loop between them."""
        clock = self._world.clock.monotonic
        deltas: list[Delta] = []
        began = clock()
        for table in self._parts.tables:
            while (part := table.encode(SLICE_ENTRIES)) is not None:
                if part.count:
                    deltas.append(part)
                if clock() - began > SLICE_SECONDS:
                    self._cost_seconds += clock() - began
                    await asyncio.sleep(0)
                    began = clock()
        self._cost_seconds += clock() - began
        return deltas

    async def _on_thread(self, work: Awaitable[Any]) -> Any:
        """Waits for the store, with the interpreter handed over often."""
        self._urgent_jobs += 1
        try:
            return await _to_its_end(work)
        finally:
            self._urgent_jobs -= 1


async def _to_its_end(work: Awaitable[Any]) -> Any:
    """Waits for the store; a cancellation does not cut short what it does."""
    job = asyncio.ensure_future(work)
    job.add_done_callback(_retrieve)
    return await asyncio.shield(job)


def _retrieve(job: asyncio.Future[Any]) -> None:
    """Takes note of a failure that a cancelled caller does not wait for: asyncio would print it as never retrieved."""
    if not job.cancelled():
        job.exception()


async def _succeeds(work: asyncio.Future[None]) -> bool:
    """Waits for the end of what cannot be cut short, however often the caller is cancelled."""
    while not work.done():
        with suppress(asyncio.CancelledError):
            await asyncio.wait([work])
    return not work.cancelled() and work.exception() is None
