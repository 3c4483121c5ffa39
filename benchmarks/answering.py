"""Calls that take 5 ms: by the kernel's timer, by a service in another process, by the event loop's own timers.

The first two take the time they say. The kernel's timer (timerfd) counts in nanoseconds and needs no other process. The
service is what users have: it answers each request 5 ms after it has come, and waits with `select`, which counts in
microseconds; requests and answers are numbers of four bytes on one connection, each sent at once. It needs a processor
of its own. An event loop's timers are no measure: asyncio's wake at whole milliseconds, so ``asyncio.sleep(0.005)``
takes longer, and uvloop's count in whole milliseconds from the last turn of the loop, so theirs may be over too soon.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import select
import socket
import struct
import sys
import time
from abc import ABC, abstractmethod
from collections import deque
from contextlib import AbstractAsyncContextManager
from types import TracebackType

CALL_SECONDS = 0.005
TFD_TIMER_ABSTIME = 1


class Calls(AbstractAsyncContextManager["Calls"], ABC):
    """Calls of one kind, and how long they took for who made them."""

    def __init__(self) -> None:
        self.answered = 0
        self.seconds = 0.0

    async def ask(self, value: int) -> int:
        """One call."""
        asked = time.perf_counter()
        await self._answer(value)
        self.answered += 1
        self.seconds += time.perf_counter() - asked
        return value

    @abstractmethod
    async def _answer(self, value: int) -> None: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Sleeps(Calls):
    """The timers of the event loop."""

    async def _answer(self, value: int) -> None:
        await asyncio.sleep(CALL_SECONDS)


class KernelTimer(Calls):
    """Each call is answered when the kernel says that its time is over; one timer stands at the oldest. Linux only."""

    async def __aenter__(self) -> KernelTimer:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._timer = self._libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK)
        self._waiting: deque[tuple[float, asyncio.Future[None]]] = deque()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._timer, self._fire)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.remove_reader(self._timer)
        os.close(self._timer)

    async def _answer(self, value: int) -> None:
        answer = self._loop.create_future()
        self._waiting.append((time.monotonic() + CALL_SECONDS, answer))
        if len(self._waiting) == 1:
            self._set()
        await answer

    def _set(self) -> None:
        seconds, nanoseconds = divmod(round(self._waiting[0][0] * 1e9), 1_000_000_000)
        at = (ctypes.c_long * 4)(0, 0, seconds, nanoseconds)  # no interval, then the first time
        self._libc.timerfd_settime(self._timer, TFD_TIMER_ABSTIME, at, None)

    def _fire(self) -> None:
        os.read(self._timer, 8)
        now = time.monotonic()
        while self._waiting and self._waiting[0][0] <= now:
            self._waiting.popleft()[1].set_result(None)
        if self._waiting:
            self._set()


class Service(Calls, asyncio.Protocol):
    """A service in a process of its own; ``served_seconds`` is what its answers took there, on average."""

    served_seconds = 0.0

    async def __aenter__(self) -> Service:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "benchmarks.answering", stdout=asyncio.subprocess.PIPE
        )
        assert self._process.stdout is not None
        self._loop = asyncio.get_running_loop()
        self._open: dict[int, asyncio.Future[None]] = {}
        self._rest = b""
        port = int(await self._process.stdout.readline())
        self._transport, _ = await self._loop.create_connection(lambda: self, "127.0.0.1", port)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._transport.close()
        assert self._process.stdout is not None
        self.served_seconds = float(await self._process.stdout.read())
        await self._process.wait()

    async def _answer(self, value: int) -> None:
        answer = self._open[value] = self._loop.create_future()
        self._transport.write(value.to_bytes(4, sys.byteorder))
        await answer

    def data_received(self, data: bytes) -> None:
        """Takes answers in."""
        data = self._rest + data
        whole = len(data) & ~3
        self._rest = data[whole:]
        for (value,) in struct.iter_unpack("=I", data[:whole]):
            self._open.pop(value).set_result(None)


def serve() -> None:
    """The service: answers one client on a free port, which it prints; at the end it prints how long it took."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        print(listening.getsockname()[1], flush=True)
        client, _ = listening.accept()
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    waiting: deque[tuple[float, bytes]] = deque()
    answered, seconds, rest = 0, 0.0, b""
    while True:
        wait = max(0.0, waiting[0][0] + CALL_SECONDS - time.perf_counter()) if waiting else None
        if select.select([client], [], [], wait)[0]:
            came = client.recv(65536)
            if not came:
                break
            rest += came
            whole = len(rest) & ~3
            waiting.append((time.perf_counter(), rest[:whole]))
            rest = rest[whole:]
        while waiting and (now := time.perf_counter()) >= waiting[0][0] + CALL_SECONDS:
            came_at, requests = waiting.popleft()
            client.sendall(requests)
            answered += len(requests) // 4
            seconds += (now - came_at) * (len(requests) // 4)
    client.close()
    print(seconds / max(1, answered))


if __name__ == "__main__":
    serve()
