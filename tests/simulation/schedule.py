"""Running a flow turn by turn, killing it, and starting it again on what another process would find."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from streamflow.clock import VirtualClock
from streamflow.flow import Flow
from streamflow.instrument import Instrument
from streamflow.plan import make_plan
from streamflow.runtime.engine import Job
from streamflow.runtime.settings import Settings
from streamflow.runtime.supervisor import Supervisor
from streamflow.state.executor import InlineExecutor
from streamflow.state.files import copy_as_found
from streamflow.state.sqlite import SqliteStore, StoreOptions

QUIET_TURNS = 40


class Killed(BaseException):
    """What a crash point raises: nothing catches it, as nothing survives a SIGKILL."""


class Incarnations:
    """One flow over its lives.

    Args:
        make_flow: Builds the flow; called for each life, as a new process would.
        folder: Where the state file of each life lies.
        settings: Limits and paces.
    """

    def __init__(self, make_flow: Callable[[], Flow], folder: Path, settings: Settings | None = None) -> None:
        self.clock = VirtualClock()
        self.lives = 0
        self.points: list[str] = []
        self.armed = ""
        self.died = False
        self._supervisor: Supervisor | None = None
        self._make_flow = make_flow
        self._folder = folder
        self._settings = settings or Settings(commit_min="0ms", checkpoint_share=1.0)

    @property
    def path(self) -> Path:
        return self._folder / f"life-{self.lives}" / "state.db"

    def _point(self, name: str) -> None:
        self.points.append(name)
        if name == self.armed:
            self.armed, self.died = "", True
            assert self._supervisor is not None
            assert self._supervisor.engine is not None
            self._supervisor.engine.crash()
            raise Killed(name)

    def _job(self) -> Job:
        flow = self._make_flow()
        store = SqliteStore(self.path, executor=InlineExecutor(), options=StoreOptions(point=self._point))
        return Job(make_plan(flow.graph()), store, self._settings, self.clock, Instrument())

    async def live(self, turns: int | None = None, *, armed: str = "") -> bool:
        """Runs one life.

        Args:
            turns: Kill after this many turns of the event loop; None runs until nothing happens any more, then stops.
            armed: Name of the store's crash point at which to die.

        Returns:
            Whether the life was cut short.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.armed, self.died = armed, False
        supervisor = self._supervisor = Supervisor(self._job)
        task = asyncio.create_task(supervisor.run())
        killed = await self._turns(supervisor, task, turns)
        if not killed:
            supervisor.stop()
            killed = await self._turns(supervisor, task, None)
        if killed:
            if supervisor.engine is not None:
                supervisor.engine.crash()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            self._next_life()
            return True
        task.result()
        return False

    async def _turns(self, supervisor: Supervisor, task: asyncio.Task[None], turns: int | None) -> bool:
        quiet, before, turn = 0, None, 0
        while not task.done() and quiet < QUIET_TURNS:
            if turns is not None and turn >= turns:
                return True
            await asyncio.sleep(0)
            turn += 1
            progress = supervisor.engine.progress() if supervisor.engine is not None else None
            quiet = quiet + 1 if progress == before else 0
            before = progress
            if quiet == QUIET_TURNS - 1 and (due := self.clock.next_due_ms()) is not None and turns is None:
                self.clock.advance_to(due)
                quiet = 0 if self.clock.next_due_ms() != due else quiet
        return self.died

    def _next_life(self) -> None:
        found = self._folder / f"life-{self.lives + 1}" / "state.db"
        found.parent.mkdir(parents=True)
        if self.path.exists():
            copy_as_found(self.path, found)
        self.lives += 1
