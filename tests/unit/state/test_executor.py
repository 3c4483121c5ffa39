"""The executors, and a pin on what aiosqlite does behind the one method that the store rides on."""

from __future__ import annotations

import asyncio
import inspect
import sqlite3
import threading
import time

import aiosqlite
import pytest

from streamflow.errors import StateError
from streamflow.state.executor import Executor, InlineExecutor, StoreConnection, ThreadExecutor


def memory() -> sqlite3.Connection:
    return sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)


@pytest.fixture(params=[InlineExecutor, ThreadExecutor])
async def executor(request):
    executor: Executor = request.param()
    await executor.start(memory)
    yield executor
    await executor.stop()


async def test_functions_run_one_after_the_other_in_the_order_of_the_calls(executor):
    order: list[int] = []
    await asyncio.gather(*(executor.run(order.append, n) for n in range(20)))
    assert order == list(range(20))


async def test_errors_reach_the_caller(executor):
    with pytest.raises(ZeroDivisionError):
        await executor.run(lambda: 1 // 0)
    assert await executor.run(lambda a, *, b: a + b, 1, b=2) == 3


async def test_reads_use_a_second_connection(executor):
    made: list[sqlite3.Connection] = []

    def connect() -> sqlite3.Connection:
        made.append(memory())
        return made[-1]

    assert await executor.read(connect, "SELECT ?", (1,)) == [(1,)]
    assert await executor.read(connect, "SELECT :x", {"x": 2}) == [(2,)]
    assert len(made) == 1


async def test_a_cancelled_caller_does_not_cut_a_function_off():
    executor = ThreadExecutor()
    await executor.start(memory)
    done: list[str] = []

    def work() -> None:
        time.sleep(0.05)
        done.append("whole")

    task = asyncio.create_task(executor.run(work))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await executor.run(lambda: None)
    assert done == ["whole"]
    await executor.stop()


async def test_abandon_runs_the_last_function_and_ends_the_thread():
    executor = ThreadExecutor()
    connection: list[sqlite3.Connection] = []

    def connect() -> sqlite3.Connection:
        connection.append(memory())
        return connection[0]

    await executor.start(connect)
    await executor.read(memory, "SELECT 1", ())
    seen: list[int] = []
    started = threading.Event()

    def endless() -> None:
        started.set()
        connection[0].execute("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n")

    task = asyncio.create_task(executor.run(endless))
    while not started.is_set():
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.01)
    executor.abandon(lambda: seen.append(threading.get_ident()))
    with pytest.raises(sqlite3.OperationalError, match="interrupted"):
        await task
    while not seen:
        await asyncio.sleep(0.001)
    assert seen != [threading.get_ident()]
    connection[0].close()


# -- the pin: if one of these fails, an aiosqlite upgrade changed what StoreConnection relies on --


async def test_aiosqlite_runs_a_whole_function_on_one_thread_of_its_own():
    connection = StoreConnection(memory)
    await connection
    threads = {await connection.run(threading.get_ident) for _ in range(5)}
    assert len(threads) == 1
    assert threading.get_ident() not in threads
    assert threads == {connection._thread.ident}
    assert connection._thread.daemon, "a process that forgets to close would hang"
    assert isinstance(connection._connection, sqlite3.Connection)
    await connection.close()
    assert not connection._running
    with pytest.raises(StateError, match="closed"):
        await connection.run(lambda: None)


async def test_aiosqlite_still_has_the_names_that_the_store_uses():
    connection = StoreConnection(memory)
    await connection
    assert connection._running is True
    ran: list[str] = []
    connection._tx.put_nowait((None, lambda: ran.append("without a future")))
    await connection.run(lambda: None)
    assert ran == ["without a future"]
    assert "self" in inspect.signature(aiosqlite.Connection.stop).parameters
    await connection.close()


async def test_a_function_that_waits_does_not_hold_up_the_loop():
    connection = StoreConnection(memory)
    await connection
    task = asyncio.create_task(connection.run(time.sleep, 0.2))
    started = time.perf_counter()
    for _ in range(10):
        await asyncio.sleep(0.001)
    assert time.perf_counter() - started < 0.15
    await task
    await connection.close()


def test_a_loop_that_is_gone_does_not_kill_the_thread():
    connection = StoreConnection(memory)
    ran: list[str] = []

    async def leave() -> None:
        await connection
        task = asyncio.ensure_future(connection.run(time.sleep, 0.05))
        await asyncio.sleep(0.01)
        task.cancel()

    asyncio.run(leave())
    connection.drop(lambda: ran.append("last"))
    connection._thread.join(5)
    assert ran == ["last"]
    assert not connection._thread.is_alive()
