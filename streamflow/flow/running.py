"""A running flow, as its host sees it: committed state, records pushed in, committed outputs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Generic, TypeVar, overload
from uuid import uuid4

from streamflow.codecs import JsonCodec, prepare_encoding
from streamflow.errors import DefinitionError, StateError, StreamflowError
from streamflow.flow.keyed import KeyedStream
from streamflow.flow.process import Process
from streamflow.flow.stream import Stream
from streamflow.flow.subscribing import RECORDS_MAX, OnSlow, Subscribers, Subscription
from streamflow.flow.tables import Table
from streamflow.graph import SOURCE, Step
from streamflow.keys import canonical, parse
from streamflow.operators.bind import StateSpec
from streamflow.runtime.cut import Pushed
from streamflow.runtime.decoding import as_pushed, as_read
from streamflow.runtime.engine import Job
from streamflow.runtime.event_time import microseconds
from streamflow.runtime.requeue import fixed, revived
from streamflow.runtime.resources import health
from streamflow.runtime.supervisor import Supervisor
from streamflow.runtime.watermarks import Watermarks, watermarks_of
from streamflow.state.store import Store, StoredLetter

K = TypeVar("K")
S = TypeVar("S")
T = TypeVar("T")


class TableView(Generic[K, S]):
    """Committed state of one step, read by key."""

    def __init__(self, supervisor: Supervisor, step: Step) -> None:
        spec: StateSpec = step.options["state"]
        if spec.kind != "value":
            raise DefinitionError(
                f"step {step.name!r} keeps a {spec.kind}; read it with SQL", hint="streamflow state ..."
            )
        self._supervisor = supervisor
        self._name = step.name
        self._key_type = step.options["key_type"]
        self._decode = spec.codec.decode if spec.codec is not None else JsonCodec[S](spec.type).decode

    async def get(self, key: K) -> S | None:
        """Returns a key's value as of the last committed epoch; None if it has none."""
        found = await self._store().get(self._name, canonical(key))
        return None if found is None else self._decode(found)

    async def items(self, *, limit: int = 1000) -> list[tuple[K, S]]:
        """Returns the first keys with their values, in the order of the keys' JSON text, all of one commit.

        It reads the whole table to sort it: meant for small ones, and to look at the beginning of others.
        """
        found = await self._store().items(self._name, limit)
        return [(parse(key, self._key_type), self._decode(value)) for key, value in found]

    def _store(self) -> Store:
        engine = self._supervisor.engine
        if engine is None:
            raise StreamflowError("the flow is not running")
        return engine.job.store


class Running:
    """A flow that runs on this event loop. Made by `Flow.running`.

    GUARANTEE: what `push` returned for is committed; what `subscribe` and `table` show is committed.
    """

    def __init__(self, flow: str, make_job: Callable[[], Job]) -> None:
        self.flow = flow
        self._supervisor = Supervisor(make_job)
        self._task: asyncio.Task[None] | None = None
        self._subscribers = Subscribers(self._supervisor.tap, self._supervisor.tapped, self._supervisor.wake)
        self._supervisor.held = self._subscribers.full
        self._letters: dict[int, str] = {}  # dead letters in hand, and what is being done with them
        self._dying = False
        self._host: asyncio.Task[Any] | None = None

    @property
    def engine(self) -> Any:
        """The engine of the shard, for tests and tools."""
        return self._supervisor.engine

    @overload
    def table(self, stream: Process[K, S, Any]) -> TableView[K, S]: ...
    @overload
    def table(self, stream: KeyedStream[K, Any]) -> TableView[K, Any]: ...
    @overload
    def table(self, stream: Table[K, S]) -> TableView[K, S]: ...

    def table(self, stream: KeyedStream[K, Any] | Table[K, Any]) -> TableView[K, Any]:
        """Committed state of a stateful step, or a table as of the last commit."""
        step = stream._step
        if "state" not in step.options:
            raise DefinitionError(f"step {step.name!r} keeps no state")
        return TableView(self._supervisor, step)

    async def push(self, stream: Stream[T], record: T) -> int:
        """Hands a record in as if the source had read it; returns its epoch once that is durable.

        Args:
            stream: A source's stream.
            record: The record; a `Message` where the source gives such, whose position nobody knows then.

        Raises:
            DefinitionError: The stream is not a source's, or the record no message where its source gives those.
            StreamflowError: The flow ended first; the record is not in it.
        """
        step = stream._step
        if step.kind != SOURCE:
            raise DefinitionError(f"push goes to a source's stream, {step.name!r} is a {step.kind}")
        if not self.alive:
            raise StreamflowError("the flow has ended")
        if self._supervisor.is_inside:
            raise DefinitionError(
                f"a step of the flow pushes to {step.name!r}, and would wait for a commit that waits for the step",
                hint="Give the records as the step's output, or as a side output of a process step.",
            )
        id = uuid4().hex
        value, envelope = as_pushed(step, record, id)
        read = as_read(step, value, envelope)
        event_time = step.options["event_time"]
        if event_time is not None and event_time.of is not None:
            microseconds(event_time.of(read))  # a record without a time is the caller's error, not the flow's
        await prepare_encoding([step.options["spec"]])
        codec = step.options["spec"].codec
        payload = codec.encode(value) if codec is not None else JsonCodec[Any](Any).encode(value)
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._supervisor.push(Pushed(step.name, read, payload, done, id, envelope=envelope))
        return await done

    @property
    def alive(self) -> bool:
        """Whether the flow runs: it has started and not ended."""
        return self._task is not None and not self._task.done()

    def watermarks(self) -> Watermarks:
        """Up to where event time is complete, per source and per step that goes by it."""
        return watermarks_of(self._supervisor.engine)

    async def health(self) -> Mapping[str, str]:
        """Per resource an empty text, or what is wrong with it."""
        engine = self._supervisor.engine
        return {} if engine is None else await health(engine.job.resources)

    async def dead_letters(self) -> Sequence[StoredLetter]:
        """The records that ``on_error=sf.dead_letter`` put aside, oldest first, as of the last commit."""
        return await self._store().dead_letters()

    async def requeue(
        self,
        letter: int,
        *,
        payload: bytes | None = None,
        fix: Callable[[bytes], bytes] | None = None,
        everywhere: bool = False,
    ) -> int:
        """Takes a dead letter's record in again; returns its epoch once that is durable, and the letter gone.

        Args:
            letter: Its number.
            payload: What to take in instead of the bytes that the letter holds.
            fix: Makes of the bytes that the letter holds those to take in.
            everywhere: Take it in although the record then also does again what had been done with it: on the paths
                beside the step that refused it, and in the steps before that.

        Raises:
            DefinitionError: Both ``payload`` and ``fix`` are given.
            StateError: There is no such letter, or it is being taken in or dropped already; it is no record of a
                source, or would do more than is missing.
            StepError: ``fix`` raised or gave no bytes, the record cannot be decoded, or has no event time that can be
                used; the letter stays.
        """
        if payload is not None and fix is not None:
            raise DefinitionError("requeue takes payload= or fix=, not both", hint="Leave one of them out.")
        with self._in_hand(letter, "taken in again"):
            found = await self._store().dead_letters([letter])
            if not found:
                raise StateError(f"there is no dead letter {letter}", hint="See run.dead_letters().")
            data = found[0].letter.payload if payload is None else payload
            if fix is not None:
                data = fixed(found[0], fix)
            job = self.engine.job
            push = await revived(job.plan.graph, found[0], data, job.clock.now_ms(), everywhere=everywhere)
            self._supervisor.push(push)
            return await push.done

    async def drop(self, letter: int) -> None:
        """Removes a dead letter.

        Raises:
            StateError: There is no such letter, or it is being taken in or dropped already.
        """
        with self._in_hand(letter, "dropped"):
            await self._store().edit_dead([letter], {})
            self.engine.dead.revived(1)

    @contextmanager
    def _in_hand(self, letter: int, what: str) -> Iterator[None]:
        """One thing at a time is done with a letter: between a look at the store and a commit it may be gone."""
        self._store()
        waits = any(push.letter == letter for push in self.engine.waiting_pushes())
        if waits or letter in self._letters:
            doing = self._letters.get(letter, "taken in again")
            raise StateError(f"dead letter {letter} is being {doing}", hint="Wait for the next commit.")
        self._letters[letter] = what
        try:
            yield
        finally:
            del self._letters[letter]

    def _store(self) -> Store:
        engine = self._supervisor.engine
        if engine is None or not self.alive:
            raise StreamflowError("the flow is not running")
        return engine.job.store

    def subscribe(
        self, stream: Stream[T], *, on_slow: OnSlow = "raise", records_max: int = RECORDS_MAX
    ) -> Subscription[T]:
        """Iterates over a stream's records as their epochs are committed, from now on.

        Args:
            stream: The stream.
            on_slow: When more records wait than may: "raise" ends the subscription with an error instead of a gap,
                "drop" leaves out the oldest and counts them, "block" stops the flow from taking records until half
                of them are read.
            records_max: Most records that may wait.
        """
        made = self._subscribers.add(stream._port, on_slow, records_max)
        if not self.alive:
            made.end()
        return made

    def stop(self) -> None:
        """Ends the flow cleanly: drain, commit, publish, close."""
        self._supervisor.stop()

    async def wait(self) -> None:
        """Waits for the flow's end; raises what ended it."""
        assert self._task is not None
        await asyncio.shield(self._task)

    async def start(self) -> None:
        """Starts the flow; returns once it is processing, raises if it cannot start."""
        self._refuse_twice()
        self._task = asyncio.create_task(self._supervisor.run(), name=self._task_name)
        ready = asyncio.create_task(self._supervisor.ready.wait())
        try:
            await asyncio.wait((self._task, ready), return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            raise
        finally:
            ready.cancel()
        if self._task.done():
            self._task.result()
            return
        self._task.add_done_callback(self._ended)

    @property
    def _task_name(self) -> str:
        return f"{self.flow}: shard"

    def _refuse_twice(self) -> None:
        """Refuses to run beside a flow of the same name: brokers, logs and metrics would take the two for one.

        The loop knows its tasks, so nothing has to be kept of running flows.
        """
        if any(task.get_name() == self._task_name for task in asyncio.all_tasks()):
            raise DefinitionError(
                f"a flow called {self.flow!r} runs on this event loop already",
                hint="End it first, or give each flow a name of its own.",
            )

    def guard(self) -> None:
        """From now on until `finish` the current task is cancelled if the flow dies."""
        self._host = asyncio.current_task()
        if self._task is not None and self._task.done():
            self._ended(self._task)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._subscribers.end()
        failed = not task.cancelled() and task.exception() is not None
        if failed and self._host is not None and not self._host.done():
            self._dying = True
            self._host.cancel()

    async def finish(self, error: BaseException | None) -> None:
        """Stops the flow and waits for its end; raises what ended it instead of the cancellation it caused."""
        host, self._host = self._host, None
        assert self._task is not None
        self._supervisor.stop()
        if self._dying and isinstance(error, asyncio.CancelledError) and host is not None:
            host.uncancel()
        while not self._task.done():
            try:
                await asyncio.shield(self._task)
            except asyncio.CancelledError:
                if self._task.done():
                    break
                # asked again: give up the drain, abort to the last commit
                self._task.cancel()
                await asyncio.gather(self._task, return_exceptions=True)
                raise
            except Exception:
                break
        self._task.result()
