"""Workers: threads or processes in which blocking and computing functions run beside the event loop."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_context, parent_process  # for the pipes of a pool of our own, and nothing else
from multiprocessing.reduction import ForkingPickler
from types import TracebackType
from typing import Any, Final, Self

from streamflow.errors import DefinitionError

CLOSE_SECONDS: Final = 3.0
"""Calls that are under way when the flow stops have so long to end; then processes are killed, threads left alone."""

WARM_SECONDS: Final = 0.05
"""So long each worker process holds on to its first call, so that all of them are started by the first calls."""

_log = logging.getLogger("streamflow")


class Workers:
    """What threads and processes have in common: who is at work, and the end.

    GUARANTEE: when it is closed nobody is at work any more, or a line in the log says who is.
    BOUND: ``count`` workers; whoever calls bounds the calls that wait.

    Args:
        step: Name of the step that it works for.
        count: Number of workers.
    """

    def __init__(self, step: str, count: int) -> None:
        self.step = step
        self.count = count
        self._busy: set[Future[Any]] = set()
        self._pool: Executor

    async def __aenter__(self) -> Self:
        self._pool = await self._start(self.count)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._shut(self._pool)
        loop = asyncio.get_running_loop()
        until = loop.time() + CLOSE_SECONDS
        while self._busy and loop.time() < until:  # noqa: ASYNC110 - they end in other threads, which cannot wake anyone
            await asyncio.sleep(0.01)
        self._end()

    async def _start(self, count: int) -> Executor:
        raise NotImplementedError

    async def _shut(self, pool: Executor) -> None:
        pool.shutdown(wait=False, cancel_futures=True)

    def _end(self) -> None:
        raise NotImplementedError

    async def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Calls a function in a worker; raises what it raises."""
        return await self._in(self._pool, function, arguments)

    async def _in(self, pool: Executor, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        return await asyncio.wrap_future(self._submit(pool, function, arguments))

    def _submit(self, pool: Executor, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Future[Any]:
        future = pool.submit(_called, function, arguments)
        self._busy.add(future)
        future.add_done_callback(self._busy.discard)
        return future


class Threads(Workers):
    """Threads for functions that block: files, databases, clients without asyncio.

    A call that is over its deadline goes on in its thread, which is not free before it ends: no thread can be stopped.
    """

    async def _start(self, count: int) -> Executor:
        return ThreadPoolExecutor(count, thread_name_prefix=f"streamflow {self.step}")

    def _end(self) -> None:
        if self._busy:
            _log.warning("%d calls of step %s go on in their threads behind the stop", len(self._busy), self.step)


class Processes(Workers):
    """Processes for functions that compute.

    GUARANTEE: a record that kills its process is told from those that were under way beside it: these are called again.
    The processes end with this one, however it ends.
    """

    def __init__(self, step: str, count: int) -> None:
        super().__init__(step, count)
        self._mending = asyncio.Lock()
        # whatever is done to a pool writes to a pipe, or starts processes
        self._hands = ThreadPoolExecutor(1, thread_name_prefix=f"streamflow {step}")

    async def _start(self, count: int) -> Executor:
        return await self._by_hand(_new_pool, count)  # type: ignore[no-any-return]

    async def _shut(self, pool: Executor) -> None:
        await self._by_hand(partial(pool.shutdown, wait=False, cancel_futures=True))

    async def _by_hand(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._hands, function, *arguments)

    async def _in(self, pool: Executor, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        return await asyncio.wrap_future(await self._by_hand(self._submit, pool, function, arguments))

    def _end(self) -> None:
        if self._busy and isinstance(self._pool, ProcessPoolExecutor):
            for process in list((self._pool._processes or {}).values()):
                process.kill()
        self._hands.shutdown(wait=False)

    async def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Calls a function in a worker.

        Raises:
            TypeError: The arguments, or what the function gives, cannot be sent from process to process.
            ChildProcessError: The process died of it.
        """
        pool = self._pool
        try:
            return await self._in(pool, function, arguments)
        except BrokenProcessPool:
            return await self._alone(pool, function, arguments)
        except Exception as error:
            unsent = _unsent(error, arguments)
            if unsent is None:
                raise
        # not from the error: its traceback holds on to the pool's semaphores, which may then be freed on the loop
        raise TypeError(unsent)

    async def _alone(self, broken: Executor, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        """Calls again what was under way when a process died: in a process of its own, so that it is known of whom."""
        async with self._mending:
            if self._pool is broken:
                _log.warning("a worker process of step %s died; its calls are made again one by one", self.step)
                self._pool = await self._start(self.count)
            own = await self._start(1)
            try:
                return await self._in(own, function, arguments)
            except BrokenProcessPool:
                raise ChildProcessError(f"the worker process died of {arguments[-1]!r:.80}") from None
            finally:
                await self._shut(own)


def check_importable(step: str, function: Callable[..., Any]) -> None:
    """Refuses a function that another process cannot find.

    Raises:
        DefinitionError: It is not at the top of a module under its own name.
    """
    inner: Any = function
    while isinstance(inner, partial):
        inner = inner.func
    found: Any = sys.modules.get(getattr(inner, "__module__", "") or "")
    for name in getattr(inner, "__qualname__", "<none>").split("."):
        found = getattr(found, name, None)
    if found is not inner:
        raise DefinitionError(
            f"the function of map_process step {step!r} cannot be found by another process",
            hint="Write it with def at the top of a module, and pass it by its name; map_process is no decorator.",
        )


def _unsent(error: Exception, arguments: tuple[Any, ...]) -> str | None:
    """Says which way a value could not go, where that was it."""
    if "pickle" not in str(error) and "Pickl" not in type(error).__name__:
        return None
    try:
        ForkingPickler.dumps(arguments)
    except Exception as reason:
        return f"the record {arguments[-1]!r:.80} cannot be sent to another process: {reason}"
    return f"what the function gave for {arguments[-1]!r:.80} cannot be sent back from its process: {error}"


def _new_pool(count: int) -> ProcessPoolExecutor:
    """A pool that has started all its processes; blocks."""
    pool = ProcessPoolExecutor(count, get_context("spawn"), _begin, (os.getpid(),))
    for future in [pool.submit(_hold) for _ in range(count)]:
        future.result()
    return pool


# -- in the workers ------------------------------------------------------------------------------


def _called(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    try:
        return function(*arguments)
    except StopIteration as error:
        raise RuntimeError(f"the function raised {error!r}") from error  # no future can hold it


def _begin(owner: int) -> None:
    """Begins a worker process: it leaves signals of the terminal to its owner, and ends with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    assert parent is not None and parent.pid == owner

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _hold() -> None:
    threading.Event().wait(WARM_SECONDS)
