"""A private NATS server for whatever wants to kill one: own port, own data, gone when its owner is gone."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import random
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import weakref
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.brokers.kind import BrokerError
from tests.brokers.nats import greeting, server_binary, write_config
from tests.brokers.process import POLL_SECONDS, STOP_SECONDS, start_tied

READY_SECONDS = 20.0
START_ATTEMPTS_MAX = 5
# Below the range from which Linux and macOS take the ports of outgoing connections: a client that keeps
# reconnecting to a dead server inside that range can end up connected to itself and hold the port.
PORTS = range(20_000, 32_000)
LOG_TAIL_LINES = 15

_open_servers: weakref.WeakSet[NatsServer] = weakref.WeakSet()


class NatsServer:
    """A NATS server with JetStream on a free loopback port, fsync on every write.

    GUARANTEE: the process and its folder are gone after `close`, at interpreter exit at the latest; on Linux
    the process also dies when its owner is killed by SIGKILL. Port and data stay the same across `kill`,
    `stop` and `restart`. It never touches a server that it did not start.

    Used as `with NatsServer() as server:` or `async with NatsServer() as server:`. Every method blocks; the
    ones that take time have an `..._async` twin that leaves the event loop free.
    """

    def __init__(self, *, extra_config: str = "", port: int | None = None, sync: str = "always") -> None:
        """Prepare a server; nothing runs before `start`.

        Args:
            extra_config: More configuration in the server's own syntax: users, token, nkeys, tls ... Read
                anew from the attribute at each start.
            port: The port to bind; a free one by default.
            sync: The server's `sync_interval`: `always`, or a time such as `2m`.
        """
        self.extra_config = extra_config
        self.sync = sync
        self.host = "127.0.0.1"
        self._fixed_port = port is not None
        self.port = free_port() if port is None else port
        self.folder = Path(tempfile.mkdtemp(prefix="streamflow-nats-"))
        self.log_path = self.folder / "nats.log"
        self.starts = 0
        self._name = f"streamflow-{secrets.token_hex(8)}"
        self._process: subprocess.Popen[bytes] | None = None
        _open_servers.add(self)

    @property
    def url(self) -> str:
        """The client URL, for example `nats://127.0.0.1:23456`."""
        return f"nats://{self.host}:{self.port}"

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
            raise BrokerError("the NATS server does not run")
        return self._process.pid

    def start(self) -> None:
        """Start the server and wait until it serves JetStream. Nothing happens if it runs already.

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
                in_use = "address already in use" in self.log_tail()
                if not in_use or self._fixed_port or attempt == START_ATTEMPTS_MAX:
                    raise
                self.port = free_port()
        self._fixed_port = True
        self.starts += 1

    def stop(self) -> None:
        """Stop the server in order (SIGTERM) and keep its data."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Kill the server (SIGKILL) and keep its data."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Start the server again on the same port and data, after stopping it if it runs."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Freeze the server: connections stay open and nothing answers, until `resume`."""
        self._send(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a frozen server go on."""
        self._send(signal.SIGCONT)

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
        config = write_config(self.folder, self.host, self.port, self.extra_config, name=self._name, sync=self.sync)
        self._process = start_tied([server_binary(), "-c", str(config)], self.log_path)
        deadline = time.monotonic() + READY_SECONDS
        while not self._is_ready():
            if self._process.poll() is not None:
                raise BrokerError(f"nats-server ended with {self._process.returncode}:\n{self.log_tail()}")
            if time.monotonic() > deadline:
                raise BrokerError(f"nats-server is not ready in {READY_SECONDS:.0f} s:\n{self.log_tail()}")
            time.sleep(POLL_SECONDS)

    def _is_ready(self) -> bool:
        try:
            # By name: a stranger on the port would answer in place of a server about to give up on it.
            return greeting(self.url).get("server_name") == self._name
        except BrokerError:
            return False

    def _end(self, end_signal: signal.Signals) -> None:
        process = self._process
        if process is None:
            return
        self._send(end_signal)
        self._send(signal.SIGCONT)  # a frozen process takes SIGTERM only when it goes on
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_SECONDS)
        self._process = None

    def _send(self, any_signal: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(any_signal)


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
