"""Calls: users' async functions under way, each with its first step taken at once, its attempts, its time limits.

Most awaits of a warm cache or a filled buffer do not wait at all, and a task costs more than all the rest of a record.
So the first step of a call runs where it is begun, as the task that would go on with it: time-outs and task groups
that it enters hold on to that task. Only a call that really waits is handed over to the task, which then goes on with
the step's next calls, one after the other.
"""

from __future__ import annotations

import asyncio
import contextvars
from asyncio.tasks import _enter_task, _leave_task  # documented for those who run tasks themselves
from collections.abc import Awaitable, Callable, Coroutine
from math import inf
from typing import Any, Final

from streamflow.clock import Cancellable, Clock, sleep
from streamflow.errors import StepTimeout
from streamflow.operators.going import Going, Watched
from streamflow.policy import CallLimits, Retry

CLOSE_SECONDS: Final = 3.0
"""Calls that are cancelled when the step ends have so long to clean up; the loop's owner hears of what remains."""

TIME_OVER: Final = "the time limit of the step is over"
"""Why a call is cancelled whose time is over: what it waits for has failed, unlike where it is not wanted any more."""


class Call:
    """One call: of a record, or of several for a batch function.

    Args:
        arguments: What the function gets.
        place: What the operator knows it by.
    """

    __slots__ = ("arguments", "attempt_at", "begun_at", "done", "error", "failures", "late", "place", "task", "value")

    def __init__(self, arguments: tuple[Any, ...], place: Any) -> None:
        self.arguments = arguments
        self.place = place
        self.done = False
        self.value: Any = None
        self.error: Exception | None = None
        self.failures = 0
        self.late = False
        self.begun_at = self.attempt_at = 0.0
        self.task: asyncio.Task[None] | None = None


class Calls:
    """The calls of one step.

    GUARANTEE: every call that was begun is ended once, at the latest when its deadline is over, whatever its function
    does then; a function that does not heed its cancellation goes on without a hearing.
    BOUND: ``limits.concurrency`` calls under way.

    Args:
        step: Name of the step.
        function: Makes the awaitable of a call.
        limits: Its bounds.
        retry: The policy of failed attempts, if it has one.
        clock: The time.
        ended: Told of each call that is done.
    """

    def __init__(
        self,
        step: str,
        function: Callable[..., Any],
        limits: CallLimits,
        retry: Retry | None,
        clock: Clock,
        ended: Callable[[Call], None],
    ) -> None:
        self.running = 0
        self.watched: Watched = _Unwatched()
        self.more: Callable[[], Call | None] = lambda: None
        self.told: Callable[[], None] = lambda: None
        self._step = step
        self._function = function
        self._limits = limits
        self._retry = retry
        self._clock = clock
        self._ended = ended
        self._context = contextvars.copy_context()
        # dicts for their order: a simulated run must be the same each time
        self._workers: dict[asyncio.Task[None], _Worker] = {}
        self._idle: dict[_Worker, None] = {}
        self._waiting: dict[Call, None] = {}
        self._attempts: dict[Call, None] = {}
        self._alarm: Cancellable | None = None
        self._alarm_at = inf
        self._closing = False
        self.broken: BaseException | None = None

    def begin(self, calls: list[Call]) -> None:
        """Begins calls: runs each up to where it first waits. No more than there is room for."""
        loop, current = asyncio.get_running_loop(), asyncio.current_task()
        assert current is not None
        _leave_task(loop, current)
        try:
            for call in calls:
                worker = self._idle_worker(loop)
                _enter_task(loop, worker.task)
                try:
                    if self._first_step(call, worker):
                        del self._idle[worker]
                        worker.given.set_result(None)
                finally:
                    _leave_task(loop, worker.task)
        finally:
            _enter_task(loop, current)

    def _idle_worker(self, loop: asyncio.AbstractEventLoop) -> _Worker:
        """The worker that waits for a call and was the last to have one, or a new one."""
        while self._idle:
            worker = next(reversed(self._idle))
            if not worker.task.cancelling():
                return worker
            del self._idle[worker]
        worker = _Worker(loop.create_future())
        worker.task = loop.create_task(self._work(worker), name=f"calls of {self._step}", context=self._context.copy())
        worker.task.add_done_callback(self._gone)
        self._workers[worker.task] = worker
        self._idle[worker] = None
        return worker

    def _first_step(self, call: Call, worker: _Worker) -> bool:
        """Begins a call, as the worker's task; whether the worker is to see it through."""
        self.running += 1
        assert self.running <= self._limits.concurrency, f"{self._step}: more calls than may be"
        error: Exception | None = None
        going: Going | None = None
        context = self._context.copy()
        try:
            coroutine = self._coroutine(call)
            going = Going(coroutine, context, context.run(coroutine.send, None), self._clock, self.watched)
        except StopIteration as end:
            call.done, call.value = True, end.value
            self.running -= 1
            self._ended(call)
            return False
        except asyncio.CancelledError:
            error = _cancelled_inside()
        except Exception as caught:
            error = caught
        if error is not None and not self._may_fail_again(call, error):
            self._end(call, None, error)
            return False
        call.begun_at = call.attempt_at = self._clock.monotonic()
        call.task = worker.task
        self._waiting[call] = None
        self._limit(call, attempt=going is not None)
        worker.call, worker.going, worker.error = call, going, error
        return True

    def _coroutine(self, call: Call) -> Coroutine[Any, Any, Any]:
        made = self._function(*call.arguments)
        if asyncio.iscoroutine(made):
            return made
        if not isinstance(made, Awaitable):
            raise TypeError(f"the function of async step {self._step!r} returned {made!r:.60}, which cannot be awaited")
        return _awaited(made)

    # -- after the first wait ---------------------------------------------------------------------

    async def _work(self, worker: _Worker) -> None:
        """Sees calls through that did not end at their first step, one after the other."""
        interrupted = False
        while True:
            try:
                await worker.given
            except asyncio.CancelledError:
                if worker.call is None:
                    raise
                interrupted = True  # a time limit that the call set itself, and that was over at once
            await self._see_through(worker, interrupted)
            while self._goes_on_with_another(worker):
                await self._see_through(worker, False)
            if worker.task.cancelling():
                return  # what was cancelled, by its call or for its time limit, is no place for others
            worker.call, worker.given, interrupted = None, asyncio.get_running_loop().create_future(), False
            self._idle[worker] = None

    def _goes_on_with_another(self, worker: _Worker) -> bool:
        """Begins the next call in the place of the one that has ended: a task of its own would cost more than a call.

        If that ends at once, the step's own loop goes on, which looks at the time.
        """
        if self._closing or worker.task.cancelling():
            return False
        call = self.more()
        if call is None:
            return False
        self.watched.entered = self._clock.monotonic()
        try:
            return self._first_step(call, worker)
        finally:
            self.watched.entered = 0.0

    async def _see_through(self, worker: _Worker, interrupted: bool) -> None:
        call, going, error = worker.call, worker.going, worker.error
        assert call is not None
        if going is not None:
            going.interrupted = interrupted
        counted = error is not None
        while True:
            value = None
            if going is not None:
                try:
                    value = await going
                    error = None
                except asyncio.CancelledError:
                    if call.done or self._closing:
                        raise
                    error = self._too_late() if call.late else _cancelled_inside()
                except Exception as caught:
                    error = caught
            if call.done:
                return
            self._attempts.pop(call, None)
            if error is None or not (counted or self._may_fail_again(call, error)):
                self._end(call, value, error)
                return
            counted = False
            going, error = await self._next_attempt(call)

    async def _next_attempt(self, call: Call) -> tuple[Going | None, Exception | None]:
        assert self._retry is not None
        wait = self._retry.wait_after(call.failures, call.error or Exception())
        if wait:
            await sleep(self._clock, wait)
        task = asyncio.current_task()
        while task is not None and task.cancelling():
            task.uncancel()  # the last attempt ended otherwise than by the cancellation for its time limit
        call.late = False
        call.attempt_at = self._clock.monotonic()
        self._limit(call, attempt=True)
        try:
            coroutine = self._coroutine(call)
            return Going(coroutine, self._context.copy(), None, self._clock, self.watched, begun=False), None
        except Exception as caught:
            return None, caught

    def _may_fail_again(self, call: Call, error: Exception) -> bool:
        """Counts a failed attempt; whether there is another one."""
        call.failures += 1
        call.error = error
        return self._retry is not None and self._retry.wait_after(call.failures, error) is not None

    def _too_late(self) -> StepTimeout:
        """The error of an attempt that was cancelled for its time limit."""
        return StepTimeout(
            f"an attempt of step {self._step!r} took longer than its timeout of {self._limits.timeout_seconds:g} s",
            step=self._step,
            hint="Raise timeout=, or say with on_error= what becomes of such records.",
        )

    def _end(self, call: Call, value: Any, error: Exception | None) -> None:
        if call.done:
            return
        call.done, call.value, call.error = True, value, error
        self.running -= 1
        self._waiting.pop(call, None)
        self._attempts.pop(call, None)
        if not self._waiting:
            self._silence()
        self._ended(call)

    def _gone(self, task: asyncio.Task[None]) -> None:
        """A task has ended: of itself, at the close, or cancelled before it could take over its call."""
        worker = self._workers.pop(task)
        self._idle.pop(worker, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.broken = error
            self.told()
        if worker.call is not None and not worker.call.done and not self._closing:
            self._end(worker.call, None, _cancelled_inside())

    # -- time limits ------------------------------------------------------------------------------

    def _limit(self, call: Call, *, attempt: bool) -> None:
        """Sees to it that a call, and its attempt, are looked at when their time is over."""
        if attempt and self._limits.timeout_seconds is not None:
            self._attempts[call] = None
            first = call.attempt_at + self._limits.timeout_seconds
        else:
            first = call.begun_at + self._limits.deadline_seconds
        if first < self._alarm_at:
            self._set_alarm(call.attempt_at)

    def _set_alarm(self, now: float) -> None:
        """One alarm for all: limits are the same for every call, so the oldest call's is over first."""
        self._silence()
        due = []
        if self._waiting:
            due.append(next(iter(self._waiting)).begun_at + self._limits.deadline_seconds)
        if self._attempts and self._limits.timeout_seconds is not None:
            due.append(next(iter(self._attempts)).attempt_at + self._limits.timeout_seconds)
        if due:
            self._alarm_at = min(due)
            self._alarm = self._clock.call_later(max(0.0, self._alarm_at - now), self._look)

    def _silence(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm, self._alarm_at = None, inf

    def _look(self) -> None:
        """Ends what is over its deadline, and cancels attempts over their time limit."""
        self._silence()
        now = self._clock.monotonic()
        for call in list(self._waiting):
            if call.begun_at + self._limits.deadline_seconds > now:
                break
            assert call.task is not None
            call.task.cancel(TIME_OVER)
            self._end(call, None, self._over(call))
        for call in list(self._attempts):
            assert self._limits.timeout_seconds is not None
            if call.attempt_at + self._limits.timeout_seconds > now:
                break
            del self._attempts[call]
            call.late = True
            assert call.task is not None
            call.task.cancel(TIME_OVER)
        self._set_alarm(now)

    def _over(self, call: Call) -> StepTimeout:
        said = f"; its last error: {type(call.error).__name__}: {call.error}" if call.error is not None else ""
        tries = f" with {call.failures + 1} attempts" if call.failures else ""
        return StepTimeout(
            f"a call of step {self._step!r} took longer than its deadline of {self._limits.deadline_seconds:g} s"
            f"{tries}{said}",
            step=self._step,
            hint="Raise deadline=, give attempts a shorter timeout=, or say by on_error= what becomes of such records.",
        )

    async def close(self) -> None:
        """Cancels what is under way and waits until it has cleaned up, within `CLOSE_SECONDS`."""
        self._closing = True
        self._silence()
        tasks = list(self._workers)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=CLOSE_SECONDS)


class _Worker:
    """A task that sees calls through, or waits for one."""

    __slots__ = ("call", "error", "given", "going", "task")

    def __init__(self, given: asyncio.Future[None]) -> None:
        self.given = given
        self.task: asyncio.Task[None]
        self.call: Call | None = None
        self.going: Going | None = None
        self.error: Exception | None = None


class _Unwatched:
    """Nobody wants to know when users' code has the event loop."""

    entered = 0.0


async def _awaited(made: Awaitable[Any]) -> Any:
    return await made


def _cancelled_inside() -> RuntimeError:
    return RuntimeError("the call was cancelled, by itself or by what it waited for")
