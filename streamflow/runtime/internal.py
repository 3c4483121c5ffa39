"""What enters a shard from inside it: results of detached calls, and its own dead letters; and what holds intake up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from streamflow.runtime.cut import Pushed
from streamflow.runtime.dead import DeadLetters
from streamflow.runtime.detached import Detached
from streamflow.runtime.intake import Intake
from streamflow.runtime.job import Job
from streamflow.runtime.letters_source import DeadLetterLog, LetterSource
from streamflow.runtime.pacing import Pacer
from streamflow.runtime.pump import Pump
from streamflow.runtime.taps import Taps
from streamflow.runtime.tasks import Tasks
from streamflow.state.keyed import Table


class Internal:
    """The internal sources of a shard.

    GUARANTEE: a shard whose sources have ended goes on until the last call is done and the last letter is read.

    Args:
        job: What the shard runs.
        feed: Takes results in.

    Attributes:
        held: Why intake should take no records, for reasons of who listens; empty if it may.
    """

    def __init__(self, job: Job, feed: Callable[[Pushed], None]) -> None:
        self.held: Callable[[], str] = lambda: ""
        self.detached = Detached(job.plan.graph, job.clock, feed, job.settings.detached_max)
        self._job = job
        self._letters = asyncio.Event()
        self._intake: Intake
        self._pacer: Pacer

    def attach(
        self, intake: Intake, pacer: Pacer, dead: DeadLetters, tables: Mapping[str, Table[object]], taps: Taps
    ) -> None:
        """Lets detached calls hear of their inputs, and take up those that an earlier life left in the state."""
        self._intake, self._pacer = intake, pacer
        intake.held = self._held
        dead.written = self._letters.set
        for pump in intake.pumps:
            if _reads_letters(pump):
                pump.make_source = lambda: LetterSource(self._job.store, self._is_over, self._letters)
        if not self._begins:
            return
        intake.rests = lambda: not self.detached.under_way
        intake.expects = lambda: intake.pending or not pacer.idle or self.detached.waiting > 0
        for calls in self.detached.calls:
            calls.told = self._settled
            calls.restore(tables[calls.port.step.partition(":")[2]].snapshot())
            taps.own[calls.port] = calls.begins

    def start(self, tasks: Tasks) -> None:
        """Starts making calls."""
        for calls in self.detached.calls if self._begins else ():
            tasks.spawn(calls.run(), f"detached {calls.spec.step}")

    def stirred(self) -> None:
        """Something has ended, or was committed: perhaps nothing more can come."""
        if self._is_over():
            self._letters.set()

    def _settled(self) -> None:
        """The result of a call is committed."""
        self._intake.wake()
        self.stirred()

    @property
    def _begins(self) -> bool:
        """Whether calls are made; a replay takes their results from the journal."""
        return bool(self.detached.calls) and not self._job.journal

    def _held(self) -> str:
        reason = self.held() or self.detached.full()
        if reason and not self._intake.stall:
            self._job.instrument.stalled(reason)
        return reason

    def _is_over(self) -> bool:
        """Whether nothing more can happen but for dead letters that nobody has read yet."""
        intake = self._intake
        ended = all(pump.ended and not pump.waiting for pump in intake.pumps if not _reads_letters(pump))
        return ended and not (intake.pending or intake.pushed or self.detached.waiting) and self._pacer.idle


def _reads_letters(pump: Pump) -> bool:
    return isinstance(pump.step.options["spec"], DeadLetterLog)
