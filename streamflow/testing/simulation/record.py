"""The recorder: what was committed and published in a run, held against the invariants as it happens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from streamflow.batch import Chunk, Position, Progress, Taken, unpack_frames
from streamflow.connect.memory_log import READ_RECORDS_MAX
from streamflow.errors import Fenced
from streamflow.instrument import Instrument
from streamflow.runtime.cut import PUSHED
from streamflow.runtime.engine import Engine
from streamflow.runtime.journal import RecordedEpoch, Share, read_epoch
from streamflow.state.sqlite import SqliteStore
from streamflow.state.store import Epoch


class Violation(AssertionError):
    """An invariant does not hold; the message begins with its number."""


def hold(condition: object, message: str) -> None:
    """Asserts an invariant, also where Python leaves out assertions."""
    if not condition:
        raise Violation(message)


class Recorder:
    """Collects what all lives of one run commit and publish.

    GUARANTEE: raises `Violation` at the first commit or publish that breaks I1, I2, I3, I4, I8, I9 or I10.

    Args:
        labels: Counts the situations that a run got into.
    """

    def __init__(self, labels: Counter[str]) -> None:
        self.labels = labels
        self.epoch = 0
        self.generation = 0
        self.frames: dict[str, list[bytes]] = {}
        self.digests: list[bytes] = []
        self.journal: list[RecordedEpoch] = []
        self.ids: dict[str, set[str]] = {}
        self.taken: dict[tuple[str, str], int] = {}
        self.released: dict[tuple[str, str], set[int]] = {}
        self.published_up_to: dict[str, int] = {}

    # -- the store ---------------------------------------------------------------------------------

    def opened(self, generation: int) -> None:
        """A store was claimed."""
        hold(generation > self.generation, f"I3: generation {generation} follows {self.generation}")
        self.generation = generation

    def noted(self, taken: dict[str, Taken]) -> None:
        """Positions were stored without an epoch: a source's start."""
        for source, took in taken.items():
            for partition, position in took.positions.items():
                known = self.taken.get((source, partition))
                hold(known in (None, position.at), f"I8: {source} starts at {position.at}, {known} was stored")
                self.taken[source, partition] = position.at

    def committed(self, epoch: Epoch, generation: int, spilled: Sequence[Chunk], digest: bytes) -> None:
        """An epoch is durable."""
        hold(epoch.epoch == self.epoch + 1, f"I2: epoch {epoch.epoch} follows {self.epoch}")
        hold(generation == self.generation, f"I3: generation {generation} commits, {self.generation} is the newest")
        self.epoch = epoch.epoch
        self.digests.append(digest)
        self.journal.append(read_epoch(epoch.epoch, epoch.journal, epoch.pushed))
        for chunk in (*spilled, *epoch.chunks):
            frames = self.frames.setdefault(chunk.sink, [])
            hold(chunk.first_seq == len(frames) + 1, f"I4: {chunk.sink} commits {chunk.first_seq} as {len(frames) + 1}")
            frames += unpack_frames(chunk.payload)
            hold(len(frames) == chunk.first_seq + chunk.count - 1, f"I4: {chunk.sink}: a chunk's count is wrong")
        self._account(epoch)
        if self.generation > 1 and any(delta.table.endswith("@timers") for delta in epoch.deltas) and not epoch.records:
            self.labels["timer fired after restart"] += 1

    def _account(self, epoch: Epoch) -> None:
        """I8 and I9: what the journal counts is what positions and ids say, and it follows what was taken before."""
        counts: Counter[tuple[str, str]] = Counter()
        ids: dict[str, list[str]] = {}
        for number in self.journal[-1].numbers:
            for share in number.shares:
                if share.ids:
                    ids.setdefault(share.source, []).extend(share.ids)
                elif share.runs:
                    self._release(share, epoch)
                else:
                    counts[share.source, share.partition] += share.count
        stored = {
            (source, partition): position.at
            for source, took in epoch.taken.items()
            for partition, position in took.positions.items()
            if not self._is_as_released((source, partition), position)
        }
        hold(stored.keys() == counts.keys(), f"I9: epoch {epoch.epoch} took {set(counts)}, not {set(stored)}")
        for place, count in counts.items():
            before = self.taken.get(place, 0 if place[0] == PUSHED else None)
            hold(before is not None, f"I8: {place} was taken from and never pinned")
            assert before is not None
            hold(
                stored[place] == before + count, f"I8: {place} goes from {before} to {stored[place]} by {count} records"
            )
            self.taken[place] = stored[place]
        for source, took in epoch.taken.items():
            hold(list(took.ids) == ids.get(source, []), f"I9: ids of {source} differ from the journal's")
            seen = self.ids.setdefault(source, set())
            hold(len(set(took.ids)) == len(took.ids) and not seen & set(took.ids), f"I9: {source} took an id twice")
            seen |= set(took.ids)

    def _release(self, share: Share, epoch: Epoch) -> None:
        """I9: what goes by event time is released once, and the journal counts it."""
        positions = {at for first, last in share.runs for at in range(first, last + 1)}
        hold(len(positions) == share.count, f"I9: {share.source} released {share.count} records at {share.runs}")
        known = self.released.setdefault((share.source, share.partition), set())
        hold(not known & positions, f"I9: {share.source} releases {known & positions} twice")
        known |= positions
        hold(share.partition in epoch.taken[share.source].positions, f"I9: {share} has no position")

    def _is_as_released(self, place: tuple[str, str], position: Position) -> bool:
        """I8: where a partition resumes, and what of it is left out then, is what the journal says was released."""
        if place not in self.released:
            return False
        said = set(range(1, position.at + 1)) | {at for run in position.above for at in range(run.first, run.last + 1)}
        hold(said == self.released[place], f"I8: {place} resumes at {position}, and released {self.released[place]}")
        self.labels["released ahead of others"] += bool(position.above)
        self.taken[place] = position.at
        return True

    # -- the sinks ---------------------------------------------------------------------------------

    def publishing(self, sink: str, chunks: Sequence[Chunk], at: Progress, *, overtaken: bool = False) -> None:
        """A sink is told to publish: only what is committed, the same bytes, in order.

        One that was overtaken does not know what its successor has given up, and is refused by the broker.
        """
        known = self.frames.get(sink, [])
        hold(chunks, f"I4: {sink} publishes nothing")
        follows = chunks[0].first_seq
        hold(follows <= at.next_seq, f"I4: {sink} publishes from {follows}, {at.next_seq} comes next")
        for chunk in chunks:
            hold(chunk.first_seq == follows, f"I4: {sink} publishes {chunk.first_seq} where {follows} comes next")
            follows += chunk.count
            frames = unpack_frames(chunk.payload)
            committed = known[chunk.first_seq - 1 : follows - 1]
            hold(len(committed) == chunk.count, f"I1: {sink} publishes {chunk.first_seq} before its COMMIT")
            if overtaken:
                frames = [kept and frame for frame, kept in zip(frames, committed, strict=True)]
            hold(frames == committed, f"I4: {sink}: the bytes of {chunk.first_seq} changed")

    def to_arrive(self, sink: str) -> int:
        """How many records of a sink are committed and not given up."""
        return sum(map(bool, self.frames.get(sink, ())))

    def buried(self, chunk: Chunk) -> None:
        """A record of a committed chunk was given up: one frame is empty now, and no other has changed."""
        known = self.frames[chunk.sink]
        frames = unpack_frames(chunk.payload)
        changed = [at for at, frame in enumerate(frames, chunk.first_seq - 1) if frame != known[at]]
        hold(len(changed) == 1, f"I4: {chunk.sink}: {len(changed)} records of {chunk.first_seq} changed")
        hold(not frames[changed[0] - chunk.first_seq + 1], f"I4: {chunk.sink}: record {changed[0] + 1} changed")
        known[changed[0]] = b""
        self.labels["given up"] += 1

    # -- the engine --------------------------------------------------------------------------------

    def check_bounds(self, engine: Engine, records: int) -> None:
        """I10, when a number was formed: every buffer is within its named limit."""
        settings = engine.job.settings
        hold(records <= settings.fragment_rows_max, f"I10: a number of {records} records")
        for channel in engine.channels:
            waiting = channel.statistics().waiting
            hold(waiting <= channel.capacity, f"I10: {waiting} fragments in a channel of {channel.capacity}")
        for pump in engine.intake.pumps:
            limit = settings.intake_records_max + READ_RECORDS_MAX
            hold(pump.buffered < limit, f"I10: {pump.name} read {pump.buffered} records ahead")
        for outbox in engine.outboxes.values():
            held, most = sum(len(chunk.payload) for chunk in outbox.chunks), settings.outbox_memory_bytes_max
            hold(held <= most, f"I10: {outbox.sink} holds {held} bytes in memory")
        if records:
            for outbox in engine.outboxes.values():
                size = outbox.size_bytes
                hold(size < settings.outbox_bytes_max, f"I10: records are taken while {outbox.sink} holds {size} bytes")

    def check_rest(self, engine: Engine) -> None:
        """I7, when nothing can happen for a while: nobody inside waits, whatever the outboxes hold."""
        for at, channel in enumerate(engine.channels):
            waiting = channel.statistics().waiting
            hold(not waiting, f"I7: {waiting} fragments stand in channel {at}")
        hold(engine.pacer.idle, "I7: a commit stands still")


class RecordedEngine(Instrument):
    """What the engine of one life tells, passed on to the recorder.

    Args:
        recorder: The recorder.
        engine: Gives the engine.
        restarts: Called before the engine is restarted.
    """

    def __init__(self, recorder: Recorder, engine: Callable[[], Engine | None], restarts: Callable[[], None]) -> None:
        self._recorder = recorder
        self._labels = recorder.labels
        self._engine = engine
        self._restarts = restarts

    def number(self, number: int, records: int) -> None:
        engine = self._engine()
        assert engine is not None
        self._recorder.check_bounds(engine, records)

    def stalled(self, reason: str) -> None:
        self._labels["outbox full stalls intake"] += 1

    def connector_failed(self, kind: str, name: str, error: Exception, retry_in_seconds: float) -> None:
        self._labels[f"{kind} opened again"] += 1

    def restarting(self, error: Exception, retry_in_seconds: float) -> None:
        self._labels[f"restarted in the process: {type(error).__name__}"] += 1
        self._restarts()


class RecordedStore(SqliteStore):
    """The store itself; what it makes durable is told to the recorder, unless it has none."""

    recorder: Recorder | None = None
    making: Epoch | None = None
    spilled: Sequence[Chunk] = ()
    digest: bytes = b""

    @property
    def generation(self) -> int:
        """Which opening of the store it is."""
        return self._ledger.generation

    def passed(self, point: str) -> None:
        """To be called at the store's crash points, before the host may die there."""
        if point == "commit.done" and self.recorder is not None:
            epoch = self.making
            assert epoch is not None
            ahead = [chunk for chunk in self.spilled if chunk.epoch == epoch.epoch]
            self.recorder.committed(epoch, self.generation, ahead, self.digest)

    def _open(self, manifest: Any) -> Any:
        checkpoint = super()._open(manifest)
        if self.recorder is not None:
            self.recorder.opened(checkpoint.generation)
        return checkpoint

    def _commit(self, epoch: Epoch) -> None:
        compute = epoch.digest

        def digest() -> bytes:
            self.digest = compute()
            return self.digest

        self.making = replace(epoch, digest=digest)
        try:
            super()._commit(self.making)
        except Fenced:
            if self.recorder is not None:
                self.recorder.labels["fenced in the store"] += 1
            raise

    def _note(self, taken: Any, progress: Any) -> None:
        super()._note(taken, progress)
        if self.recorder is not None:
            self.recorder.noted(taken)

    def _bury(self, chunk: Chunk, letter: Any) -> None:
        super()._bury(chunk, letter)
        if self.recorder is not None:
            self.recorder.buried(chunk)

    def _spill(self, chunks: Sequence[Chunk]) -> None:
        self.spilled = [*self.spilled, *chunks]
        super()._spill(chunks)
