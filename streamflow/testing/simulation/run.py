"""One simulated run: a flow lives, dies, and is started again, until it has come to its end."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from streamflow.batch import Chunk, Progress
from streamflow.errors import Fenced, SinkAhead, StateLockedError, StreamflowError, Unavailable
from streamflow.runtime.cut import Pushed
from streamflow.runtime.engine import Engine, Job
from streamflow.runtime.journal import RecordedEpoch
from streamflow.runtime.static_tables import at_once
from streamflow.runtime.supervisor import Supervisor
from streamflow.state.place import Place
from streamflow.state.sqlite import StoreOptions
from streamflow.testing.simulation.disks import Disk, FileDisk, MemDisk
from streamflow.testing.simulation.executor import SimulatedThread
from streamflow.testing.simulation.loop import Host, Killed, SimulatedClock, SimulatedLoop
from streamflow.testing.simulation.model import Model
from streamflow.testing.simulation.network import Network
from streamflow.testing.simulation.record import RecordedEngine, RecordedStore, Recorder, hold
from streamflow.testing.simulation.schedule import FAULTS_SECONDS, Kill, Schedule, spread

SETTLE_SECONDS: Final = 25.0
"""After the last fault everything must have arrived within so much virtual time: the longest back-off and timers."""
END_SECONDS: Final = 60.0
TURNS_MAX: Final = 100_000
LIVES_MAX: Final = 400
LOCKED_SECONDS: Final = 0.02
"""A flow that ended with an error is started again after so long."""
REST_SECONDS: Final = 0.05
"""If nothing happens for so long, nobody inside the flow may be waiting for anybody else inside."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A record that a broker receives.

    Args:
        source: The source that reads it.
        value: The record.
        partition: Its partition.
        pushed: It is pushed from inside the process instead.
    """

    source: str
    value: Any
    partition: str = ""
    pushed: bool = False


@dataclass(eq=False)
class Push:
    """A push and what became of it."""

    value: Any
    done: asyncio.Future[int]
    life: Life

    @property
    def durable(self) -> bool:
        """Whether its sender was told that it is committed."""
        return self.done.done() and not self.done.cancelled() and self.done.exception() is None


class Life:
    """One process of the flow.

    Args:
        run: The run it is part of.
        kill: How it ends; None if by itself.
    """

    def __init__(self, run: SimulatedRun, number: int, kill: Kill | None) -> None:
        self.run = run
        self.kill = kill
        self.disk = run.disk
        self.copied = False
        self.host = Host(f"life {number}")
        self.stores: list[RecordedStore] = []
        self._places: list[Place] = []
        self.passed: Counter[str] = Counter()
        self.clock = SimulatedClock(run.loop)
        self.supervisor = Supervisor(self._job)
        if kill is not None and kill.turn:
            self.host.acts_at, self.host.act = kill.turn, self.die
        self.main = run.loop.spawn(self.host, self.supervisor.run)

    @property
    def engine(self) -> Engine | None:
        return self.supervisor.engine

    def _job(self) -> Job:
        run = self.run
        self._never_again()
        executor = SimulatedThread(run.store_latency)
        options = StoreOptions(
            clock=self.clock, point=self._store_point, place=self._place, new_incarnation=lambda: "simulated"
        )
        store = RecordedStore(self.disk.path, executor=executor, options=options)
        store.recorder = None if self.copied else run.recorder
        self.stores.append(store)
        return Job(
            run.model.plan,
            store,
            run.schedule.settings,
            self.clock,
            RecordedEngine(run.recorder, lambda: self.supervisor.engine, self._never_again),
            point=self.point,
            give_way=self.clock.block,
            aside=at_once,
            journal=run.journal,
        )

    def _place(self, path: Path, monotonic: Callable[[], float]) -> Place:
        place = self.disk.place(path, monotonic)
        self._places.append(place)
        return place

    def gone(self) -> None:
        """The process is no more."""
        if not self.host.dead:
            self.host.kill()
            self.disk.detach(self._places)

    def _store_point(self, name: str) -> None:
        self.stores[-1].passed(name)
        self.point(name)

    def point(self, name: str) -> None:
        """A crash point is passed."""
        run, kill = self.run, self.kill
        if run.on_point is not None:
            run.on_point(self, name)
        self.passed[name] += 1
        engine = self.engine
        # a request of a zombie that arrives now passes points, too
        if run.zombies and self not in run.zombies and engine is not None and _fenced(engine):
            run.thaw_copied()
        if name == "progress.noted":
            task = asyncio.current_task()
            if task is not None and task.get_name().endswith("progress"):
                run.labels["progress noted when idle"] += 1
        elif name == "spill.done":
            run.labels["spilled"] += 1
        elif name == "store.opened" and self.supervisor.restarts and engine is not None and engine.waiting_pushes():
            run.labels["push fed again"] += 1
        if kill is not None and kill.point == name and kill.nth == self.passed[name] and not self.host.dead:
            self.die()
            if self.host.dead:
                raise Killed(name)

    def die(self) -> None:
        """The process is killed, or frozen if it shall come back as a zombie."""
        run, kill = self.run, self.kill
        assert kill is not None
        self.kill = None
        self._label(kill)
        running = self.engine is not None and self.engine.ready.is_set()
        if kill.copy and running and (copy := self.disk.copy()) is not None:
            run.labels["a copy of the store took over"] += 1
            for other in run.zombies:
                other.gone()
            self.freeze()
            self.copied = True
            run.disk = copy
            for store in self.stores:
                store.recorder = None
        elif kill.zombie and self.disk.lose_lock():
            self.freeze()
        else:
            self.gone()
        run.start_later()

    def freeze(self) -> None:
        """It stands still, and is to go on behind its successor's back."""
        self.run.labels["frozen"] += 1
        self.host.frozen = True
        self.run.zombies.append(self)

    def _never_again(self) -> None:
        """A zombie with a store of its own may not start again."""
        if self.copied:
            # on its own store it would become a rival of the same generation: that no fence can tell
            self.gone()
            raise Killed("fenced")

    def _label(self, kill: Kill) -> None:
        labels, engine = self.run.labels, self.engine
        labels["killed"] += 1
        if kill.point:
            labels[f"killed at {kill.point}"] += 1
        if kill.point in ("commit.begun", "commit.written"):
            labels["killed inside COMMIT"] += 1
        if self.run.recorder.generation > 0 and (engine is None or not engine.ready.is_set()):
            labels["killed during recovery"] += 1
        if any(self.run.recorder.to_arrive(name) > len(slot.topic) for name, slot in self.run.model.sinks.items()):
            labels["committed, unpublished"] += 1


def _fenced(engine: Engine) -> bool:
    """Whether an engine has shut out the older instances of every sink."""
    return engine.ready.is_set() and all(publisher.recovered for publisher in engine._publishers)


class SimulatedRun:
    """A flow under one schedule.

    GUARANTEE: model, arrivals and schedule decide the run, to the last callback.

    Args:
        model: The flow.
        arrivals: What comes in, in the order of each source.
        schedule: All else.
        labels: Counts the situations it gets into.
    """

    def __init__(
        self, model: Model, arrivals: Sequence[Arrival], schedule: Schedule, labels: Counter[str] | None = None
    ) -> None:
        self.model = model
        self.schedule = schedule
        self.labels: Counter[str] = Counter() if labels is None else labels
        self.recorder = Recorder(self.labels)
        self.disk: Disk = FileDisk() if schedule.files else MemDisk()
        self.lives: list[Life] = []
        self.zombies: list[Life] = []
        self.pushes: list[Push] = []
        self.ended = False
        self.on_point: Any = None
        self.journal: Sequence[RecordedEpoch] = ()
        self._arrivals = arrivals
        self._chance = random.Random(schedule.seed)
        # typeshed calls abstract what asyncio's own base refuses when it is called: I/O, processes, signals
        self.loop = SimulatedLoop(self._chance, schedule.order)  # type: ignore[abstract]
        self.loop.on_jump = self._jump
        self.network = Network(self.loop, self._chance, schedule.faults, self.labels)
        self._calm = False
        self._coming: deque[tuple[float, Arrival]] = deque()

    def store_latency(self) -> float:
        """The wait before or after a function of the store."""
        return self._chance.random() * self.schedule.store_seconds

    def outputs(self, sink: str) -> list[Any]:
        """What a sink's broker holds."""
        return self.model.sinks[sink].topic.values

    # -- the run -----------------------------------------------------------------------------------------------------

    def play(self) -> None:
        """Plays the run to its end.

        Raises:
            Violation: An invariant broke.
            AssertionError: The flow did not come to its end.
            Exception: What the flow died of, if that is no fault of the schedule's.
        """
        try:
            self.model.fill(self.network, self._publishing)
            self._start()
            self._feed()
            self._until(lambda: self.ended, FAULTS_SECONDS)
            self._settle()
            if self.schedule.again and not self.pushes:
                self._once_more()
        finally:
            self._bury()
            self.disk.close()

    def _publishing(self, sink: str, chunks: Sequence[Chunk], at: Progress) -> None:
        host = self.loop.current_host()
        zombie = next((life for life in self.zombies if life.host is host), None)
        if zombie is None or not zombie.copied:
            self.recorder.publishing(sink, chunks, at, overtaken=zombie is not None)

    def _until(self, done: Any, until: float) -> None:
        self.loop.run(done, TURNS_MAX, until)

    def _settle(self) -> None:
        """The second phase: no more faults. All must arrive, and the flow must end."""
        self._calm = self.network.healed = True
        for life in self.lives:
            life.kill, life.host.acts_at = None, None
        for zombie in self.zombies:
            zombie.gone()
        self._until(lambda: self.ended, self.loop.time() + SETTLE_SECONDS)
        if not self.ended:
            self._all_arrived()
            for push in self.pushes:
                known = push.life is not self.lives[-1] or push.durable
                assert known, f"liveness: the push of {push.value} is not answered"
            if self.schedule.closes:
                for slot in self.model.sources.values():
                    slot.topic.close_input()
            else:
                self.loop.inside(self.lives[-1].host, self.lives[-1].supervisor.stop)
            self._until(lambda: self.ended, self.loop.time() + END_SECONDS)
        assert self.ended, f"the flow does not end: {self.lives[-1].supervisor.engine}"
        self._all_arrived()

    def _once_more(self) -> None:
        """A start behind a clean end: nothing is left to do."""
        before = {name: len(slot.topic) for name, slot in self.model.sinks.items()}
        for slot in self.model.sources.values():
            slot.topic.close_input()
        self.ended = False
        self._start()
        self._until(lambda: self.ended, self.loop.time() + END_SECONDS)
        assert self.ended, "the flow does not end when it is started again"
        after = {name: len(slot.topic) for name, slot in self.model.sinks.items()}
        hold(before == after, f"I4: started again, the flow publishes {after} where {before} was all")
        self.labels["started again behind its end"] += 1

    def _all_arrived(self) -> None:
        for name, slot in self.model.sinks.items():
            committed, there = self.recorder.to_arrive(name), len(slot.topic)
            assert there >= committed, f"liveness: {name} holds {there} of {committed} committed records"

    def _feed(self) -> None:
        """Lets records arrive one after the other: before the start, or as time goes by."""
        seconds = self.schedule.feed_seconds
        self._coming = deque(spread(self._chance, self._arrivals, seconds))
        while self._coming and not seconds and not self._coming[0][1].pushed:
            self._arrive(self._coming.popleft()[1])
        self._feed_next()

    def _feed_next(self) -> None:
        if self._coming:
            at, arrival = self._coming.popleft()

            def arrive() -> None:
                self._arrive(arrival)
                self._feed_next()

            self._later(at - self.loop.time(), arrive)
        elif self.schedule.closes:
            for slot in self.model.sources.values():
                slot.topic.close_input()

    def _arrive(self, arrival: Arrival) -> None:
        slot = self.model.sources[arrival.source]
        if not arrival.pushed:
            slot.topic.send(arrival.value, arrival.partition)
            return
        life = self.lives[-1]
        if not life.host.dead and not life.main.done():
            done = self.loop.inside(life.host, self.loop.create_future)
            assert slot.codec is not None
            payload, id = slot.codec.encode(arrival.value), f"push-{len(self.pushes)}"
            pushed = Pushed(arrival.source, arrival.value, payload, done, id)
            self.pushes.append(Push(arrival.value, done, life))
            self.loop.inside(life.host, lambda: life.supervisor.push(pushed))

    # -- lives -------------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        number = len(self.lives)
        kills = self.schedule.kills
        assert number < LIVES_MAX, f"{number} lives and no end"
        life = Life(self, number, kills[number] if number < len(kills) and not self._calm else None)
        self.lives.append(life)
        self.loop.inside(self.loop.world, lambda: life.main.add_done_callback(lambda task: self._over(life)))
        for zombie in self.zombies:
            if zombie.host.frozen and not zombie.copied:
                delay = self._chance.random() * self.schedule.restart_seconds
                self._later(delay, lambda zombie=zombie: self.loop.thaw(zombie.host))

    def thaw_copied(self) -> None:
        """The successors of copied stores have fenced all sinks."""
        for zombie in self.zombies:
            if zombie.host.frozen and zombie.copied:
                self._later(0.0, lambda zombie=zombie: self.loop.thaw(zombie.host))

    def start_later(self, seconds: float = 0.0) -> None:
        """A life is gone: the next one begins."""
        self._later(seconds + self._chance.random() * self.schedule.restart_seconds, self._start)

    def _later(self, seconds: float, call: Any) -> None:
        self.loop.inside(self.loop.world, lambda: self.loop.call_later(seconds, call))

    def _over(self, life: Life) -> None:
        """The main task of a life has ended by itself."""
        task = life.main
        error = None if task.cancelled() else task.exception()
        if life in self.zombies:
            if isinstance(error, Killed):
                return
            self.labels[f"zombie ended: {type(error).__name__}"] += 1
            if error is not None and not isinstance(error, StreamflowError):
                self.loop.fail(life.host, error)
            life.gone()
        elif error is None:
            self.ended = True
        elif isinstance(error, Unavailable | Fenced | StateLockedError) or (
            # a zombie that had lost its lock was the last to open the store: then it is this life that is behind
            isinstance(error, SinkAhead) and life.stores[-1].generation < self.recorder.generation
        ):
            self.labels[f"flow ended: {type(error).__name__}"] += 1
            life.gone()
            self.start_later(LOCKED_SECONDS)
        else:
            self.loop.fail(life.host, error)

    def _jump(self, seconds: float) -> None:
        life = self.lives[-1]
        engine = life.engine
        quiet = max(REST_SECONDS, 3 * self.schedule.store_seconds, 2 * self.schedule.order.delay_seconds)
        waits = seconds > quiet and engine is not None and engine.ready.is_set() and bool(engine._tasks)
        if waits and not life.host.dead and not life.host.frozen and not life.main.done():
            assert engine is not None
            try:
                self.recorder.check_rest(engine)
            except AssertionError as error:
                self.loop.fail(life.host, error)

    # -- the end -----------------------------------------------------------------------------------------------------

    def _bury(self) -> None:
        for life in self.lives:
            life.gone()
            for store in life.stores:
                store.abandon()
        self.loop.world.kill()
        self.loop.bury(self.loop.world, *(life.host for life in self.lives))
