"""A service in a process of its own that answers each request 5 ms after it has come, and a client for it.

asyncio's own timers cannot stand for it: they wake at whole milliseconds, so ``asyncio.sleep(0.005)`` takes 5.7 ms.
The service waits with `select`, which counts in microseconds. Requests and answers are numbers of four bytes on one
connection, as clients of databases and brokers send theirs, so that what is measured is the flow, not a protocol.
"""

from __future__ import annotations

import asyncio
import select
import socket
import struct
import sys
import time
from array import array
from collections import deque
from types import TracebackType


def serve(delay_seconds: float) -> None:
    """Answers one client on a free port, which it prints, until that is gone."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        print(listening.getsockname()[1], flush=True)
        client, _ = listening.accept()
    with client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        waiting: deque[tuple[float, bytes]] = deque()
        rest = b""
        while True:
            wait = max(0.0, waiting[0][0] - time.perf_counter()) if waiting else None
            if select.select([client], [], [], wait)[0]:
                came = client.recv(65536)
                if not came:
                    return
                rest += came
                whole = len(rest) & ~3
                waiting.append((time.perf_counter() + delay_seconds, rest[:whole]))
                rest = rest[whole:]
            now = time.perf_counter()
            while waiting and waiting[0][0] <= now:
                client.sendall(waiting.popleft()[1])


class Client(asyncio.Protocol):
    """Asks the service; the requests of one turn of the loop go out together.

    Args:
        delay_seconds: How long the service takes.
    """

    def __init__(self, delay_seconds: float) -> None:
        self.calls = 0
        self.call_seconds = 0.0
        self._delay_seconds = delay_seconds
        self._open: dict[int, asyncio.Future[None]] = {}
        self._unsent = array("I")
        self._rest = b""

    async def __aenter__(self) -> Client:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "benchmarks.answering", str(self._delay_seconds), stdout=asyncio.subprocess.PIPE
        )
        assert self._process.stdout is not None
        self._loop = asyncio.get_running_loop()
        port = int(await self._process.stdout.readline())
        self._transport, _ = await self._loop.create_connection(lambda: self, "127.0.0.1", port)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._transport.close()
        await self._process.wait()

    async def ask(self, value: int) -> int:
        """One call; its duration is added up."""
        asked = time.perf_counter()
        answer = self._open[value] = self._loop.create_future()
        if not self._unsent:
            self._loop.call_soon(self._send)
        self._unsent.append(value)
        await answer
        self.calls += 1
        self.call_seconds += time.perf_counter() - asked
        return value

    def _send(self) -> None:
        self._transport.write(self._unsent.tobytes())
        del self._unsent[:]

    def data_received(self, data: bytes) -> None:
        data = self._rest + data
        whole = len(data) & ~3
        self._rest = data[whole:]
        for (value,) in struct.iter_unpack("=I", data[:whole]):
            self._open.pop(value).set_result(None)


if __name__ == "__main__":
    serve(float(sys.argv[1]))
