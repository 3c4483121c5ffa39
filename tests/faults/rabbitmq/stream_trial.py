"""A trial on streams of a real RabbitMQ: fed and read with rstream's own client, every single result checked."""

from __future__ import annotations

import asyncio
import itertools
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from rstream.connection import ConnectionClosed
from rstream.exceptions import LeaderNotAvailable, ServerError

from tests.brokers import RabbitServer
from tests.connectors.rabbitmq.streams_outside import Streams, body_of
from tests.faults.feeder import BURSTS, PAUSE_SECONDS, Feeder
from tests.faults.process import FlowProcess
from tests.faults.rabbitmq.stream_flow import StreamSetup, Way
from tests.faults.trial import FlowTrial

PARTITIONS = 3
TROUBLE = (OSError, TimeoutError, ServerError, LeaderNotAvailable, ConnectionClosed)
LANDING_SECONDS = 0.3
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Kind:
    """Whether source and sink are super streams."""

    source: bool = False
    sink: bool = False

    def __str__(self) -> str:
        return " to ".join("super stream" if each else "stream" for each in (self.source, self.sink))


PLAIN = Kind()
KINDS = (PLAIN, Kind(True, True), Kind(False, True))


class Watched:
    """What has been read of some streams so far; reading goes on where it was."""

    def __init__(self) -> None:
        self.bodies: dict[str, list[bytes]] = {}
        self._offsets: dict[str, int] = {}
        self._reading = asyncio.Lock()

    async def read(self, streams: Streams, stream: str) -> list[bytes]:
        async with self._reading:
            found = await streams.messages(stream, self._offsets.get(stream, 0))
            if found:
                self._offsets[stream] = found[-1][0] + 1
            bodies = self.bodies.setdefault(stream, [])
            bodies += [body_of(message) for _, message in found]
            return bodies


class Outsider(Streams):
    """A plain client that reads results of one stream, or of each partition of a super stream."""

    def __init__(self, server: RabbitServer, watched: Watched, *, partitioned: bool) -> None:
        super().__init__(server)
        self._watched, self._partitioned = watched, partitioned

    async def count(self, name: str) -> int:
        return sum([len(await self._read(stream)) for stream in streams_of(name, self._partitioned)])

    async def results(self, name: str) -> list[dict[str, Any]]:
        return [json.loads(body) for stream in streams_of(name, self._partitioned) for body in await self._read(stream)]

    async def _read(self, stream: str) -> list[bytes]:
        await self.available(stream)
        return await self._watched.read(self, stream)


class StreamFeeder(Feeder):
    """Publishes to a stream, or each key to a partition of its own.

    Where its connection ends, it looks what has landed and publishes the rest.
    """

    def __init__(self, trial: Trial, seed: int, bursts: Sequence[int]) -> None:
        super().__init__(seed, bursts)
        self._trial = trial
        self._watched = Watched()
        self._pending: list[tuple[str, bytes]] = []

    async def feed(self, count: int) -> None:
        """Publishes records now, instead of by itself while a block lasts."""
        self._pending += [self._record() for _ in range(count)]
        async with Streams(self._trial.server) as streams:
            await self._publish(streams)

    async def _feed(self) -> None:
        while not self._stopping or self._pending:
            try:
                async with self._trial.outsider() as outsider:
                    outsider.answer_seconds = 3.0
                    await self._drop_what_landed(outsider)
                    while not self._stopping or self._pending:
                        if not self._pending and await self._may_feed(outsider):
                            self._pending = self._burst()
                        await self._publish(outsider)
                        await asyncio.sleep(PAUSE_SECONDS)
            except TROUBLE:
                await asyncio.sleep(LANDING_SECONDS)

    async def _publish(self, streams: Streams) -> None:
        for stream, part in self._by_stream().items():
            await streams.feed(stream, part)
        self._pending = []
        self.acknowledged = self.total

    def _by_stream(self) -> dict[str, list[bytes]]:
        found: dict[str, list[bytes]] = {}
        for name, payload in self._pending:
            found.setdefault(self._stream(name), []).append(payload)
        return found

    def _stream(self, name: str) -> str:
        streams = streams_of(self._trial.source, self._trial.kind.source)
        return streams[zlib.crc32(name.partition("-")[0].encode()) % len(streams)]

    async def _drop_what_landed(self, streams: Streams) -> None:
        if not self._pending:
            return
        landed: set[bytes] = set()
        for stream in streams_of(self._trial.source, self._trial.kind.source):
            await streams.available(stream)
            landed.update(await self._watched.read(streams, stream))
        self._pending = [each for each in self._pending if each[1] not in landed]

    async def _may_feed(self, outsider: Outsider) -> bool:
        return await self._is_near(lambda: outsider.count(self._trial.sink))


@dataclass
class Trial(FlowTrial):
    """Two streams of one server, and a flow between them.

    Args:
        server: Where the streams are; trials may share it.
        folder: For state, diary and log.
        kind: What the streams are like.
        settings: `streamflow.Settings` by name.
        way_in, way_out: Other ways to the server.
        segment_bytes: Of the source: tiny ones can be taken away one by one.
    """

    server: RabbitServer
    folder: Path
    kind: Kind = PLAIN
    settings: dict[str, Any] = field(default_factory=dict)
    way_in: Way | None = None
    way_out: Way | None = None
    segment_bytes: int = 0

    def __post_init__(self) -> None:
        number = next(_numbers)
        self.source, self.sink = f"in{number}", f"out{number}"
        self.folder = self.folder / f"trial{number}"
        self.folder.mkdir(parents=True)
        self.watched = Watched()
        self.flow = FlowProcess(self.setup(), self.folder)

    async def __aenter__(self) -> Self:
        async with Streams(self.server) as streams:
            await make(streams, self.source, self.kind.source, self.segment_bytes)
            await make(streams, self.sink, self.kind.sink)
        return self

    def __str__(self) -> str:
        return str(self.kind)

    def outsider(self) -> Outsider:
        return Outsider(self.server, self.watched, partitioned=self.kind.sink)

    def setup(self, **other: Any) -> StreamSetup:
        way = Way(self.server.url, self.server.stream_port)
        given: dict[str, Any] = {
            "way_in": self.way_in or way,
            "way_out": self.way_out or way,
            "source": self.source,
            "sink": self.sink,
            "partitioned": (self.kind.source, self.kind.sink),
            "state": self.folder / "flow.db",
            "settings": self.settings,
        }
        return StreamSetup(**{**given, **other})

    def feeder(self, seed: int = 7, bursts: Sequence[int] = BURSTS) -> StreamFeeder:
        return StreamFeeder(self, seed, bursts)


async def make(streams: Streams, name: str, partitioned: bool, segment_bytes: int = 0) -> None:
    """Makes a stream or a super stream."""
    if partitioned:
        await streams.make_super(name, PARTITIONS, segment_bytes=segment_bytes)
    elif segment_bytes:
        await streams.make(name, stream_max_segment_size_bytes=segment_bytes)
    else:
        await streams.make(name)
    for stream in streams_of(name, partitioned):
        await streams.available(stream)


def streams_of(name: str, partitioned: bool) -> list[str]:
    """The streams behind a name."""
    return [f"{name}-{number}" for number in range(PARTITIONS)] if partitioned else [name]
