"""The simulated event loop: seeded order of callbacks, virtual time, and hosts that die without a last word."""

from __future__ import annotations

import asyncio
import asyncio.events
import contextvars
import heapq
import itertools
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from streamflow.clock import Cancellable

T = TypeVar("T")

START_MS: Final = 1_767_225_600_000
"""2026-01-01 00:00 UTC: when simulated time begins."""

CLOSE_ATTEMPTS_MAX: Final = 16
"""A coroutine may wait in a `finally` block; it is thrown out of so many of them."""


class Killed(BaseException):
    """What a crash point raises in a host that died there: nothing catches it, as nothing survives a SIGKILL."""


@dataclass(eq=False)
class Host:
    """A process in the simulation: all callbacks and tasks that began in it.

    GUARANTEE: once it is killed nothing of it runs any more, no `finally` and no `except` block either.

    Args:
        name: Its name, for messages.
        acts_at: At this callback of its own, and before it, ``act`` is called; None for never.
        act: Kills or freezes it.
    """

    name: str
    acts_at: int | None = None
    act: Callable[[], None] = lambda: None
    turns: int = 0
    dead: bool = False
    on_death: list[Callable[[], None]] = field(default_factory=list)
    frozen: bool = False
    parked: list[asyncio.Handle] = field(default_factory=list)
    tasks: list[asyncio.Task[Any]] = field(default_factory=list)

    def kill(self) -> None:
        """Ends it now."""
        if not self.dead:
            self.dead = True
            self.parked.clear()
            for call in self.on_death:
                call()


_host: contextvars.ContextVar[Host] = contextvars.ContextVar("host")


@dataclass(frozen=True, slots=True)
class Order:
    """How a seed lets callbacks run.

    Args:
        shuffled: Any ready callback may be next; otherwise the one that waited longest, as asyncio does.
        delay_rate: Share of callbacks put off by a moment of virtual time.
        delay_seconds: The longest such moment.
        reading_seconds: How far a reading of the clock moves it: what computing costs.
    """

    shuffled: bool = False
    delay_rate: float = 0.0
    delay_seconds: float = 0.0
    reading_seconds: float = 0.0


class SimulatedLoop(asyncio.AbstractEventLoop):
    """An event loop without I/O, threads or waiting.

    GUARANTEE: the same seed and order give the same run, to the last callback. When nothing is ready, time jumps to
    the next timer.

    Args:
        chance: Where randomness comes from.
        order: How callbacks are chosen.
    """

    def __init__(self, chance: random.Random, order: Order) -> None:
        self.turns = 0
        self.on_jump: Callable[[float], None] = lambda seconds: None
        self.world = Host("world")
        self.failure: BaseException | None = None
        self._random = chance.random
        self._order = order
        self._ready: list[asyncio.Handle] = []
        self._timers: list[tuple[float, int, asyncio.Handle]] = []
        self._serial = itertools.count()
        self._now = 0.0
        self._closed = False

    # -- running -----------------------------------------------------------------------------------------------------

    def run(self, done: Callable[[], bool], turns_max: int, until: float) -> bool:
        """Runs until ``done``, or until nothing can happen before the time ``until``.

        Args:
            done: Asked after each callback.
            turns_max: More callbacks than this are an endless loop.
            until: Virtual time to stop at.

        Returns:
            Whether ``done`` became true.

        Raises:
            AssertionError: ``turns_max`` callbacks ran.
            BaseException: The first failure.
        """
        before = asyncio.events._get_running_loop()
        asyncio.events._set_running_loop(self)
        last = self.turns + turns_max
        try:
            while self.failure is None and not done():
                if self._timers and self._timers[0][0] <= self._now:
                    self._ready.append(heapq.heappop(self._timers)[2])
                if not self._ready and not self._jump(until):
                    return False
                self._step(self._take())
                assert self.turns < last, f"{turns_max} callbacks and no end"
            if self.failure is not None:
                raise self.failure
            return True
        finally:
            asyncio.events._set_running_loop(before)

    def fail(self, host: Host, error: BaseException) -> None:
        """Notes the first failure that nobody in the simulation handles."""
        if self.failure is None:
            error.add_note(f"in {host.name}, at its turn {host.turns}, {self._now:.6f} s into the run")
            self.failure = error

    def _take(self) -> asyncio.Handle:
        ready = self._ready
        if not self._order.shuffled:
            return ready.pop(0)
        at = int(self._random() * len(ready))
        ready[at], ready[-1] = ready[-1], ready[at]
        return ready.pop()

    def _step(self, handle: asyncio.Handle) -> None:
        context = handle._context  # type: ignore[attr-defined]
        host = context.get(_host, self.world)
        if host.dead or handle._cancelled:
            return
        if host.frozen:
            host.parked.append(handle)
            return
        order = self._order
        if order.delay_rate and host is not self.world and self._random() < order.delay_rate:
            when = self._now + self._random() * order.delay_seconds
            heapq.heappush(self._timers, (when, next(self._serial), handle))
            return
        self.turns += 1
        host.turns += 1
        if host.turns == host.acts_at:
            host.act()
            if host.dead or host.frozen:
                host.parked.append(handle)
                return
        try:
            context.run(handle._callback, *handle._args)  # type: ignore[attr-defined]
        except Killed:
            assert host.dead
        except Exception as error:
            self.fail(host, error)

    def _jump(self, until: float) -> bool:
        """Moves time on to the next timer; False if there is none before ``until``."""
        timers = self._timers
        while timers and (timers[0][2]._cancelled or self._host_of(timers[0][2]).dead):
            heapq.heappop(timers)
        if not timers or timers[0][0] > until:
            self._now = max(self._now, until)
            return False
        if timers[0][0] > self._now:
            self.on_jump(timers[0][0] - self._now)
            self._now = timers[0][0]
        while timers and timers[0][0] <= self._now:
            self._ready.append(heapq.heappop(timers)[2])
        return True

    def _host_of(self, handle: asyncio.Handle) -> Host:
        return handle._context.get(_host, self.world)  # type: ignore[attr-defined, no-any-return]

    # -- hosts -------------------------------------------------------------------------------------------------------

    def spawn(self, host: Host, make: Callable[[], Coroutine[Any, Any, T]]) -> asyncio.Task[T]:
        """Starts the main task of a host."""
        return self.inside(host, lambda: self.create_task(make()))

    def inside(self, host: Host, call: Callable[[], T]) -> T:
        """Calls as if from inside a host."""
        context = contextvars.copy_context()
        context.run(_host.set, host)
        before = asyncio.events._get_running_loop()
        asyncio.events._set_running_loop(self)
        try:
            return context.run(call)
        finally:
            asyncio.events._set_running_loop(before)

    def current_host(self) -> Host:
        """The host whose callback runs."""
        return _host.get(self.world)

    def thaw(self, host: Host) -> None:
        """Lets a frozen host go on."""
        host.frozen = False
        self._ready += host.parked
        host.parked.clear()

    def bury(self, *hosts: Host) -> None:
        """Closes what dead hosts left, when nobody looks any more; nothing that it still does has an effect."""
        before = asyncio.events._get_running_loop()
        asyncio.events._set_running_loop(self)
        self._closed = True
        try:
            for host in hosts:
                assert host.dead, f"{host.name} lives"
                for task in host.tasks:
                    task._log_destroy_pending = False  # type: ignore[attr-defined]
                    if not task.done():
                        _close(task.get_coro())
                host.tasks.clear()
            self._ready.clear()
            self._timers.clear()
        finally:
            asyncio.events._set_running_loop(before)

    # -- what asyncio asks of a loop -----------------------------------------------------------------------------------

    def call_soon(self, callback: Any, *args: Any, context: contextvars.Context | None = None) -> asyncio.Handle:  # type: ignore[override]
        handle = asyncio.Handle(callback, args, self, context)
        if not self._closed:
            self._ready.append(handle)
        return handle

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Any, *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self._now + max(0.0, delay), callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Any, *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        if not self._closed:
            heapq.heappush(self._timers, (when, next(self._serial), handle))
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Cancelled timers are passed over when their time comes."""

    def time(self) -> float:
        return self._now

    def read_clock(self) -> float:
        """The time, for those who compute: it moves a little at each reading."""
        self._now += self._order.reading_seconds
        return self._now

    def block(self, seconds: float) -> None:
        """Moves time on."""
        self._now += seconds

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, *, name: str | None = None, context: Any = None) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=self, name=name or "task", context=context)
        _host.get(self.world).tasks.append(task)
        return task

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return not self._closed

    def is_closed(self) -> bool:
        return self._closed

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if not self._closed:
            self.fail(_host.get(self.world), context.get("exception") or AssertionError(str(context)))


class SimulatedClock:
    """The clock of a simulated host."""

    def __init__(self, loop: SimulatedLoop) -> None:
        self._loop = loop

    def now_ms(self) -> int:
        return START_MS + int(self._loop.read_clock() * 1000)

    def monotonic(self) -> float:
        return self._loop.read_clock()

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Cancellable:
        return self._loop.call_later(seconds, callback)

    def block(self, seconds: float) -> None:
        """Lets time pass while nobody else runs."""
        self._loop.block(seconds)


def _close(coroutine: Any) -> None:
    for _ in range(CLOSE_ATTEMPTS_MAX):
        try:
            coroutine.close()
        except RuntimeError:
            continue  # it waits again, in a finally block
        except BaseException:
            return
        return
