"""Mutants: bugs of the commit protocol, planted into production code, that the schedules must find."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from streamflow.batch import Chunk, Fragment, Progress
from streamflow.connect.memory_log import TopicLog
from streamflow.connect.memory_sink import MemorySink
from streamflow.connect.memory_source import MemorySource
from streamflow.connect.recovery import progress_at, unpublished
from streamflow.operators import bind, context
from streamflow.operators.context import Context
from streamflow.operators.routing import Merge
from streamflow.runtime import epoch as committing
from streamflow.runtime.cut import Cut
from streamflow.runtime.intake import Intake
from streamflow.runtime.outbox import Outbox, Publisher
from streamflow.runtime.pump import Pump
from streamflow.runtime.staging import Staging
from streamflow.state import commit as writing
from streamflow.state import fold
from streamflow.state.content import Total
from streamflow.state.keyed import MISSING, Table
from streamflow.state.ledger import Ledger
from streamflow.state.sqlite import SqliteStore
from tests.simulation import joined_mutants, ordered_mutants

Plant = Callable[[ExitStack], None]

MUTANTS: dict[str, tuple[Plant, str]] = {}
"""By name: how to plant it, and the one cell that can show it; empty where any may."""


def mutant(plant: Plant) -> Plant:
    """Registers a mutant under its function's name."""
    MUTANTS[plant.__name__.replace("_", " ")] = plant, ""
    return plant


def mutant_in(cell: str) -> Callable[[Plant], Plant]:
    """Registers a mutant that one cell can show."""

    def register(plant: Plant) -> Plant:
        MUTANTS[plant.__name__.replace("_", " ")] = plant, cell
        return plant

    return register


@contextmanager
def planted(name: str) -> Iterator[None]:
    """Plants a mutant for the duration of the context."""
    with ExitStack() as stack:
        MUTANTS[name][0](stack)
        yield


def swap(stack: ExitStack, owner: Any, name: str, make: Callable[[Any], Any]) -> None:
    """Replaces an attribute by what ``make`` makes of it."""
    stack.enter_context(patch.object(owner, name, make(getattr(owner, name))))


# -- what is committed -----------------------------------------------------------------------------


@mutant
def positions_committed_ahead_of_state(stack: ExitStack) -> None:
    def commit(original: Any) -> Any:
        async def mutated(self: committing.Committer, cut: Cut) -> None:
            for pump in self._intake.pumps:
                if pump.name in cut.positions:
                    cut.positions[pump.name] = dict(pump._taken)
            await original(self, cut)

        return mutated

    swap(stack, committing.Committer, "_commit", commit)


@mutant
def read_ahead_counted_as_taken(stack: ExitStack) -> None:
    def close(original: Any) -> Any:
        async def mutated(self: Pump) -> None:
            for batch, _ in self._buffer:
                if batch.positions is not None:
                    self._taken[batch.partition] = replace(self._taken[batch.partition], at=batch.positions[-1])
            await original(self)

        return mutated

    swap(stack, Pump, "_close", close)


@mutant
def publish_before_commit(stack: ExitStack) -> None:
    def commit(original: Any) -> Any:
        async def mutated(self: committing.Committer, cut: Cut) -> None:
            deltas = await self._encode()
            for staging in self._parts.stagings:
                staged = staging._sealed[cut.epoch]
                self._parts.outboxes[staging.step.name].append([*staged.ahead, *staged.chunks])
            with patch.object(self, "_encode", _given(deltas)), patch.object(Outbox, "append", lambda *_: None):
                await original(self, cut)

        return mutated

    swap(stack, committing.Committer, "_commit", commit)


def _given(value: Any) -> Any:
    async def give() -> Any:
        return value

    return give


@mutant_in("processing")
def snapshot_of_live_state(stack: ExitStack) -> None:
    def cold(_: Any) -> Any:
        def mutated(self: Table[Any], key: Any) -> Any:
            if key in self._deleted:
                return MISSING
            value = self._sealed.get(key, MISSING)
            return self._base_value(key) if value is MISSING else value

        return mutated

    swap(stack, Table, "_cold", cold)


@mutant
def two_transactions_instead_of_one(stack: ExitStack) -> None:
    def deltas(original: Any) -> Any:
        def mutated(connection: Any, *rest: Any) -> None:
            connection.execute("COMMIT")
            connection.execute("BEGIN IMMEDIATE")
            original(connection, *rest)

        return mutated

    swap(stack, writing, "_write_deltas", deltas)


@mutant
def last_epoch_skipped_at_stop(stack: ExitStack) -> None:
    def due_at(_: Any) -> Any:
        async def mutated(self: Intake, barrier_at: float | None, *, closing: bool) -> None:
            if closing:
                self._dirty = False
            await original(self, barrier_at, closing=closing)

        return mutated

    original = Intake._wait
    swap(stack, Intake, "_wait", due_at)
    form = Intake._barrier
    stack.enter_context(patch.object(Intake, "_barrier", lambda self: None if self.closing else form(self)))
    run = Intake.run

    async def until_closing(self: Intake) -> None:
        running = asyncio.ensure_future(run(self))
        while not running.done() and not (self.closing and self._pacer.idle):
            await asyncio.sleep(0.001)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    stack.enter_context(patch.object(Intake, "run", until_closing))


@mutant_in("processing")
def epoch_reused_by_a_replaced_instance(stack: ExitStack) -> None:
    def commit(original: Any) -> Any:
        def mutated(self: SqliteStore, epoch: Any) -> None:
            connection, ledger = self._open_connection(), self._ledger
            query = (
                "SELECT (SELECT value FROM meta WHERE key = 'generation'), (SELECT coalesce(max(epoch), 0) FROM epoch)"
            )
            ((ledger.generation, ledger.epoch),) = connection.execute(query).fetchall()
            connection.execute("DELETE FROM epoch WHERE epoch >= ?", (epoch.epoch,))
            original(self, epoch)

        return mutated

    swap(stack, SqliteStore, "_commit", commit)


# -- state -----------------------------------------------------------------------------------------


@mutant
def state_not_restored(stack: ExitStack) -> None:
    swap(stack, Table, "install", lambda original: lambda self, entries, migrate=None: None)


@mutant
def deletions_not_committed(stack: ExitStack) -> None:
    def seal(original: Any) -> Any:
        def mutated(self: Table[Any]) -> None:
            original(self)
            self._unwritten = iter(list(self._sealed))

        return mutated

    swap(stack, Table, "seal", seal)


@mutant_in("skipping")
def before_image_not_restored(stack: ExitStack) -> None:
    swap(stack, Table, "roll_back", lambda original: lambda self: self.keep())


@mutant_in("counting")
def fold_drops_what_it_folds(stack: ExitStack) -> None:
    stack.enter_context(patch.object(fold, "_write_part", lambda *_: Total()))


# -- what leaves -----------------------------------------------------------------------------------


@mutant
def aliases_leave_the_step(stack: ExitStack) -> None:
    """State that goes out is changed in place behind the barrier, or while it stands in a channel."""
    stack.enter_context(patch.object(bind, "own", lambda value: value))


@mutant
def sink_encodes_late(stack: ExitStack) -> None:
    """Rows wait as they are until the barrier."""

    def put(original: Any) -> Any:
        async def mutated(self: Staging, part: Fragment) -> None:
            waiting = self.__dict__.setdefault("waiting", [])
            if part.values and not self._encoded:
                waiting.append(part._replace(last=False))
                part = part._replace(values=[])
            if part.last and part.batch.barrier is not None:
                for late in waiting:
                    await original(self, late)
                waiting.clear()
            await original(self, part)

        return mutated

    aliases_leave_the_step(stack)
    swap(stack, Staging, "put", put)


@mutant
def outbox_dropped_early(stack: ExitStack) -> None:
    """What is handed to a publish counts as published."""

    def run(original: Any) -> Any:
        def mutated(self: Outbox) -> list[Chunk]:
            chunks: list[Chunk] = original(self)
            asyncio.get_running_loop().call_soon(self._early, chunks)  # type: ignore[attr-defined]
            return chunks

        return mutated

    def early(self: Outbox, chunks: Sequence[Chunk]) -> None:
        last = chunks[-1]
        if self.progress is not None and self.chunks and last.first_seq + last.count > self.progress.next_seq:
            self.published(Progress(last.epoch, last.first_seq + last.count))

    stack.enter_context(patch.object(Outbox, "_early", early, create=True))
    swap(stack, Outbox, "run", run)
    swap(stack, Outbox, "published", lambda original: lambda self, progress: _forward(original, self, progress))


def _forward(published: Any, outbox: Outbox, progress: Progress) -> None:
    if outbox.progress is None or progress.next_seq >= outbox.progress.next_seq:
        published(outbox, progress)


@mutant_in("two-by-two")
def no_fencing(stack: ExitStack) -> None:
    def held(_: Any) -> Any:
        return lambda self, name, holder: self.fences[name]

    swap(stack, TopicLog, "held_fence", held)


@mutant
def blind_retry_after_an_unknown_outcome(stack: ExitStack) -> None:
    async def publish(self: MemorySink, chunks: Sequence[Chunk], at: Progress) -> Progress:
        self._log.check_reachable()
        frames = unpublished(chunks, at.next_seq)
        self._log.publish(self._log.held_fence(self._fence_name, self._holder), frames)
        return progress_at(at.next_seq + len(frames), at, chunks)

    async def recover(self: MemorySink, stored: Progress | None, pending: Sequence[Chunk]) -> Progress:
        return stored or Progress(0, 1)

    stack.enter_context(patch.object(MemorySink, "publish", publish))
    stack.enter_context(patch.object(MemorySink, "recover", recover))


@mutant
def progress_noted_before_it_is_made(stack: ExitStack) -> None:
    def write(original: Any) -> Any:
        def mutated(connection: Any, ledger: Ledger, epoch: Any, at_ms: int) -> None:
            ends = {chunk.sink: chunk.first_seq + chunk.count for chunk in epoch.chunks}
            ahead = {sink: Progress(epoch.epoch, end) for sink, end in ends.items()}
            original(connection, ledger, replace(epoch, progress={**epoch.progress, **ahead}), at_ms)

        return mutated

    swap(stack, writing, "write_epoch", write)


# -- sources ---------------------------------------------------------------------------------------


@mutant_in("queue")
def acknowledged_before_the_commit(stack: ExitStack) -> None:
    def commit(original: Any) -> Any:
        async def mutated(self: committing.Committer, cut: Cut) -> None:
            self.acknowledge(cut.epoch, cut.taken())
            await original(self, cut)

        return mutated

    swap(stack, committing.Committer, "_commit", commit)


@mutant_in("queue")
def committed_ids_forgotten(stack: ExitStack) -> None:
    swap(stack, MemorySource, "_without_seen", lambda original: lambda self, name, part, offsets: offsets)


@mutant_in("pushes")
def pushes_answered_before_the_commit(stack: ExitStack) -> None:
    def commit(original: Any) -> Any:
        async def mutated(self: committing.Committer, cut: Cut) -> None:
            for push in cut.pushed:
                if not push.done.done():
                    push.done.set_result(cut.epoch)
            await original(self, cut)

        return mutated

    swap(stack, committing.Committer, "_commit", commit)


@mutant_in("pushes")
def uncertain_pushes_fed_again(stack: ExitStack) -> None:
    """What a commit that outlives its engine holds is fed again."""

    async def fails(work: asyncio.Future[None]) -> bool:
        await asyncio.sleep(0)
        return False

    stack.enter_context(patch.object(committing, "_succeeds", fails))


# -- determinism -----------------------------------------------------------------------------------


@mutant_in("processing")
def builtin_hash(stack: ExitStack) -> None:
    def hashed(*parts: bytes, size: int = 16) -> bytes:
        return (hash(parts) % (1 << 8 * size)).to_bytes(size, "big")

    stack.enter_context(patch.object(context, "stable_hash", hashed))


@mutant_in("timers")
def wall_clock_used(stack: ExitStack) -> None:
    def due_ms(original: Any) -> Any:
        def mutated(self: Context[Any, Any], name: str, after: Any, at: Any) -> int:
            wall = time.time_ns() // 1_000_000
            return int(original(self, name, after, at)) - self.batch.now_ms + wall

        return mutated

    swap(stack, Context, "_due_ms", due_ms)


@mutant_in("processing")
def id_from_batch_numbers(stack: ExitStack) -> None:
    swap(stack, Context, "_place", lambda original: lambda self: (str(self.batch.number), *map(str, self.origin)))


@mutant_in("backlog")
def timers_fire_before_the_backlog(stack: ExitStack) -> None:
    swap(stack, Intake, "_may_fire", lambda original: lambda self: True)


@mutant
def merged_in_order_of_arrival(stack: ExitStack) -> None:
    def release(original: Any) -> Any:
        def mutated(self: Merge, part: Fragment) -> Fragment:
            found: Fragment = original(self, part)
            at = sorted(range(len(found.values)), key=lambda row: (found.ports or [])[row])
            columns: dict[str, Any] = {}
            for name in _COLUMNS:
                if (column := getattr(found, name)) is not None:
                    columns[name] = [column[row] for row in at]
            return found._replace(**columns)

        return mutated

    swap(stack, Merge, "_release", release)


_COLUMNS = ("values", "keys", "ports", "origins")


@mutant
def a_new_life_counts_numbers_from_the_start(stack: ExitStack) -> None:
    """Sequence numbers of outputs begin anew where the outbox is empty."""
    stack.enter_context(
        patch.object(
            Outbox,
            "next_seq",
            property(lambda self: self.chunks[-1].first_seq + self.chunks[-1].count if self.chunks else 1),
        )
    )


class _Forgetful:
    """Reads what is at rest, and stores no progress."""

    def __init__(self, records: Any) -> None:
        self.read, self.bury = records.read, records.bury

    async def note(self, progress: Any) -> None:
        await asyncio.sleep(0)


@mutant
def first_baseline_not_stored(stack: ExitStack) -> None:
    """Left out of `REQUIRED`: the truth of a memory topic needs no baseline, so nothing can go wrong."""

    def init(original: Any) -> Any:
        def mutated(self: Publisher, *args: Any, **more: Any) -> None:
            original(self, *args, **{**more, "records": _Forgetful(more["records"])})

        return mutated

    swap(stack, Publisher, "__init__", init)


for _plant, _cell in (*joined_mutants.MUTANTS, *ordered_mutants.MUTANTS):
    mutant_in(_cell)(_plant)

EQUIVALENT = frozenset({"first baseline not stored"})
"""What no schedule over memory topics can tell from the right code; the real brokers' tests hold these."""

REQUIRED = tuple(name for name in MUTANTS if name not in EQUIVALENT)
