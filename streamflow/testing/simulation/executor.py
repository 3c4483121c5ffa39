"""The store's thread in simulation: functions run one after the other, each at one instant, some moments later."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from streamflow.state.executor import Connect, InlineExecutor

P = ParamSpec("P")
T = TypeVar("T")


class SimulatedThread(InlineExecutor):
    """Runs each function whole, between two callbacks of the loop, after a wait and before another one.

    GUARANTEE: as with the real thread, a function that was handed over runs even if its caller is cancelled, and
    other tasks run between the call, the function and the answer. Only the death of the host stops it.

    Args:
        latency: Gives the seconds of each wait.
    """

    def __init__(self, latency: Callable[[], float]) -> None:
        super().__init__()
        self._latency = latency
        self._queue: deque[tuple[Callable[[], Any], asyncio.Future[Any]]] = deque()

    @property
    def busy(self) -> bool:
        """Whether a function waits for its turn."""
        return bool(self._queue)

    async def start(self, connect: Connect) -> None:
        self._connection = await self._submit(connect)

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._submit(lambda: function(*args, **kwargs))  # type: ignore[no-any-return]

    async def _submit(self, work: Callable[[], Any]) -> Any:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        self._queue.append((work, future))
        loop.call_later(self._latency(), self._next)
        return await future

    def _next(self) -> None:
        work, future = self._queue.popleft()
        what: Any = None
        give: Callable[[Any], object] = future.set_result
        try:
            what = work()
        except Exception as error:
            give, what = future.set_exception, error
        asyncio.get_running_loop().call_later(self._latency(), lambda: future.done() or give(what))
