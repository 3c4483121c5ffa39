"""Lives: one flow that dies at a named instant, or when it is told to, and is started again on the same file."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from streamflow.clock import Clock, SystemClock
from streamflow.flow import Flow
from streamflow.instrument import Instrument
from streamflow.runtime.engine import Engine
from streamflow.runtime.settings import Settings
from streamflow.runtime.supervisor import Supervisor
from streamflow.state.executor import InlineExecutor, ThreadExecutor
from streamflow.state.sqlite import SqliteStore, StoreOptions

BRISK = Settings(commit_min="1ms", checkpoint_share=1.0)


class Killed(BaseException):
    """What a crash point raises: nothing catches it, as nothing survives a SIGKILL."""


@dataclass
class Lives:
    """One flow over its lives.

    Args:
        make_flow: Builds the flow; called for each life, as a new process would.
        path: The state file.
        settings: Limits and paces.
        thread: Whether the store runs on its thread, as in production; crash points of the store need it inline.
        clock: The time.
        instrument: Whom to tell.
    """

    make_flow: Callable[[], Flow]
    path: Path
    settings: Settings = BRISK
    thread: bool = False
    clock: Clock = field(default_factory=SystemClock)
    instrument: Instrument = field(default_factory=Instrument)
    kills: int = 0

    @asynccontextmanager
    async def life(self, point: str = "", nth: int = 1) -> AsyncIterator[Life]:
        """Runs a life until the end of the body; stops it cleanly then, unless it is dead.

        Args:
            point: The crash point to die at.
            nth: At which passing of it.
        """
        life = Life(self, point, nth)
        try:
            yield life
        except BaseException:
            await life.kill()
            raise
        await life.end()


class Life:
    """One life. See `Lives.life`."""

    def __init__(self, lives: Lives, point: str, nth: int) -> None:
        self.passed: Counter[str] = Counter()
        self.dead = False
        self._lives = lives
        self._armed = point, nth
        self.supervisor = Supervisor(lambda: replace(lives.make_flow().job(), **self._parts()))
        self._task = asyncio.create_task(self.supervisor.run())

    def _parts(self) -> dict[str, Any]:
        lives = self._lives
        options = StoreOptions() if lives.thread else StoreOptions(point=self._point)
        executor = ThreadExecutor() if lives.thread else InlineExecutor()
        store = SqliteStore(lives.path, executor=executor, options=options)
        return {
            "store": store,
            "settings": lives.settings,
            "clock": lives.clock,
            "instrument": lives.instrument,
            "point": self._point,
        }

    @property
    def engine(self) -> Engine:
        assert self.supervisor.engine is not None
        return self.supervisor.engine

    def _point(self, name: str) -> None:
        self.passed[name] += 1
        if (name, self.passed[name]) == self._armed:
            self._die()
            raise Killed(name)

    def _die(self) -> None:
        self.dead = True
        self._lives.kills += 1
        if self.supervisor.engine is not None:
            self.engine.crash()

    def started(self) -> bool:
        """Whether it has read its state and begun to work."""
        return self.supervisor.engine is not None and self.supervisor.engine.ready.is_set()

    async def until(self, condition: Callable[[], object], seconds: float = 20) -> None:
        """Waits for what others do, or for its death where a crash point is armed."""
        async with asyncio.timeout(seconds):
            while not self.dead and not condition():
                await asyncio.sleep(0.002)
                if self._task.done() and not self.dead:
                    self._task.result()
                    return

    async def turns(self, count: int = 100) -> None:
        """Lets everybody run for some turns of the event loop."""
        for _ in range(count):
            await asyncio.sleep(0)

    async def ended(self) -> None:
        """Waits for the flow's end; raises what ended it."""
        await self._task

    async def kill(self) -> None:
        """Dies here and now."""
        if not self.dead and not self._task.done():
            self._die()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def end(self) -> None:
        if self.dead:
            await self.kill()
            return
        assert self._armed[0] == "", f"it never died at {self._armed[0]}"
        self.supervisor.stop()
        await self._task
