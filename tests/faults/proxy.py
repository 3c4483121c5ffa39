"""A line between flow and server that can be cut, fall silent, deliver late, or be slow."""

from __future__ import annotations

import asyncio
import contextlib
import random
from types import TracebackType
from typing import Self

from tests.brokers import BrokerServer

READ_BYTES = 16 * 1024


class Line:
    """A TCP proxy in front of a broker, on a free loopback port.

    cut: connections end at once, with data on their way. silence: connections stay, nothing passes any more, in either
    direction, and nobody is told; what was sent meanwhile can be let through later, when the sender has long given it
    up. delay: everything takes its time. Cuts and silences hit the connections that there are; new ones are made
    unless the line refuses them.
    """

    def __init__(self, server: BrokerServer, port: int = 0) -> None:
        """Prepares a line.

        Args:
            server: Where it leads.
            port: To which port; by default that of clients.
        """
        self.port = port or server.port
        self.cuts = self.silences = self.late_bytes = 0
        self.delay_seconds = 0.0
        self._server = server
        self._pairs: set[_Pair] = set()
        self._cut_after_bytes = -1
        self._refusing = False

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.close()
        for pair in list(self._pairs):
            pair.abort()
        await self._listener.wait_closed()

    @property
    def url(self) -> str:
        host, port = self._listener.sockets[0].getsockname()
        return self._server.url.replace(f"{self._server.host}:{self._server.port}", f"{host}:{port}")

    @property
    def near_port(self) -> int:
        """Where clients connect."""
        return int(self._listener.sockets[0].getsockname()[1])

    def cut(self) -> int:
        """Cuts every connection; returns how many there were."""
        pairs = list(self._pairs)
        for pair in pairs:
            pair.abort()
        self.cuts += len(pairs)
        return len(pairs)

    def cut_after(self, size_bytes: int) -> None:
        """Cuts a connection when so many more bytes have passed to the server; what is beyond does not."""
        self._cut_after_bytes = size_bytes

    @property
    def armed(self) -> bool:
        """Whether `cut_after` has not happened yet."""
        return self._cut_after_bytes >= 0

    def refuse(self) -> None:
        """Ends every new connection at once."""
        self._refusing = True

    def admit(self) -> None:
        """Takes new connections again."""
        self._refusing = False

    def silence(self) -> None:
        """Lets nothing pass on the connections there are."""
        for pair in self._pairs:
            pair.open.clear()
        self.silences += len(self._pairs)

    def let_through(self) -> None:
        """Delivers what was held back."""
        for pair in self._pairs:
            pair.open.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refusing:
            writer.transport.abort()
            return
        try:
            far_reader, far_writer = await asyncio.open_connection(self._server.host, self.port)
        except OSError:
            writer.transport.abort()
            return
        pair = _Pair(writer, far_writer)
        self._pairs.add(pair)
        try:
            await asyncio.gather(
                self._pass_on(reader, far_writer, pair, to_server=True),
                self._pass_on(far_reader, writer, pair, to_server=False),
            )
        finally:
            self._pairs.discard(pair)
            pair.abort()

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pair: _Pair, *, to_server: bool
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(READ_BYTES):
                if self.delay_seconds:
                    await asyncio.sleep(random.uniform(0.5, 1.5) * self.delay_seconds)
                if not pair.open.is_set():
                    await pair.open.wait()
                    self.late_bytes += len(data) if to_server else 0
                if to_server and self.armed:
                    data = self._counted(data, pair, writer)
                writer.write(data)
                await writer.drain()
        if pair.open.is_set():
            # a silent line does not even tell that the other side has gone: what it had sent comes late
            pair.end(writer)

    def _counted(self, data: bytes, pair: _Pair, writer: asyncio.StreamWriter) -> bytes:
        if len(data) <= self._cut_after_bytes:
            self._cut_after_bytes -= len(data)
            return data
        writer.write(data[: self._cut_after_bytes])
        self._cut_after_bytes = -1
        self.cuts += 1
        pair.end(writer)
        pair.near.transport.abort()
        raise ConnectionAbortedError


class _Pair:
    """The two ends of one connection."""

    def __init__(self, near: asyncio.StreamWriter, far: asyncio.StreamWriter) -> None:
        self.near, self.far = near, far
        self.open = asyncio.Event()
        self.open.set()

    def abort(self) -> None:
        self.near.transport.abort()
        self.far.transport.abort()

    def end(self, writer: asyncio.StreamWriter) -> None:
        """Sends what is buffered, then ends."""
        with contextlib.suppress(OSError):
            writer.close()
