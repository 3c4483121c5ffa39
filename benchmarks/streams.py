"""NATS streams for benchmarks: made and fed with plain nats-py, and an instrument that waits for the last result."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import nats
from nats.aio.client import Client

import streamflow as sf

FEED_WINDOW: Final = 2000
"""Messages published before their acknowledgements are looked at."""
RUN_SECONDS_MAX: Final = 120.0


@dataclass(frozen=True, slots=True)
class Took:
    """What a run cost: seconds by the clock, and of CPU in this process (the server's own are not in it)."""

    wall: float
    cpu: float


class Outsider:
    """Hands on a server that are not the flow's: plain nats-py."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.jetstream = client.jetstream(publish_async_max_pending=2 * FEED_WINDOW)

    async def make(self, stream: str, **config: Any) -> None:
        """Makes a stream anew, with one subject of its name in small letters."""
        await self._api(f"STREAM.DELETE.{stream}")
        request = {"name": stream, "subjects": [stream.lower()], "storage": "file", "retention": "limits", **config}
        # through the server's own interface: nats-py does not know every setting
        answer = await self._api(f"STREAM.CREATE.{stream}", request)
        if "error" in answer:
            raise RuntimeError(f"stream {stream} could not be made: {answer['error']}")

    async def feed(self, stream: str, payloads: Iterable[bytes]) -> None:
        """Publishes to a stream and waits for every acknowledgement."""
        waiting = []
        for payload in payloads:
            waiting.append(await self.jetstream.publish_async(stream.lower(), payload))
            if len(waiting) == FEED_WINDOW:
                await asyncio.gather(*waiting)
                waiting.clear()
        await asyncio.gather(*waiting)

    async def count(self, stream: str) -> int:
        """How many messages a stream holds."""
        info = await self._api(f"STREAM.INFO.{stream}")
        return int(info["state"]["messages"])

    async def _api(self, what: str, request: Any = None) -> Any:
        payload = b"" if request is None else json.dumps(request).encode()
        return json.loads((await self.client.request(f"$JS.API.{what}", payload, timeout=10)).data)


@asynccontextmanager
async def outsider(url: str) -> AsyncIterator[Outsider]:
    """Connects plain nats-py to a server."""
    client = await nats.connect(url)
    try:
        yield Outsider(client)
    finally:
        await client.close()


class Until(sf.Instrument):
    """Waits until a sink has published its n-th record; measures from the first record taken."""

    def __init__(self, records: int) -> None:
        self.epochs = 0
        self._records = records
        self._done = asyncio.Event()
        self._began: Took | None = None
        self._took = Took(0.0, 0.0)

    def number(self, number: int, records: int) -> None:
        if self._began is None and records:
            self._began = Took(time.perf_counter(), time.process_time())

    def committed(self, epoch: int, records: int, size_bytes: int, seconds: float) -> None:
        self.epochs += 1

    def published(self, sink: str, epoch: int, next_seq: int) -> None:
        if next_seq > self._records and not self._done.is_set():
            assert self._began is not None, "published before anything was taken"
            self._took = Took(time.perf_counter() - self._began.wall, time.process_time() - self._began.cpu)
            self._done.set()

    async def reached(self) -> Took:
        """Returns what it took.

        Raises:
            TimeoutError: It did not get there.
        """
        async with asyncio.timeout(RUN_SECONDS_MAX):
            await self._done.wait()
        return self._took
