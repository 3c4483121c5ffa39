"""The supervisor: restarts a shard from its checkpoint when that can help, and stops it when it cannot."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from typing import Any, Final

from streamflow.clock import sleep
from streamflow.codecs import prepare_encoding
from streamflow.errors import Fenced, FoundLate, StreamflowError, Unavailable
from streamflow.graph import SINK, Port
from streamflow.runtime.cut import Pushed
from streamflow.runtime.engine import Engine, Job

FENCED_AGAIN_SECONDS: Final = 60.0
"""A shard can be fenced by its own delayed request once; again within this time it was somebody else."""


_inside: contextvars.ContextVar[Supervisor] = contextvars.ContextVar("inside")


class Supervisor:
    """Keeps one shard running.

    GUARANTEE: every start, the first and each restart, is the same recovery from the store. A restart happens for a
    lost source that cannot be reopened alone, for the first `Fenced`, and once to find the record that left something
    in the state that cannot be encoded; all else ends the flow with its error.
    BOUND: ``restarts_max`` restarts without a commit between them; of a source that broke each time, without a commit
    of its records.

    Args:
        make_job: Makes the job with a new, unopened store.
    """

    def __init__(self, make_job: Callable[[], Job]) -> None:
        self.engine: Engine | None = None
        self.restarts = 0
        self.ready = asyncio.Event()
        self.held: Callable[[], str] = lambda: ""
        self._make_job = make_job
        self._stopping = False
        self._lives = False
        self._taps: dict[Port, Callable[[list[Any]], None]] = {}
        self._pushes: list[Pushed] = []

    async def run(self) -> None:
        """Runs the shard until it stops; raises what ended it."""
        _inside.set(self)  # seen by every task that follows from this one, and so by every step
        fenced_at = float("-inf")
        attempt = careful = 0
        found_late: FoundLate | None = None
        while True:
            job = self._make_job()
            engine = self.engine = Engine(job, self._pushes, careful=careful)
            careful = 0
            engine.internal.held = self._held
            self._pushes, self._lives = [], True
            for port, deliver in self._taps.items():
                engine.tap(port, deliver)
            if self._stopping:
                engine.stop()
            announce = asyncio.create_task(self._announce(engine))
            try:
                await prepare_encoding(step.options["spec"] for step in job.plan.graph.of_kind(SINK))
                await engine.run()
                if found_late is not None and self._stopping and engine.careful:
                    raise found_late  # stopped before the record was met again: what is known must not end in silence
                return
            except (Unavailable, Fenced, FoundLate) as error:
                now = job.clock.monotonic()
                attempt = 1 if engine.got_on else attempt + 1
                fenced = isinstance(error, Fenced)
                fenced_again = fenced and now - fenced_at < FENCED_AGAIN_SECONDS
                late = isinstance(error, FoundLate)
                if attempt > job.settings.restarts_max and not late:
                    raise (Fenced if fenced else Unavailable)(
                        f"restarted {attempt - 1} times at {engine.place()} without getting on: {error.message}",
                        hint=error.hint or "Mend what it says; the flow goes on at the same place.",
                    ) from error
                if self._stopping or fenced_again or (late and engine.careful):
                    raise
                careful = max(1, engine.intake.records) if late else 0
                found_late = error if isinstance(error, FoundLate) else found_late
                fenced_at = now if fenced else fenced_at
                # nothing out there has to recover before a record can be looked for
                wait = 0.0 if late else job.settings.reopen_seconds(attempt - 1)
                job.instrument.restarting(error, wait)
                self.restarts += 1
                self._pushes, self._lives = engine.waiting_pushes(), False
            finally:
                announce.cancel()
                self._settle(engine)
            if wait:
                await sleep(job.clock, wait)

    async def _announce(self, engine: Engine) -> None:
        await engine.ready.wait()
        self.ready.set()

    def _settle(self, engine: Engine) -> None:
        """Tells pushes that will not be fed again that their flow is over."""
        kept = set(map(id, self._pushes))
        for push in engine.waiting_pushes():
            if id(push) not in kept and not push.done.done():
                push.done.set_exception(
                    StreamflowError(f"the flow ended before a record pushed to {push.source!r} was committed")
                )

    def stop(self) -> None:
        """Ends the flow cleanly: drain, commit, publish, close."""
        self._stopping = True
        if self.engine is not None:
            self.engine.stop()

    @property
    def is_inside(self) -> bool:
        """Whether the caller is a step of the shard, or was started by one."""
        return _inside.get(None) is self

    def push(self, pushed: Pushed) -> None:
        """Hands a record in, also between two lives; it is fed again if the shard restarts before its commit."""
        if self._lives and self.engine is not None:
            self.engine.push(pushed)
        else:
            self._pushes.append(pushed)

    def tapped(self, port: Port) -> int:
        """How many rows have passed a tap and are not committed."""
        found = None if self.engine is None else self.engine.taps.by_port.get(port)
        return 0 if found is None else found.waiting

    def _held(self) -> str:
        return self.held()

    def wake(self) -> None:
        """Lets intake look again whether it may take records."""
        if self.engine is not None:
            self.engine.wake()

    def tap(self, port: Port, deliver: Callable[[list[Any]], None]) -> None:
        """Delivers a port's committed rows, also after restarts."""
        self._taps[port] = deliver
        if self.engine is not None:
            self.engine.tap(port, deliver)
