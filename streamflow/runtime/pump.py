"""Pump: reads one source ahead into a bounded buffer, decoded; reopens it when it fails."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from streamflow.batch import Ahead, Partition, Position, SourceBatch, Taken
from streamflow.clock import sleep
from streamflow.codecs import Prepared
from streamflow.connect.contracts import MORE, EpochBound, Source, SourceContext
from streamflow.errors import Refusal, StreamflowError, Unavailable
from streamflow.graph import OnError, Step
from streamflow.operators.letters import letter_of
from streamflow.runtime.decoding import Decoding, Ready
from streamflow.runtime.event_time import PUSHES, SourceTimes, TimeRefused
from streamflow.runtime.known import Known
from streamflow.runtime.rate import Allowance
from streamflow.runtime.refusals import without_time
from streamflow.runtime.world import SOURCES, STEADY_SECONDS, World


class Pump:
    """Keeps one source open and its buffer filled.

    GUARANTEE: what `take` gives is each record after the resume position once, in order per partition. After a
    failure the source is opened at the last position taken.
    BOUND: ``intake_records_max`` records and ``intake_bytes_max`` bytes, passed by one batch at the most.

    Args:
        step: The source's step in the graph.
        ctx: Where it runs.
        resume: Positions in the checkpoint.
        wake: Called when there is something to take, or the source ended.
        times: Event time of its partitions, if it has one.

    Attributes:
        now_ms: Processing time of the number in the making.
        ordered: Whether its records wait for others before they are released, so that some of what was read may stay.
        paused: Partitions of which no more is read; what is buffered of them does not count.
        silent_since: Since when each partition has given nothing while the source was open, on the monotonic scale.
        heard: Set by every record that is read, and when silence begins anew.
        broken: Whether it has failed in a way that only a restart of the shard mends.
    """

    def __init__(
        self,
        step: Step,
        ctx: SourceContext,
        resume: Mapping[Partition, Position],
        wake: Callable[[], None],
        *,
        world: World,
        times: SourceTimes | None = None,
    ) -> None:
        self.step = step
        self.times = times
        self.now_ms = 0
        self.ordered = False
        self.paused: frozenset[Partition] = frozenset()
        self.silent_since: dict[Partition, float] = {}
        self.heard = asyncio.Event()
        self.ended = self.opened = self.broken = False
        self.internal: bool = getattr(step.options["spec"], "internal", False)
        self.make_source: Callable[[], Source] = step.options["spec"].source
        self.source: Source | None = None
        self._bound: EpochBound | None = None
        self._ctx = replace(ctx, pin=self._pin)
        self._taken = dict(resume)
        self._starts = {partition: position.at for partition, position in resume.items()}
        self._known = {partition: Known(position.above) for partition, position in resume.items() if position.above}
        self._wake = wake
        self._world = world
        self._buffer: deque[tuple[SourceBatch, int]] = deque()
        self._records = self._bytes = 0
        self._room = asyncio.Event()
        self._goal: Mapping[Partition, Position | None] | None = None
        self._uses_ids = self._fruitful = self._preparing = False
        self._over: set[Partition] = set()
        self._decoding = Decoding(step, ctx.message_bytes_max, self._leave_out)
        self._ahead = 0
        codec = step.options["spec"].codec
        self._prepare = codec.prepare_decoding if isinstance(codec, Prepared) else None
        limit = step.options.get("rate")
        self._allowance = None if limit is None else Allowance(limit, world.clock.monotonic)

    @property
    def name(self) -> str:
        return self.step.name

    @property
    def traces(self) -> bool:
        """Whether trace context travels on from its records."""
        return self._world.settings.trace_context

    @property
    def waiting(self) -> bool:
        """Whether there is something to take."""
        return bool(self._buffer)

    @property
    def wait_seconds(self) -> float:
        """How long the source's rate limit still keeps what is there from being taken."""
        return 0.0 if self._allowance is None else self._allowance.wait_seconds

    @property
    def epoch_full(self) -> bool:
        """Whether the source waits for a commit before it can go on."""
        return self._bound is not None and self._bound.epoch_full

    @property
    def buffered(self) -> int:
        """Records read and not taken."""
        return self._records

    @property
    def record_bytes(self) -> int:
        """Bytes of a record that was read and not taken, on average."""
        return self._bytes // max(1, self._records)

    @property
    def taken(self) -> Mapping[Partition, Position]:
        """Where each partition goes on."""
        return self._taken

    def caught_up(self) -> bool:
        """Whether everything that the source held when it was opened has been taken."""
        if self.ended:
            return not self._buffer
        if self._goal is None:
            return False
        return all(
            goal in (None, MORE) or (partition in self._taken and self._taken[partition].at >= goal.at)
            for partition, goal in self._goal.items()
        )

    async def run(self) -> None:
        """Reads until the source ends; raises what cannot be mended by opening it again."""
        attempt = 0
        while not self.ended:
            since = self._world.clock.monotonic()
            self._fruitful = False
            try:
                await self._open()
                await self._read()
            except Unavailable as error:
                await self._close()
                if self._uses_ids:
                    self.broken = True
                    raise
                self._drop()
                if self._fruitful or self._world.clock.monotonic() - since >= STEADY_SECONDS:
                    attempt = 0
                wait = self._world.settings.reopen_seconds(attempt)
                attempt += 1
                self._world.instrument.connector_failed("source", self.name, error, wait)
                await sleep(self._world.clock, wait)

    async def _open(self) -> None:
        source = self.make_source()
        try:
            starts = await source.open(self._ctx, dict(self._taken))
            self._world.point("source.opened")
            if self._goal is None:
                self._goal = await source.ends()
            await self._pin(starts)
        except BaseException:
            await _quietly_close(source)
            raise
        self.source, self.opened = source, True
        if self.paused:
            source.pause(self.paused)
        self._bound = source if isinstance(source, EpochBound) else None
        if self.times is not None:
            self.times.expect(starts or self._goal)  # a queue has no positions to start from
            self.silence_begins()
        self._wake()

    async def _pin(self, starts: Mapping[Partition, Position]) -> None:
        """Stores where partitions start that were not there before."""
        new = {partition: start for partition, start in starts.items() if partition not in self._taken}
        if new:
            await self._world.pin(self.name, new)
            self._world.point("source.pinned")
            self._taken |= new
            self._starts |= {partition: start.at for partition, start in new.items()}
        if self.times is not None:
            # one that appears while the source is open may hold anything, and is waited for like the others
            self.times.expect(new)
            self.silent_since |= dict.fromkeys(new, self._world.clock.monotonic())
            self.heard.set()

    async def _read(self) -> None:
        assert self.source is not None
        while True:
            while self._is_full():
                self._room.clear()
                await self._room.wait()
            batch = await self.source.read()
            if batch is None:
                self.ended = True
                self.heard.set()
                self._wake()
                return
            self._uses_ids = batch.ids is not None
            if batch.last:
                self._over.add(batch.partition)
            if batch.last and not batch.payloads and batch.resume is None:
                self._wake()
                continue
            if self._prepare is not None:
                self._preparing = True
                await self._prepare(batch.payloads)
                self._preparing = False
            self._fruitful = True
            self._put(batch)
            self._wake()

    def _is_full(self) -> bool:
        settings = self._world.settings
        records, size = self._records, self._bytes
        if self.paused:
            # others must not starve because these wait for them
            aside = [(len(batch), size) for batch, size in self._buffer if batch.partition in self.paused]
            records -= sum(count for count, _ in aside)
            size -= sum(size for _, size in aside)
        return records >= settings.intake_records_max + self._ahead or (
            size >= settings.intake_bytes_max and not self._ahead
        )

    def pause(self, partitions: Iterable[Partition]) -> None:
        """Reads no more of these partitions, and again of those that were paused before."""
        paused = frozenset(partitions)
        if paused != self.paused:
            self.paused = paused
            self._room.set()
            if self.source is not None:
                self.source.pause(paused)

    def silence_begins(self) -> None:
        """From now on silence counts anew: there was a reason for it until now."""
        if self.times is not None:
            self.silent_since = dict.fromkeys(self.times.latest, self._world.clock.monotonic())
            self.silent_since.pop(PUSHES, None)
            self.heard.set()

    async def is_at_end(self, partition: Partition) -> bool:
        """Whether all that the broker holds of a partition has been taken; asks the broker.

        Raises:
            Unavailable: It does not answer.
        """
        source = self.source
        if source is None or self._holds_back(partition):
            return False
        end = (await source.ends()).get(partition)
        here = self._taken.get(partition)
        same = source is self.source and not self._holds_back(partition)
        return same and (end is None or (here is not None and here.at >= end.at))

    def at_their_end(self) -> list[Partition]:
        """Partitions that are still waited for, though all that they will ever give was taken."""
        times = self.times
        if times is None or not (self._over or self.ended) or (self.ended and not self._buffer):
            return []  # of a source that has ended all partitions end with it
        waited = [at for at in times.latest if at not in times.idle and at != PUSHES]
        return [at for at in waited if (self.ended or at in self._over) and not self.held(at)]

    def _holds_back(self, partition: Partition) -> bool:
        """Whether some of a partition may have been read and not taken, or is not being read."""
        if self._preparing:
            return True
        if not self.ordered:
            return bool(self._buffer)
        # what is buffered of others may wait for this very partition to turn idle
        return partition in self.paused or self.held(partition) > 0

    def _put(self, batch: SourceBatch) -> None:
        if self.times is not None and batch.payloads:
            self.silent_since[batch.partition] = self._world.clock.monotonic()
            self.heard.set()
        decodes = self.step.options["spec"].codec is not None
        size = _size_bytes(batch.payloads) if decodes else 0
        self._buffer.append((batch, size))
        self._records += len(batch)
        self._bytes += size

    def take(self, most: int) -> list[Ready]:
        """Takes up to ``most`` records of one partition, in one run but for those that cannot be decoded.

        Of a source with a rate limit no more than that allows, at least one.

        They are decoded here, not when they are read: thousands of objects made ahead of their use cost more than
        making them.

        Raises:
            DecodeError: A record cannot be decoded, and the source's policy is to stop.
        """
        return self._take_allowed(0, most)

    def _take_allowed(self, at: int, most: int) -> list[Ready]:
        if self._allowance is None:
            return self._take_at(at, most)
        found = self._take_at(at, max(1, min(most, self._allowance.room)))
        self._allowance.spend(sum(len(ready.records) for ready in found))
        return found

    def take_from(self, partition: Partition, count: int) -> list[Ready]:
        """Takes exactly ``count`` records of one partition, of which there must be so many.

        Raises:
            DecodeError: As `take`.
        """
        found: list[Ready] = []
        at = 0
        while count:
            batch, _ = self._buffer[at]
            if batch.partition == partition:
                taken = self._take_at(at, count)
                found += taken
                count -= sum(len(ready.records) for ready in taken)
            else:
                at += 1
        return found

    def take_upto(self, partition: Partition, position: int) -> list[Ready]:
        """Takes the records of one partition up to a position, as far as they were read."""
        found: list[Ready] = []
        while (at := self._first_of(partition)) is not None:
            positions = self._buffer[at][0].positions
            assert positions is not None, f"{self.name} has ids, not positions"
            count = bisect_right(positions, position)
            if not count:
                break
            found += self._take_at(at, count)
        return found

    def take_of(self, partition: Partition, most: int) -> list[Ready]:
        """Takes up to ``most`` records of one partition, of which there must be some."""
        at = self._first_of(partition)
        assert at is not None, f"{self.name} has nothing of {partition!r}"
        return self._take_allowed(at, most)

    def _first_of(self, partition: Partition) -> int | None:
        return next((at for at, (batch, _) in enumerate(self._buffer) if batch.partition == partition), None)

    def held(self, partition: Partition) -> int:
        """Records of one partition that were read and not taken."""
        return sum(len(batch) for batch, _ in self._buffer if batch.partition == partition)

    def partitions_held(self) -> set[Partition]:
        """Partitions of which something was read and not taken."""
        return {batch.partition for batch, _ in self._buffer}

    def resumes_at(self, partition: Partition) -> int:
        """Where a partition was to be read from when the shard started, or when it appeared."""
        return self._starts.get(partition, 0)

    def unread(self, partition: Partition) -> tuple[Ahead, ...]:
        """What was released ahead of others in an earlier life, and was not read again yet."""
        return tuple(self._known[partition].runs) if partition in self._known else ()

    def widen(self) -> None:
        """Reads further ahead than the settings say, for who needs records that lie behind others."""
        self._ahead += self._world.settings.intake_records_max
        self._room.set()

    def _take_at(self, at: int, most: int) -> list[Ready]:
        batch, size = self._buffer[at]
        count = len(batch)
        if count > most:
            rest = size - size * most // count
            self._buffer[at] = (batch.cut(most, count), rest)
            batch, size = batch.cut(0, most), size - rest
        else:
            del self._buffer[at]
        self._records -= len(batch)
        self._bytes -= size
        if batch.positions is not None:
            before = self._taken.get(batch.partition)
            position = batch.end
            assert before is None or before.at < position, f"{self.name}: position {position} behind {before}"
            self._taken[batch.partition] = Position(position, batch.identity)
        if self._records <= self._world.settings.intake_records_max // 2:
            # not at each take: filling half a buffer at once costs fewer turns of the loop
            self._room.set()
        if batch.partition not in self._known:
            return self._opened_up(batch)
        found = [
            ready
            for part, known in self._known[batch.partition].cut(batch)
            for ready in self._unless_known(part, known)
        ]
        found[-1].above = self.unread(batch.partition)
        return found

    def _opened_up(self, batch: SourceBatch) -> list[Ready]:
        """Gives records their values and event times."""
        found = self._decoding.decode(batch)
        return found if self.times is None or not batch.payloads else self._stamped(found, self.times)

    def _unless_known(self, batch: SourceBatch, known: Ahead | None) -> list[Ready]:
        if known is None:
            return self._opened_up(batch)
        # what was released ahead of a record that is read again did not happen later than that one
        return [Ready(batch, [], known=True)]

    async def committed(self, epoch: int, taken: Taken) -> None:
        """Passes on what is committed; best effort."""
        if self.source is not None:
            await self.source.committed(epoch, taken)

    async def close(self) -> None:
        """Closes the source and drops what was read ahead."""
        await self._close()
        self._drop()

    async def _close(self) -> None:
        source, self.source, self._bound = self.source, None, None
        if source is not None:
            await _quietly_close(source)

    def _drop(self) -> None:
        self._preparing = False
        self._buffer.clear()
        self._over.clear()  # what was dropped is read again, to its end
        self._records = self._bytes = 0
        self._room.set()

    # -- what cannot be used -----------------------------------------------------------------------

    def _leave_out(self, records: SourceBatch, at: int, why: str, refused: StreamflowError, error: Exception) -> None:
        """Leaves a record out, where the source's policy says so; else raises.

        Raises:
            StreamflowError: The flow is to stop.
        """
        policy = self.step.options["on_error"]
        if policy is OnError.STOP:
            raise refused from error
        if policy is OnError.DEAD_LETTER:
            letter = letter_of("source", self.name, why, refused, (records, self.name, at))
            self._world.dead.add(SOURCES, letter)
        self._world.skipped(self.name, why, refused)

    # -- event time -------------------------------------------------------------------------------

    def _stamped(self, found: list[Ready], times: SourceTimes) -> list[Ready]:
        """Gives records their event time; one that has none that can be used becomes a run without a value."""
        todo = found[::-1]
        stamped: list[Ready] = []
        while todo:
            ready = todo.pop()
            records, values = ready.records, ready.values
            try:
                if values:
                    ready.times, ready.marks = times.stamp(records, values, self.now_ms)
                    self.heard.set()  # a partition that was idle is to be watched again
                stamped.append(ready)
            except TimeRefused as error:
                refused = without_time(self.name, records, error.at, error)
                self._leave_out(records, error.at, "without a usable event time", refused, error)
                at, count = error.at, len(records)
                todo.append(Ready(records.cut(at + 1, count), values[at + 1 :]))
                todo.append(Ready(records.cut(at, at + 1), []))
                todo.append(Ready(records.cut(0, at), values[:at]))
        return [ready for ready in stamped if len(ready.records)]


def _size_bytes(payloads: Sequence[Any]) -> int:
    """Bytes of the payloads; one that is missing has none."""
    try:
        return sum(map(len, payloads))
    except TypeError:
        return sum(len(payload) for payload in payloads if payload is not None)


async def _quietly_close(source: Source) -> None:
    """Closes a source that may be broken; what it says then changes nothing."""
    try:
        await source.close()
    except (Refusal, Unavailable, OSError):
        return
