"""The test harness: a user's flow on memory connectors and a virtual clock, with the real engine and a real store."""

from __future__ import annotations

import asyncio
import dataclasses
import shutil
import tempfile
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from streamflow.batch import Headers
from streamflow.clock import Duration, VirtualClock, duration_ms
from streamflow.codecs import Codec, unprepared
from streamflow.connect.contracts import encoders, takes_nulls
from streamflow.connect.memory import MemoryTopic
from streamflow.errors import DefinitionError, StreamflowError
from streamflow.graph import SINK, SOURCE, Graph, Port, Step
from streamflow.plan import make_plan
from streamflow.runtime.engine import Engine, Job
from streamflow.runtime.settings import Settings
from streamflow.runtime.supervisor import Supervisor
from streamflow.state.executor import InlineExecutor
from streamflow.state.files import copy_as_found
from streamflow.state.sqlite import SqliteStore

if TYPE_CHECKING:
    from streamflow.flow import Flow, Stream
    from streamflow.flow.tables import Table

T = TypeVar("T")

QUIET_TURNS = 60
"""Turns of the event loop without any progress after which nothing more can happen: there is no I/O to wait for."""

AWAITED_SECONDS_MAX = 1.0
"""What users' async functions await takes real time; one that takes longer is not waited for."""


class FlowTest:
    """Runs a flow in a test. Made by `Flow.test`.

    GUARANTEE: the engine, the commit protocol and the SQLite store are those of production; only sources and sinks
    are memory topics, the clock is virtual, and the store runs on the event loop's own thread.

    Args:
        flow: The flow.
        settings: Settings to use instead of the flow's.
    """

    def __init__(self, flow: Flow, settings: Settings | None = None) -> None:
        self.clock = VirtualClock()
        self.crashes = 0
        self._flow = flow
        # virtual time stands still between advances: commits must not wait for it
        self._settings = dataclasses.replace(settings or flow.settings, commit_min="0ms", checkpoint_share=1.0)
        self._topics: dict[str, MemoryTopic[Any]] = {}
        self._rows: dict[Port, list[Any]] = {}
        self._graph = self._in_memory(flow.graph())
        self._supervisor: Supervisor | None = None
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> FlowTest:
        self._folder = Path(tempfile.mkdtemp(prefix="streamflow-test-"))
        self._path = self._folder / "run-0" / "state.db"
        self._path.parent.mkdir()
        await self._start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                await self.stop()
            else:
                await self._kill()
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    # -- what a test does -------------------------------------------------------------------------

    async def send(
        self,
        stream: Stream[T],
        *records: T,
        partition: str = "",
        key: bytes | None = None,
        headers: Headers | None = None,
        settle: bool = True,
    ) -> None:
        """Lets a source's stream receive records, and waits until all that follows from them is done.

        Args:
            stream: A source's stream.
            *records: What arrives, in order.
            partition: In which partition.
            key: The records' key at the broker.
            headers: Their headers at the broker.
            settle: Whether to wait; without it a `crash` can follow while the flow is at work.

        Raises:
            DefinitionError: The stream is not a source's.
            StreamflowError: The flow died of them.
        """
        step = stream._step
        if step.kind != SOURCE:
            raise DefinitionError(f"send goes to a source's stream, {step.name!r} is a {step.kind}")
        for record in records:
            self._topics[step.id].send(record, partition, key=key, headers=headers)
        if settle:
            await self.settle()

    async def send_bytes(self, stream: Stream[Any], *payloads: bytes, settle: bool = True) -> None:
        """`send` for bytes as they are, also such that cannot be decoded."""
        for payload in payloads:
            self._topics[stream._step.id].send_bytes(payload)
        if settle:
            await self.settle()

    async def advance(self, duration: Duration) -> None:
        """Moves the clock, from one due time to the next, and waits until all that follows is done."""
        target = self.clock.now_ms() + duration_ms(duration)
        while (due := self.clock.next_due_ms()) is not None and due <= target:
            self.clock.advance_to(due)
            await self.settle()
        self.clock.advance_to(target)
        await self.settle()

    async def crash(self) -> None:
        """Kills the flow where it is and starts it again on what another process would find on the disk."""
        died = self.engine
        await self._kill()
        self.crashes += 1
        found = self._folder / f"run-{self.crashes}" / "state.db"
        found.parent.mkdir()
        if self._path.exists():
            copy_as_found(self._path, found)
        self._path = found
        await self._start()
        assert self.engine.checkpoint is not None
        for tap in died.taps.by_port.values():
            # what the dead flow had committed and not shown yet
            tap.committed(self.engine.checkpoint.epoch)

    async def stop(self) -> None:
        """Ends the flow cleanly; raises what ended it before."""
        if self._supervisor is not None and self._task is not None:
            self._supervisor.stop()
            while not self._task.done():
                # a stop may wait for sinks, in virtual time
                await self._turn()
                if self._task.done():
                    break
                due = self.clock.next_due_ms()
                if due is not None:
                    self.clock.advance_to(due)
            task, self._task = self._task, None
            task.result()

    def out(self, stream: Stream[T]) -> list[T]:
        """Everything that a stream has given in committed epochs, since the test began."""
        return list(self._rows[stream._port])

    def sink(self, name: str) -> list[Any]:
        """What a sink's broker holds, decoded."""
        return list(self._topics[f"{SINK}:{name}"].values)

    def topic(self, of: Stream[Any] | str) -> MemoryTopic[Any]:
        """The memory topic that stands for a source (by its stream or name) or a sink (by its name).

        Make it fail with what `MemoryTopic` offers. Where a source and a sink share a name, the name is the sink's.
        """
        if not isinstance(of, str):
            return self._topics[of._step.id]
        sink = f"{SINK}:{of}"
        return self._topics[sink if sink in self._topics else f"{SOURCE}:{of}"]

    def state(self, stream: Stream[Any] | Table[Any, Any]) -> dict[Any, Any]:
        """All state of a step, or all of a table, as it is seen now."""
        return self.engine.tables[stream._step.name].snapshot()

    @property
    def engine(self) -> Engine:
        """The engine that runs now."""
        assert self._supervisor is not None and self._supervisor.engine is not None
        return self._supervisor.engine

    @property
    def path(self) -> Path:
        """The state file that is in use now."""
        return self._path

    async def settle(self) -> None:
        """Waits until nothing more can happen without new records or a later time.

        Calls of async steps are waited for, too, each for a second at the most.

        Raises:
            StreamflowError: The flow died.
        """
        before: object = None
        quiet = 0
        loop = asyncio.get_running_loop()
        moved_at = loop.time()
        while quiet < QUIET_TURNS:
            awaits = quiet > 1 and self.engine.awaits and loop.time() < moved_at + AWAITED_SECONDS_MAX
            await asyncio.sleep(0.001 if awaits else 0)
            assert self._task is not None
            if self._task.done():
                task, self._task = self._task, None
                task.result()
                raise StreamflowError("the flow has ended")
            now = self._progress()
            if now != before:
                quiet, moved_at = 0, loop.time()
            elif not awaits:
                quiet += 1
            before = now

    # -- life -------------------------------------------------------------------------------------

    async def _start(self) -> None:
        self._supervisor = Supervisor(self._job)
        for step in self._graph.steps:
            for out in range(step.ports if step.kind != SINK else 0):
                port = Port(step.id, out)
                rows = self._rows.setdefault(port, [])
                self._supervisor.tap(port, rows.extend)
        self._task = asyncio.create_task(self._supervisor.run())
        await self.settle()

    async def _kill(self) -> None:
        if self._supervisor is not None and self._supervisor.engine is not None:
            self._supervisor.engine.crash()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _turn(self) -> None:
        before: object = None
        quiet = 0
        while quiet < QUIET_TURNS and self._task is not None and not self._task.done():
            await asyncio.sleep(0)
            now = self._progress()
            quiet = quiet + 1 if now == before else 0
            before = now

    def _progress(self) -> object:
        supervisor = self._supervisor
        assert supervisor is not None
        return (supervisor.restarts, supervisor.engine.progress() if supervisor.engine is not None else None)

    def _job(self) -> Job:
        flow = self._flow
        store = SqliteStore(self._path, executor=InlineExecutor())
        return Job(
            make_plan(self._graph),
            store,
            self._settings,
            self.clock,
            drop=flow.drop,
            renamed=flow.renamed,
            resources=flow.resources,
        )

    def _in_memory(self, graph: Graph) -> Graph:
        """The same graph with a memory topic for each source and sink."""
        return Graph(graph.flow, tuple(map(self._replaced, graph.steps)))

    def _replaced(self, step: Step) -> Step:
        if step.kind not in (SOURCE, SINK):
            return step
        spec = step.options["spec"]
        if getattr(spec, "internal", False):
            return step
        if isinstance(spec, MemoryTopic):
            topic = spec.empty_copy()
        else:
            codec = getattr(spec, "codec", None)
            codec = None if codec is None else unprepared(codec)
            if codec is not None and takes_nulls(spec):
                codec = _Nullable(codec)
            topic = MemoryTopic(step.name) if codec is None else MemoryTopic(step.name, value=codec)
        self._topics[step.id] = topic
        options = {**step.options, "spec": topic}
        if step.kind == SINK:
            topic.writes_keys = True  # a broker's sinks write it, and a test may ask for it
            sink_options, on_error = step.options["sink_options"], step.options["on_error"]
            options |= encoders(topic, sink_options, on_error, keyed=step.keyed)
            options["placed"] = step.keyed  # such rows are encoded behind the loop, which knows the place of each
        return dataclasses.replace(step, options=options)


class _Nullable:
    """A codec with a byte in front that tells None, for which a memory topic has no payload, from all else."""

    def __init__(self, codec: Codec[Any]) -> None:
        self.name = f"nullable {codec.name}"
        self._codec = codec

    def encode(self, value: Any, /) -> bytes:
        return b"0" if value is None else b"1" + self._codec.encode(value)

    def decode(self, data: bytes, /) -> Any:
        return None if data[:1] == b"0" else self._codec.decode(data[1:])
