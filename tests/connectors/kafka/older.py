"""A line to a Kafka broker on which it seems older: it tells lower versions of some requests."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Mapping
from types import TracebackType
from typing import Final, Self

from tests.brokers import KafkaServer

API_VERSIONS: Final = 18
METADATA: Final = 3
_HEAD: Final = struct.Struct(">hhi")


class Older:
    """A proxy in front of a server; what it tells of itself leads back through the proxy.

    Args:
        server: The broker.
        newest: The newest version of a request that it shall tell, by the request's number.
    """

    def __init__(self, server: KafkaServer, newest: Mapping[int, int]) -> None:
        self._server, self._newest = server, newest
        self.lowered = 0
        """How often a version was lowered."""

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port: int = self._listener.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.close()
        await self._listener.wait_closed()

    @property
    def url(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def _accept(self, near: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far, far_writer = await asyncio.open_connection(self._server.host, self._server.port)
        asked: dict[int, int] = {}

        async def requests() -> None:
            while frame := await _frame(near):
                number, _, correlation = _HEAD.unpack_from(frame)
                asked[correlation] = number
                _write(far_writer, frame)
            far_writer.close()

        async def answers() -> None:
            while frame := await _frame(far):
                _write(writer, self._changed(asked.pop(int.from_bytes(frame[:4]), -1), frame))
            writer.close()

        await asyncio.gather(requests(), answers())

    def _changed(self, number: int, frame: bytes) -> bytes:
        if number == METADATA:
            return frame.replace(self._server.port.to_bytes(4), self.port.to_bytes(4))
        if number != API_VERSIONS:
            return frame
        correlation, error, count = struct.unpack_from(">ihi", frame)
        told = [struct.unpack_from(">hhh", frame, 10 + 6 * at) for at in range(count)]
        lowered = [(each, least, min(most, self._newest.get(each, most))) for each, least, most in told]
        kept = [entry for entry in lowered if entry[1] <= entry[2]]
        self.lowered += sum(before != after for before, after in zip(told, lowered, strict=True))
        return struct.pack(">ihi", correlation, error, len(kept)) + b"".join(
            struct.pack(">hhh", *each) for each in kept
        )


async def _frame(reader: asyncio.StreamReader) -> bytes:
    """The next frame without its length; empty at the end."""
    try:
        return await reader.readexactly(int.from_bytes(await reader.readexactly(4)))
    except (asyncio.IncompleteReadError, OSError):
        return b""


def _write(writer: asyncio.StreamWriter, frame: bytes) -> None:
    writer.write(len(frame).to_bytes(4) + frame)
