"""The flow that fault tests kill: numbered records per key in, the same number with a count kept in state out."""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import resource
import signal
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import streamflow as sf
from streamflow.connect.contracts import SinkSpec, SourceSpec
from streamflow.instrument import Instrument
from streamflow.points import Point
from streamflow.runtime.engine import Job
from streamflow.state.sqlite import SqliteStore, StoreOptions

Guaranteed = Literal["exactly_once", "effectively_once", "at_least_once", "at_most_once"]
PR_SET_PDEATHSIG = 1
REOPEN_MAX = "300ms"
"""A broker that was killed is back in seconds: nobody shall wait for the next attempt of a flow."""


@dataclass(frozen=True)
class Numbered:
    """Record ``n`` of its key, from 1 without a gap."""

    key: str
    n: int


@dataclass
class Seen:
    """How many records of the key there were, and the last one's number."""

    count: int = 0
    last: int = 0


@dataclass(frozen=True)
class Counted:
    """A record's number, and what the state says of its key."""

    key: str
    n: int
    count: int
    gap: int


@dataclass(frozen=True, kw_only=True)
class FlowSetup(ABC):
    """How a flow is built that lives in a process of its own.

    Args:
        state: The state file.
        settings: `streamflow.Settings` by name.
        file_bytes_max: What the process may write to one file; 0 for no limit. It is as if the disk were full.
    """

    state: Path
    settings: dict[str, Any] = field(default_factory=dict)
    file_bytes_max: int = 0

    @abstractmethod
    def build(self, flow: sf.Flow) -> None:
        """Writes the flow's steps."""


@dataclass(frozen=True, kw_only=True)
class Setup(FlowSetup):
    """The flow of numbered records; each broker has a kind of its own, which says what is read and written.

    Args:
        on_error: What source and step do with a record they cannot take: stop or skip.
        bad_key: A key whose records the step refuses.
        extra_step: Whether there is one more stateless step.
    """

    on_error: Literal["stop", "skip"] = "stop"
    bad_key: str = ""
    extra_step: bool = False

    @abstractmethod
    def reads(self) -> SourceSpec[Numbered]:
        """What the flow reads."""

    def enters(self, flow: sf.Flow, on_error: Any) -> sf.Stream[Numbered]:
        """The numbered records, as they come into the flow."""
        return flow.source(self.reads(), on_error=on_error)

    def build(self, flow: sf.Flow) -> None:
        """Writes the flow's steps."""
        policy = sf.skip if self.on_error == "skip" else sf.stop
        numbered = self.enters(flow, policy)
        if self.extra_step:
            numbered = numbered.filter(lambda record: record.n > 0, name="positive")

        @numbered.key_by(lambda record: record.key).process(state=Seen, on_error=policy)
        def counted(ctx: sf.Context[str, Seen], record: Numbered) -> Iterator[Counted]:
            gap = record.n - ctx.state.last
            ctx.state.count, ctx.state.last = ctx.state.count + 1, record.n
            if record.key == self.bad_key:
                raise ValueError("a record to stumble over")
            yield Counted(record.key, record.n, ctx.state.count, gap)

        for spec, guarantee in self.writes():
            counted.to(spec, guarantee=guarantee)

    @abstractmethod
    def writes(self) -> Sequence[tuple[SinkSpec[Counted], Guaranteed | None]]:
        """Where it writes, and with which guarantee where that is not the flow's."""


@dataclass(frozen=True)
class Trap:
    """What happens at the ``nth`` passing of a crash point.

    kill: the process kills itself. freeze: it stops itself until SIGCONT. hold: whenever the file ``gate`` is there,
    whatever the number of the passing, it stands still until the file is gone, so that somebody else can be killed at
    that very instant.
    """

    point: str
    nth: int = 1
    action: Literal["kill", "freeze", "hold"] = "kill"
    gate: Path = Path()


class Diary(Instrument):
    """Writes down what happens, a line of JSON each; a kill loses none of it."""

    def __init__(self, path: Path, life: int) -> None:
        self._life = life
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def note(self, what: str, **more: Any) -> None:
        line = json.dumps({"life": self._life, "what": what, "at": time.monotonic(), **more})
        os.write(self._descriptor, line.encode() + b"\n")

    def started(self, epoch: int, generation: int) -> None:
        self.note("started", epoch=epoch, generation=generation)

    def skipped(self, step: str, place: str, error: Exception) -> None:
        self.note("skipped", step=step, place=place, message=str(error))

    def published(self, sink: str, epoch: int, next_seq: int) -> None:
        self.note("published", sink=sink, epoch=epoch, next_seq=next_seq)

    def committed(self, epoch: int, records: int, size_bytes: int, seconds: float) -> None:
        self.note("committed", epoch=epoch, records=records)

    def connector_failed(self, kind: str, name: str, error: Exception, retry_in_seconds: float) -> None:
        self.note("failed", kind=kind, name=name, error=type(error).__name__, message=str(error))

    def restarting(self, error: Exception, retry_in_seconds: float) -> None:
        self.note("restarting", error=type(error).__name__, message=str(error))

    def released_early(self, sources: str, records: int) -> None:
        self.note("released_early", sources=sources, records=records)

    def stalled(self, reason: str) -> None:
        self.note("stalled", reason=reason)


class TrappedFlow(sf.Flow):
    """The production flow, told to call ``point`` at every crash point, those of the store included."""

    point: Point

    def job(self, instrument: Instrument | None = None, *, accept_missing: bool = False) -> Job:
        store = SqliteStore(self.state_path, options=StoreOptions(point=self.point))
        return replace(super().job(instrument, accept_missing=accept_missing), point=self.point, store=store)


def make_flow(setup: FlowSetup, point: Point) -> sf.Flow:
    """Builds the flow."""
    settings = sf.Settings(**{"reopen_max": REOPEN_MAX, **setup.settings})
    flow = TrappedFlow("kill-me", state=setup.state, settings=settings)
    flow.point = point
    setup.build(flow)
    return flow


def live(setup: FlowSetup, trap: Trap | None, life: int, diary: Path, log: Path) -> None:
    """One life of the flow: the whole of its process. SIGTERM stops it cleanly."""
    _die_with_the_parent()
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    if setup.file_bytes_max:
        resource.setrlimit(resource.RLIMIT_FSIZE, (setup.file_bytes_max, setup.file_bytes_max))
    notes = Diary(diary, life)
    try:
        asyncio.run(_run(setup, trap, notes))
    except Exception as error:
        notes.note("ended", error=type(error).__name__, message=str(error), hint=getattr(error, "hint", ""))
        raise
    notes.note("ended", error="", message="", hint="")


async def _run(setup: FlowSetup, trap: Trap | None, notes: Diary) -> None:
    flow = make_flow(setup, _pointed(trap, notes))
    async with flow.running(notes) as run:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, run.stop)
        notes.note("listening")
        await run.wait()


def _pointed(trap: Trap | None, notes: Diary) -> Point:
    """The function that production code calls at its crash points."""
    passed: dict[str, int] = {}

    def point(name: str) -> None:
        passed[name] = passed.get(name, 0) + 1
        if trap is None or name != trap.point:
            return
        if trap.action == "hold":
            if trap.gate.exists():
                notes.note("trapped", point=name, nth=passed[name], action="hold")
                while trap.gate.exists():
                    time.sleep(0.002)
        elif passed[name] == trap.nth:
            notes.note("trapped", point=name, nth=trap.nth, action=trap.action)
            # to this very thread, so that not one more instruction of it runs
            signal.pthread_kill(threading.get_ident(), signal.SIGKILL if trap.action == "kill" else signal.SIGSTOP)

    return point


def _die_with_the_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
