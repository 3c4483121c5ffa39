"""Calls: users' async functions under way, each with its first step taken at once, its attempts, its time limits.

Most awaits of a warm cache or a filled buffer do not wait at all, and a task costs more than all the rest of a record.
So the first step of a call runs where it is begun, as the task that would go on with it: time-outs and task groups
that it enters hold on to that task. Only a call that really waits is handed over to the task.
"""

from __future__ import annotations

import asyncio
import contextvars
from asyncio.tasks import _enter_task, _leave_task  # documented for those who run tasks themselves
from collections.abc import Awaitable, Callable, Coroutine, Generator
from math import inf
from typing import Any, Final

from streamflow.clock import Cancellable, Clock, sleep
from streamflow.errors import StepTimeout
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
        self.entered: Callable[[float], None] = lambda since: None
        self._step = step
        self._function = function
        self._limits = limits
        self._retry = retry
        self._clock = clock
        self._ended = ended
        self._spare: _Spare | None = None
        self._tasks: dict[asyncio.Task[None], _Spare] = {}  # in order: a simulated run must be the same each time
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
        assert self.running + len(calls) <= self._limits.concurrency, f"{self._step}: more calls than may be"
        self.running += len(calls)
        _leave_task(loop, current)
        try:
            for call in calls:
                spare = self._spare or self._new_spare(loop)
                _enter_task(loop, spare.task)
                try:
                    self._first_step(call, spare)
                finally:
                    _leave_task(loop, spare.task)
        finally:
            _enter_task(loop, current)

    def _first_step(self, call: Call, spare: _Spare) -> None:
        error: Exception | None = None
        going: _Going | None = None
        try:
            coroutine = self._coroutine(call)
            going = _Going(coroutine, spare.context.run(coroutine.send, None), self)
        except StopIteration as end:
            call.done, call.value = True, end.value
            self.running -= 1
            self._ended(call)
            return
        except asyncio.CancelledError:
            error = _cancelled_inside()
        except Exception as caught:
            error = caught
        if error is not None and not self._may_fail_again(call, error):
            self._end(call, None, error)
            return
        call.begun_at = call.attempt_at = self._clock.monotonic()
        call.task = spare.task
        self._spare = None
        self._waiting[call] = None
        self._limit(call, attempt=going is not None)
        spare.call, spare.going, spare.error = call, going, error
        spare.given.set_result(None)

    def _coroutine(self, call: Call) -> Coroutine[Any, Any, Any]:
        made = self._function(*call.arguments)
        if asyncio.iscoroutine(made):
            return made
        if not isinstance(made, Awaitable):
            raise TypeError(f"the function of async step {self._step!r} returned {made!r:.60}, which cannot be awaited")
        return _awaited(made)

    def _new_spare(self, loop: asyncio.AbstractEventLoop) -> _Spare:
        spare = self._spare = _Spare(loop.create_future(), contextvars.copy_context())
        spare.task = loop.create_task(self._go_on(spare), context=spare.context)
        self._tasks[spare.task] = spare
        spare.task.add_done_callback(self._gone)
        spare.task.set_name(f"call of {self._step}")
        return spare

    # -- after the first wait ---------------------------------------------------------------------

    async def _go_on(self, spare: _Spare) -> None:
        """Sees a call through that did not end at its first step."""
        interrupted = False
        try:
            await spare.given
        except asyncio.CancelledError:
            if spare.call is None:
                raise
            interrupted = True  # a time limit that the call set itself, and that was over at once
        call, going, error = spare.call, spare.going, spare.error
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

    async def _next_attempt(self, call: Call) -> tuple[_Going | None, Exception | None]:
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
            return _Going(self._coroutine(call), None, self, begun=False), None
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
        spare = self._tasks.pop(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.broken = error
        if spare.call is not None and not spare.call.done and not self._closing:
            self._end(spare.call, None, _cancelled_inside())

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
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=CLOSE_SECONDS)


class _Spare:
    """A task that waits for a call to go on with, and the context in which it runs."""

    __slots__ = ("call", "context", "error", "given", "going", "task")

    def __init__(self, given: asyncio.Future[None], context: contextvars.Context) -> None:
        self.given = given
        self.context = context
        self.task: asyncio.Task[None]
        self.call: Call | None = None
        self.going: _Going | None = None
        self.error: Exception | None = None


class _Going:
    """Goes on with a coroutine in another place than where its first step was taken.

    Args:
        coroutine: What was begun, or not yet.
        waits_for: What its first step waits for; None if it has taken none, or waits for its next turn.
        calls: Told when the users' code has the event loop.
    """

    __slots__ = ("_begun", "_calls", "_coroutine", "_waits_for", "interrupted")

    def __init__(self, coroutine: Coroutine[Any, Any, Any], waits_for: Any, calls: Calls, begun: bool = True) -> None:
        self._coroutine = coroutine
        self._waits_for = waits_for
        self._calls = calls
        self._begun = begun
        self.interrupted = False

    def __await__(self) -> Generator[Any, Any, Any]:
        send, throw = self._coroutine.send, self._coroutine.throw
        calls = self._calls
        error: BaseException | None = asyncio.CancelledError() if self.interrupted else None
        waits = self._begun and error is None
        while True:
            sent = None
            if waits:
                try:
                    sent = yield self._waits_for
                except GeneratorExit:
                    self._coroutine.close()
                    raise
                except BaseException as thrown:
                    error = thrown
            calls.entered(calls._clock.monotonic())
            try:
                self._waits_for = send(sent) if error is None else throw(error)
            except StopIteration as end:
                return end.value
            finally:
                calls.entered(0.0)
            error, waits = None, True


async def _awaited(made: Awaitable[Any]) -> Any:
    return await made


def _cancelled_inside() -> RuntimeError:
    return RuntimeError("the call was cancelled, by itself or by what it waited for")
