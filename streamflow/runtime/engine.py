"""The engine: one running shard, from its checkpoint to its stop or its death."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any, Final

from streamflow.batch import Chunk, Taken
from streamflow.clock import Cancellable, duration_ms
from streamflow.connect.contracts import SinkContext
from streamflow.graph import SINK, Port
from streamflow.operators.bind import BoundStage
from streamflow.operators.operator import Outlet
from streamflow.operators.routing import Inlet, Merge
from streamflow.plan import Stage
from streamflow.runtime.acknowledging import Acknowledging
from streamflow.runtime.channel import Channel
from streamflow.runtime.cut import PUSHED, Pushed
from streamflow.runtime.dead import DeadLetters
from streamflow.runtime.epoch import Committer, Gate, Parts
from streamflow.runtime.event_time import EventTimes, event_times_of
from streamflow.runtime.idleness import idle_watches
from streamflow.runtime.intake import Intake, Start
from streamflow.runtime.internal import Internal
from streamflow.runtime.job import Job
from streamflow.runtime.journal import JournalIntake
from streamflow.runtime.mishaps import Mishaps
from streamflow.runtime.outbox import Outbox, Publisher, new_sink
from streamflow.runtime.pacing import Pacer
from streamflow.runtime.process import paused_collector
from streamflow.runtime.pumps import make_pumps, time_orders
from streamflow.runtime.requeue import requeued
from streamflow.runtime.resources import opened
from streamflow.runtime.stages import Operator, make_operator, set_loop
from streamflow.runtime.staging import Staging
from streamflow.runtime.standing import standing, tell_deaths
from streamflow.runtime.static_tables import changed_rows, static_sources
from streamflow.runtime.taps import Tap, Taps
from streamflow.runtime.tasks import Tasks
from streamflow.runtime.watch import Watch
from streamflow.runtime.world import SOURCES, World
from streamflow.state.store import Checkpoint, Entry

__all__ = ["Engine", "Job"]

_log = logging.getLogger("streamflow")

IDLE_NOTE_SECONDS: Final = 0.2
"""Progress that no commit has stored is stored this long after the last publish."""


class Engine:
    """A shard: intake, operators, committer, publishers, on one event loop.

    GUARANTEE: `run` returns after a clean stop with everything taken committed, or raises what ended the shard; in
    both cases the store is as the last COMMIT left it.

    Args:
        job: What to run.
        pushes: Records pushed before a restart and not committed since.
        careful: So many records are worked on by the plain executor, which encodes state after every call: one of
            them left something in it that cannot be encoded.
    """

    def __init__(self, job: Job, pushes: Sequence[Pushed] = (), *, careful: int = 0) -> None:
        self.job = job
        self.careful = careful
        self.ready = asyncio.Event()
        self.mishaps = Mishaps(job.instrument)
        self.dead = DeadLetters(job.settings.dead_letters_max, job.instrument.dead_letter)
        self.bound = [
            BoundStage(job.plan.graph, stage, self.mishaps.skipped, job.clock.monotonic, self.dead.add)
            for stage in job.plan.stages
        ]
        for bound in self.bound:
            bound.at = job.instrument.step_watermark
        self.tables = {name: table for stage in self.bound for name, table in stage.tables.items()}
        self.checkpoint: Checkpoint | None = None
        self.commits = 0
        static = static_sources(job.plan.graph)
        self._pushes = [push for push in pushes if push.source not in static]
        self._preloads: list[Pushed] = []
        self._loading = False
        self.internal = Internal(job, self.push)
        self._tasks = Tasks(job.plan.graph.flow)
        self._stop_requested = self._gave_up = False
        self._stop_call: Cancellable | None = None
        self._main: asyncio.Task[None] | None = None
        self._note_call: Cancellable | None = None
        self._drained = asyncio.Event()
        self._built = self._closed = False
        self._watch_thread: Watch | None = None
        self.times: EventTimes | None = None
        self.taps = Taps()
        self._operators: list[Operator] = []

    # -- life -------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Opens the store, goes on from its checkpoint, and runs until it is stopped or fails."""
        job = self.job
        try:
            self.checkpoint = await job.store.open(job.manifest(self.bound))
            job.point("store.opened")
            self.times = event_times_of(job.plan.graph, self.checkpoint.clocks)
            for stage in self.bound:
                stage.resume(self.checkpoint.now_ms, self.times.watermarks if self.times is not None else ())
            with paused_collector():
                await job.store.load(self._install, self._installed)
            job.point("state.loaded")
            again = await requeued(job.plan.graph, self.checkpoint, self._pushes, job.clock.now_ms())
            self._pushes = [*again, *self._pushes]
            async with opened(job.resources):
                try:
                    await self._preload()
                    self._build(self.checkpoint)
                    await self._supervise()
                finally:
                    await self._close()  # what was opened outlives the calls that use it
        finally:
            await self._close()

    def stop(self) -> None:
        """Takes no more records; what is taken is committed and published, then `run` returns.

        After ``stop_timeout`` it returns in any case: what is not committed then will be read again.
        """
        if not self._stop_requested:
            self._stop_requested = True
            self._stop_call = self.job.clock.call_later(self._stop_seconds, self._give_up)
        if self._built:
            self.intake.stop()

    @property
    def _stop_seconds(self) -> float:
        return duration_ms(self.job.settings.stop_timeout) / 1000

    def _give_up(self) -> None:
        """The time of the stop is over: sinks are not waited for any more, nor is what is not committed."""
        self._gave_up = True
        self._drained.set()
        if self._main is not None and not self.intake.done:
            self._main.cancel()

    def crash(self) -> None:
        """Dies as the process would: nothing is drained, committed or closed (for tests)."""
        self.job.store.abandon()
        self._tasks.cancel()

    def progress(self) -> object:
        """Changes whenever the shard gets on; equal readings mean that nothing moved in between."""
        if not self._built:
            return self.checkpoint is None
        channels = tuple(channel.statistics().fragments for channel in self.channels)
        outboxes = tuple((len(outbox.chunks), outbox.progress) for outbox in self.outboxes.values())
        sources = tuple((pump.buffered, pump.opened, pump.ended) for pump in self.intake.pumps)
        calls = (
            *(operator.under_way for operator in self._operators),
            self.internal.detached.under_way,
            self.internal.detached.waiting,
        )
        return (channels, outboxes, sources, calls, self.committer.last_epoch, len(self._tasks), self.ready.is_set())

    @property
    def got_on(self) -> bool:
        """Whether its life was of use: it committed, and if a source broke it, something of that source."""
        return self._built and self._acknowledging.was_of_use(self.commits)

    def place(self) -> str:
        """Where it stands, for people: the epoch and the positions in it."""
        if self.checkpoint is None:
            return "the opening of its state"
        epoch = self.committer.last_epoch if self._built else self.checkpoint.epoch
        return standing(epoch, self.intake.pumps if self._built else ())

    @property
    def awaits(self) -> bool:
        """Whether records wait for what users' functions await."""
        under_way = self._built and any(part.under_way for part in (*self._operators, self.internal.detached))
        return self._loading or under_way

    def push(self, pushed: Pushed) -> None:
        """Hands a record in from inside the process; at any time of the engine's life."""
        if self._built:
            self.intake.push([pushed])
        else:
            self._pushes.append(pushed)

    def waiting_pushes(self) -> list[Pushed]:
        """Pushed records that are not committed."""
        return self.intake.waiting_pushes() if self._built else self._pushes

    # -- building ---------------------------------------------------------------------------------

    def _install(self, table: str, entries: Sequence[Entry]) -> None:
        checkpoint = self.checkpoint
        assert checkpoint is not None
        if table in self.tables:
            migrate = None
            if table in checkpoint.retyped:
                migrate = self.job.plan.graph.step(f"step:{table}").options["state"].migrate
            self.tables[table].install(entries, migrate)

    def _installed(self) -> None:
        """Ends loading, on the store's thread: what is derived from a million entries takes seconds."""
        for stage in self.bound:
            stage.installed()

    async def _preload(self) -> None:
        """Finds out what has changed in static tables; a journal has it already."""
        if not self.job.journal:
            self._loading = True
            assert self.checkpoint is not None
            graph, epoch = self.job.plan.graph, self.checkpoint.epoch
            self._preloads = await changed_rows(graph, self.tables, self.job.aside, epoch)
            self._loading = False

    def _build(self, checkpoint: Checkpoint) -> None:
        job, graph, settings = self.job, self.job.plan.graph, self.job.settings
        self.dead.stored = checkpoint.dead
        told = self.mishaps.skipped, self._pin, self._spill
        self.world = World(job.clock, settings, job.instrument, *told, job.point, self.dead)
        sinks, most = {step.name: step for step in graph.of_kind(SINK)}, settings.outbox_memory_bytes_max
        self.outboxes = {
            name: Outbox(name, checkpoint.pending.get(name, ()), checkpoint.progress.get(name), most) for name in sinks
        }
        exits = {exit.name: exit for stage in job.plan.stages for exit in stage.exits if exit.edge is None}
        self.stagings = {
            name: Staging(
                step,
                new_sink(step),
                self.outboxes[name].next_seq,
                checkpoint.epoch + 1,
                world=self.world,
                exit=exits[name],
            )
            for name, step in sinks.items()
        }
        self.pacer = Pacer(settings, job.clock, self._full)
        self.channels = [Channel(settings.channel_fragments, checkpoint.number) for _ in job.plan.edges]
        self.gate = Gate(len(self.bound))
        self._build_intake(checkpoint)
        parts = Parts(
            list(self.tables.values()),
            list(self.stagings.values()),
            self.outboxes,
            self.taps,
            checkpoint.digest,
            self.dead,
        )
        self.committer = Committer(job.store, self.gate, self.intake, self.pacer, parts, world=self.world)
        self.committer.last_epoch = checkpoint.epoch
        self.committer.acknowledge = self._committed
        self.committer.give_way = job.give_way
        self._publishers = [
            Publisher(
                outbox,
                self.stagings[name],
                SinkContext(graph.flow, name, 0, checkpoint.incarnation, checkpoint.generation, job.point, self._read),
                world=self.world,
                records=self.committer,
                told=self._published,
            )
            for name, outbox in self.outboxes.items()
        ]
        self._operators = [
            make_operator(stage, job.plan, self, job.clock, job.settings.fragment_rows_max) for stage in self.bound
        ]
        self._set_loops()
        self._built = True

    def _build_intake(self, checkpoint: Checkpoint) -> None:
        job = self.job
        pumps = make_pumps(job.plan.graph, checkpoint, self.times, self._wake, self._may_acknowledge, world=self.world)
        pushed = {name: at.at for name, at in checkpoint.taken.get(PUSHED, Taken()).positions.items()}
        start = Start(checkpoint.epoch, checkpoint.number, checkpoint.now_ms, pushed)
        make = partial(JournalIntake, job.journal) if job.journal else Intake
        self.intake: Intake = make(pumps, self.channels[0], self.pacer, job.clock, start)
        self._acknowledging = Acknowledging(pumps, self._tasks, job.point, self._may_acknowledge)
        self.intake.rows_max = job.settings.fragment_rows_max
        self.intake.stalled = self._stalled
        self.intake.fires = not job.settings.timers_after_backlog
        self.intake.formed = job.instrument.number
        self.intake.point = job.point
        self.intake.go_by(self.times, stamps=job.plan.stages[0].timed, told=job.instrument.watermark)
        self.intake.ended = partial(self.dead.seal, SOURCES)
        self.intake.hold(time_orders(job.plan.graph, pumps, job.settings, job.clock.monotonic))
        self.intake.forced = self.mishaps.released
        self.internal.attach(self.intake, self.pacer, self.dead, self.tables, self.taps)
        self.intake.preload(self._preloads)
        self.intake.push(self._pushes)
        for stage in self.bound:
            self.intake.wake_at(stage.stage.index, stage.next_due_ms())

    def _set_loops(self) -> None:
        """Compiles every stage's loop with the taps there are now."""
        settings = self.job.settings
        rows_max = 0 if settings.plain or self.careful else settings.fragment_rows_max
        for operator in self._operators:
            bound = operator.bound
            taps = [port for port in self.taps.ports() if self.job.plan.stage_of(port.step) == bound.stage.index]
            outlets = [*self._exits(bound.stage), *map(self.taps.outlet, taps)]
            set_loop(operator, taps, outlets, rows_max, careful=self.careful > 0)

    def _exits(self, stage: Stage) -> list[Outlet]:
        edges = self.job.plan.edges
        return [
            self.stagings[exit.name] if exit.edge is None else self.channels[edges.index(exit.edge)]
            for exit in stage.exits
        ]

    def tap(self, port: Port, deliver: Callable[[list[Any]], None]) -> None:
        """Delivers a port's rows of every epoch that begins after this, once it is committed.

        Must be called from the event loop, between two numbers of the stage, so before `run` or from a task.
        """
        self.taps.by_port[port] = Tap(deliver)
        if self._built:
            self._set_loops()

    # -- running ----------------------------------------------------------------------------------

    async def _supervise(self) -> None:
        """Runs all tasks until intake is done; a task that fails ends them all."""
        plan = self.job.plan
        for pump in self.intake.pumps:
            self._spawn(pump.run(), f"source {pump.name}", may_end=True)
        for watch in idle_watches(self.intake, self.job.clock):
            self._spawn(watch.run(), "silence", may_end=True)
        for operator in self._operators:
            inlets: list[Inlet] = [
                self.channels[at] for at, edge in enumerate(plan.edges) if edge.target == operator.bound.stage.index
            ]
            inlet = inlets[0] if len(inlets) == 1 else Merge(inlets)
            self._spawn(operator.run(inlet), f"stage {operator.bound.stage.index}")
        self.internal.start(self._tasks)
        self._spawn(self.committer.run(), "committer")
        for publisher in self._publishers:
            self._spawn(publisher.run(), f"sink {publisher.outbox.sink}")
        if self._stop_requested:
            self.intake.stop()
        if self.job.watch and (seconds := duration_ms(self.job.settings.blocked_after) / 1000):
            self._watch_thread = Watch(self.bound, seconds, self.job.instrument.blocked)
            self._watch_thread.start()
        checkpoint = self.checkpoint
        assert checkpoint is not None
        tell_deaths(self.job.plan.graph.flow, checkpoint.deaths, self.place())
        self.job.instrument.started(checkpoint.epoch, checkpoint.generation)
        self.ready.set()
        self._main = self._spawn(self._until_drained(), "intake", may_end=True)
        try:
            await self._tasks.watch(self._main)
        except asyncio.CancelledError:
            if not (self._gave_up and self._main.cancelled()):
                raise
            _log.warning(
                "flow %s did not drain within stop_timeout = %g s and stops at its last commit, epoch %d",
                self.job.plan.graph.flow,
                self._stop_seconds,
                self.committer.last_epoch,
            )

    def _spawn(self, work: Coroutine[Any, Any, None], name: str, *, may_end: bool = False) -> asyncio.Task[None]:
        return self._tasks.spawn(work, name, may_end=may_end)

    async def _until_drained(self) -> None:
        """Intake's end, then everything that must still leave."""
        await self.intake.run()
        self._drained.clear()  # it was set whenever the outboxes were empty before
        if not self._is_drained() and not self._gave_up:
            # a stop has its time already
            timeout = self._stop_call or self.job.clock.call_later(self._stop_seconds, self._drained.set)
            await self._drained.wait()
            timeout.cancel()
        await self.committer.note_if_behind()
        self.job.point("stop.drained")
        for outbox in self.outboxes.values():
            if outbox.chunks:
                waiting = outbox.next_seq - outbox.chunks[0].first_seq
                _log.warning(
                    "sink %s did not take %d committed records before the stop; the next run publishes them",
                    outbox.sink,
                    waiting,
                )

    def _is_drained(self) -> bool:
        return all(publisher.recovered and not publisher.outbox.chunks for publisher in self._publishers)

    async def _close(self) -> None:
        """Ends all tasks, then closes sources and store; sinks are closed by their publishers."""
        if self._closed:
            return
        self._closed = True
        for call in (self._note_call, self._stop_call):
            if call is not None:
                call.cancel()
        if self._watch_thread is not None:
            self._watch_thread.stop()
        await self._tasks.end()
        if self._built:
            for pump in self.intake.pumps:
                await pump.close()
        await self.job.store.close()

    # -- what the parts tell each other -----------------------------------------------------------

    def arrive(self, epoch: int, stage: int) -> None:
        """Part of `operators.operator.Shard`."""
        self.dead.seal(stage, epoch)
        self.gate.arrive(epoch, stage)

    def wake_at(self, stage: int, now_ms: int | None) -> None:
        """Part of `operators.operator.Shard`."""
        self.intake.wake_at(stage, now_ms)

    def point(self, name: str) -> None:
        """Part of `operators.operator.Shard`."""
        self.job.point(name)

    def late(self, step: str, records: int) -> None:
        """Part of `operators.operator.Shard`."""
        self.job.instrument.late(step, records)

    def breathe(self) -> None:
        """Part of `operators.operator.Shard`."""
        self.committer.breathe()

    def wake(self) -> None:
        """Lets intake look again whether it may take records."""
        if self._built:
            self.intake.wake()

    def _wake(self) -> None:
        self.intake.wake()
        self.internal.stirred()

    async def _pin(self, source: str, starts: Any) -> None:
        await self.committer.pin(source, starts)

    async def _spill(self, chunks: Any) -> None:
        await self.committer.spill(chunks)

    async def _read(self, chunk: Chunk) -> Chunk:
        return chunk if chunk.payload else (await self.committer.read(chunk.sink, chunk.first_seq, 1))[0]

    def _full(self) -> bool:
        """Whether the epoch in the making is large enough to end it now."""
        settings, intake = self.job.settings, self.intake
        if intake.epoch_records >= settings.epoch_records_max or any(pump.epoch_full for pump in intake.pumps):
            return True
        return any(staging.size_bytes >= settings.epoch_bytes_max for staging in self.stagings.values())

    def _stalled(self) -> str:
        limit = self.job.settings.outbox_bytes_max
        full = [name for name, outbox in self.outboxes.items() if outbox.size_bytes >= limit]
        if full:
            reason = f"the outbox of sink {full[0]!r} holds {limit} bytes that could not be published"
        elif self._owes_folding():
            limit = self.job.settings.fold_debt_bytes_max
            reason = f"the state file holds {limit} bytes of changes that are not folded into rows"
        else:
            return ""
        if not self.intake.stall:
            self.job.instrument.stalled(reason)
        return reason

    def _owes_folding(self) -> bool:
        """Whether changes that are not folded pass their limit, or did so and are not well below it again."""
        limit, debt = self.job.settings.fold_debt_bytes_max, self.job.store.fold_debt_bytes
        return debt >= limit or (bool(self.intake.stall) and debt >= limit - limit // 16)

    def _published(self) -> None:
        if self._is_drained():
            self._drained.set()
        self._acknowledging.go_on()
        if self._note_call is not None:
            self._note_call.cancel()
        self._note_call = self.job.clock.call_later(IDLE_NOTE_SECONDS, self._note_when_idle)
        self.intake.wake()

    def _note_when_idle(self) -> None:
        # under load the next epoch is on its way, and takes the progress with it
        if self.pacer.idle and not self.intake.pending and self._tasks:
            self._spawn(self.committer.note_if_behind(), "progress", may_end=True)

    def _may_acknowledge(self) -> bool:
        return all(publisher.recovered for publisher in self._publishers)

    def _committed(self, epoch: int, taken: Mapping[str, Taken]) -> None:
        self.commits += 1
        self.internal.stirred()
        if self.careful and self.intake.records - self.intake.epoch_records >= self.careful:
            self.careful = 0
            self._set_loops()
        self._acknowledging.committed(epoch, taken)
