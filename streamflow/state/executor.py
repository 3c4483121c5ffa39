"""Where the store's functions run: one aiosqlite thread in production, inline under test."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, ParamSpec, Protocol, TypeVar

import aiosqlite

from streamflow.errors import StateError

P = ParamSpec("P")
T = TypeVar("T")

Connect = Callable[[], sqlite3.Connection]
Row = tuple[Any, ...]
Parameters = Sequence[Any] | Mapping[str, Any]


class Executor(Protocol):
    """Runs whole functions one after the other, each to its end.

    GUARANTEE: a function that was started is never cut off by the cancellation of the caller; only `abandon`
    interrupts it.
    """

    async def start(self, connect: Connect) -> None:
        """Begins; ``connect`` runs where all later functions run and gives the connection that `stop` closes."""
        ...

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs one function."""
        ...

    async def read(self, connect: Connect, sql: str, parameters: Parameters) -> list[Row]:
        """Runs one query on a second connection, which the first call makes with ``connect``."""
        ...

    async def stop(self) -> None:
        """Closes the connections, the writable one last, and ends."""
        ...

    def abandon(self, last: Callable[[], object]) -> None:
        """Interrupts what runs, then runs ``last`` in place of `stop`; does not wait for it."""
        ...


class InlineExecutor:
    """Runs functions at once in the caller's thread: for tests and simulation."""

    def __init__(self) -> None:
        self._connection: sqlite3.Connection | None = None
        self._reader: sqlite3.Connection | None = None

    async def start(self, connect: Connect) -> None:
        """Connects."""
        self._connection = connect()

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Calls the function."""
        return function(*args, **kwargs)

    async def read(self, connect: Connect, sql: str, parameters: Parameters) -> list[Row]:
        """Queries."""
        if self._reader is None:
            self._reader = connect()
        return self._reader.execute(sql, parameters).fetchall()

    async def stop(self) -> None:
        """Closes both connections."""
        reader, self._reader = self._reader, None
        connection, self._connection = self._connection, None
        if reader is not None:
            reader.close()
        if connection is not None:
            connection.close()

    def abandon(self, last: Callable[[], object]) -> None:
        """Calls ``last``."""
        reader, self._reader = self._reader, None
        self._connection = None
        last()
        if reader is not None:
            reader.close()


class StoreConnection(aiosqlite.Connection):
    """An aiosqlite connection that runs one whole function of ours per call on its thread.

    It leans on four private names of aiosqlite (``_tx``, ``_thread``, ``_connection``, ``_running``);
    ``tests/unit/state/test_executor.py`` pins what they do.
    """

    def __init__(self, connect: Connect) -> None:
        super().__init__(connect, iter_chunk_size=64)
        # a process that dies without closing must not hang on this thread; the file is as after a kill
        self._thread.daemon = True

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs one function on the thread.

        This is aiosqlite's ``_execute``, except that a loop which was closed meanwhile does not kill the thread.
        """
        if not self._running or self._connection is None:
            raise StateError("the state file is closed", hint="Open the store first.")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def deliver(give: Callable[[Any], object], what: object) -> None:
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(lambda: future.done() or give(what))

        def call() -> None:
            try:
                result = function(*args, **kwargs)
            except BaseException as error:  # whatever it is belongs to the caller
                deliver(future.set_exception, error)
            else:
                deliver(future.set_result, result)

        self._tx.put_nowait((None, call))
        return await future

    def stop(self) -> asyncio.Future[Any] | None:
        """Ends the thread; the future tells when, unless there is no connection to close."""
        if self._connection is not None:
            return super().stop()
        # aiosqlite itself calls this when connecting failed, and waits for nothing: called on the loop it would make
        # a future that the thread cannot resolve once that loop is closed, and prints a traceback instead
        self._running = False
        self._tx.put_nowait((None, super().stop))
        return None

    def drop(self, last: Callable[[], object]) -> None:
        """Interrupts the function that runs, then runs ``last`` instead of closing, and ends the thread."""

        def forget() -> None:
            with suppress(sqlite3.Error, OSError):
                last()
            self._connection = None
            # on this thread, where no loop runs, it makes no future that nobody would wait for
            self.stop()

        self._running = False
        if self._connection is not None:
            self._connection.interrupt()
        self._tx.put_nowait((None, forget))


class ThreadExecutor:
    """Runs functions on the thread of ONE aiosqlite connection, and queries on that of a second one."""

    def __init__(self) -> None:
        self._connection: StoreConnection | None = None
        self._reader: StoreConnection | None = None

    async def start(self, connect: Connect) -> None:
        """Starts the thread and connects on it.

        A caller that is cancelled gets away only when ``connect`` has ended: what it takes, a lock for one, can be
        given back only then.
        """
        self._connection = StoreConnection(connect)
        connecting = asyncio.ensure_future(self._connection)
        try:
            await asyncio.shield(connecting)
        except asyncio.CancelledError:
            while not connecting.done():
                with suppress(asyncio.CancelledError):
                    await asyncio.wait([connecting])
            connecting.exception()
            raise

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs one function on the thread: two thread switches whatever it does."""
        assert self._connection is not None, "run before start or after stop"
        return await self._connection.run(function, *args, **kwargs)

    async def read(self, connect: Connect, sql: str, parameters: Parameters) -> list[Row]:
        """Queries on the reader's own thread."""
        if self._reader is None:
            reader = StoreConnection(connect)
            await reader
            self._reader = reader
        rows = await self._reader.execute_fetchall(sql, parameters)
        return [tuple(row) for row in rows]

    async def stop(self) -> None:
        """Closes both connections, each on its thread."""
        reader, self._reader = self._reader, None
        connection, self._connection = self._connection, None
        if reader is not None:
            await reader.close()
        if connection is not None:
            await connection.close()

    def abandon(self, last: Callable[[], object]) -> None:
        """Hands ``last`` to the thread and lets go of it."""
        reader, self._reader = self._reader, None
        connection, self._connection = self._connection, None
        if connection is None:
            last()
        else:
            connection.drop(last)
        if reader is not None and reader._connection is not None:
            reader.drop(reader._connection.close)
