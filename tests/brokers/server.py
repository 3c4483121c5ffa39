"""A private broker for whatever wants to kill one: own ports, own data, gone when its owner is gone."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import weakref
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from tests.brokers.kind import BrokerError
from tests.brokers.process import POLL_SECONDS, STOP_SECONDS, freeze, start_tied

START_ATTEMPTS_MAX = 5
# Below the range from which Linux and macOS take the ports of outgoing connections: a client that keeps
# reconnecting to a dead server inside that range can end up connected to itself and hold the port.
PORTS = range(20_000, 32_000)
LOG_TAIL_LINES = 15

_open_servers: weakref.WeakSet[BrokerServer] = weakref.WeakSet()


class BrokerServer(ABC):
    """A broker on free loopback ports; what each kind does its own way is abstract.

    GUARANTEE: the process and its folder are gone after `close`, at interpreter exit at the latest; on Linux
    the process also dies when its owner is killed by SIGKILL. Ports and data stay the same across `kill`,
    `stop` and `restart`. It never touches a broker that it did not start.

    Used as `with NatsServer() as server:` or `async with NatsServer() as server:`. Every method blocks; the
    ones that take time have an `..._async` twin that leaves the event loop free.
    """

    kind: ClassVar[str]
    """The name on the command line."""
    program: ClassVar[str]
    """What is started, for errors."""
    ready_seconds: ClassVar[float] = 20.0
    port_in_use: ClassVar[tuple[str, ...]] = ("address already in use", "Address already in use")
    """What its log says where somebody else has the port."""

    def __init__(self, *, port: int | None = None, ports: int = 1) -> None:
        """Prepare a server; nothing runs before `start`.

        Args:
            port: The first port to bind; a free one by default.
            ports: How many ports it binds.
        """
        self.host = "127.0.0.1"
        self._fixed = port is not None
        self.ports = [free_port() for _ in range(ports)]
        if port is not None:
            self.ports[0] = port
        self.folder = Path(tempfile.mkdtemp(prefix=f"streamflow-{self.kind}-"))
        self.log_path = self.folder / f"{self.kind}.log"
        self.starts = 0
        self._process: subprocess.Popen[bytes] | None = None
        _open_servers.add(self)

    @abstractmethod
    def command(self) -> list[str]:
        """Write the configuration into `folder` and return the command that serves `ports`."""

    @abstractmethod
    def is_ready(self) -> bool:
        """Whether this very server, and no stranger on its port, does its work."""

    @property
    @abstractmethod
    def url(self) -> str:
        """Where clients connect."""

    @property
    def port(self) -> int:
        """The port of clients."""
        return self.ports[0]

    @property
    def running(self) -> bool:
        """Whether the server process runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The pid of the running server.

        Raises:
            BrokerError: It does not run.
        """
        if self._process is None or self._process.poll() is not None:
            raise BrokerError(f"the {self.kind} server does not run")
        return self._process.pid

    def start(self) -> None:
        """Start the server and wait until it does its work. Nothing happens if it runs already.

        Raises:
            BrokerError: It ended, or was not ready in time; the message holds the end of its log.
        """
        if self.running:
            return
        for attempt in range(1, START_ATTEMPTS_MAX + 1):
            try:
                self._start_once()
                break
            except BrokerError:
                self.kill()
                # Somebody else took the free port first. Once clients know the port it must not change.
                in_use = any(words in self.log_tail() for words in self.port_in_use)
                if not in_use or self._fixed or attempt == START_ATTEMPTS_MAX:
                    raise
                self.ports = [free_port() for _ in self.ports]
        self._fixed = True
        self.starts += 1

    def stop(self) -> None:
        """Stop the server in order (SIGTERM) and keep its data."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Kill the server (SIGKILL) and keep its data."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Start the server again on the same ports and data, after stopping it if it runs."""
        self.stop()
        self.start()

    def freeze(self) -> None:
        """Freeze the server: connections stay open and nothing answers, until `thaw`."""
        freeze(self.pid)

    def thaw(self) -> None:
        """Let a frozen server go on."""
        self.send(signal.SIGCONT)

    def close(self) -> None:
        """End the server and remove its folder."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)
        _open_servers.discard(self)

    def log_tail(self) -> str:
        """Return the last lines of the server's log."""
        if not self.log_path.exists():
            return ""
        return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:])

    def send(self, any_signal: signal.Signals) -> None:
        """Send a signal to the process that does the work."""
        if self._process is not None:
            self._process.send_signal(any_signal)

    async def start_async(self) -> None:
        """Do what `start` does, off the event loop."""
        await asyncio.to_thread(self.start)

    async def stop_async(self) -> None:
        """Do what `stop` does, off the event loop."""
        await asyncio.to_thread(self.stop)

    async def kill_async(self) -> None:
        """Do what `kill` does, off the event loop."""
        await asyncio.to_thread(self.kill)

    async def restart_async(self) -> None:
        """Do what `restart` does, off the event loop."""
        await asyncio.to_thread(self.restart)

    async def close_async(self) -> None:
        """Do what `close` does, off the event loop."""
        await asyncio.to_thread(self.close)

    def __enter__(self) -> Self:
        """Start the server."""
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the server and remove its folder."""
        self.close()

    async def __aenter__(self) -> Self:
        """Start the server, off the event loop."""
        return await asyncio.to_thread(self.__enter__)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the server and remove its folder, off the event loop."""
        await self.close_async()

    def _start_once(self) -> None:
        self._process = start_tied(self.command(), self.log_path)
        deadline = time.monotonic() + self.ready_seconds
        while not self.is_ready():
            if self._process.poll() is not None:
                raise BrokerError(f"{self.program} ended with {self._process.returncode}:\n{self.log_tail()}")
            if time.monotonic() > deadline:
                raise BrokerError(f"{self.program} is not ready in {self.ready_seconds:.0f} s:\n{self.log_tail()}")
            time.sleep(POLL_SECONDS)

    def _end(self, end_signal: signal.Signals) -> None:
        process = self._process
        if process is None:
            return
        self.send(end_signal)
        self.send(signal.SIGCONT)  # a frozen process takes SIGTERM only when it goes on
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.send(signal.SIGKILL)
            process.kill()
            process.wait(STOP_SECONDS)
        self._process = None


def free_port() -> int:
    """Return a loopback port that is free now, outside the range of outgoing connections."""
    for port in random.SystemRandom().sample(PORTS, 100):
        with socket.socket() as candidate, contextlib.suppress(OSError):
            candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            candidate.bind(("127.0.0.1", port))
            return port
    raise BrokerError("no free port on 127.0.0.1")


@atexit.register
def _close_all() -> None:
    for server in list(_open_servers):
        server.close()
