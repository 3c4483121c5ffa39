"""The source: resumes a stream at a position, or, on work-queue and interest streams, acknowledges by id."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Final, Protocol

from streamflow.batch import Headers, Partition, Position, SourceBatch, Taken
from streamflow.connect.contracts import Guarantee, Probe, SourceContext
from streamflow.errors import Unavailable
from streamflow_nats.jetstream import JetStream, StreamInfo, check_bound, parse_headers
from streamflow_nats.link import Link
from streamflow_nats.pulls import Delivered, Pulls
from streamflow_nats.settings import Nats
from streamflow_nats.stream import StreamSettings

READ_RECORDS_MAX: Final = 512
LIMITS_RETENTION: Final = "limits"


class Reader(Protocol):
    """Reads one stream in one of the two ways."""

    pulls: Pulls
    identity: str
    starts: Position | None

    async def ready(self) -> None:
        """Called before each look at the buffer: asks for more, repairs, acknowledges; raises what cannot go on."""

    async def sound(self) -> None:
        """Called before records are handed out: raises if some before them were lost."""

    def ids(self, records: list[Delivered]) -> list[str] | None:
        """The records' ids; None where positions do."""

    async def committed(self, taken: Taken) -> None:
        """Tells the server."""

    async def end(self) -> Position | None:
        """Where the stream ends now."""

    async def close(self) -> None:
        """Lets go of the consumer."""


class NatsSource:
    """Reads one JetStream stream.

    GUARANTEE: delivers each message behind the position once and in order, or raises. On work-queue and interest
    streams: each message whose id is not committed, in order, acknowledged only after its commit.
    BOUND: the limits of `Limits`.

    Args:
        nats: The server.
        settings: The stream.
        guarantee: What the spec promises.
    """

    def __init__(self, nats: Nats, settings: StreamSettings, guarantee: Guarantee) -> None:
        self.guarantee = guarantee
        self._nats, self._settings = nats, settings
        self._link: Link | None = None
        self._reader: Reader | None = None

    async def probe(self) -> Probe:
        return await self.probe_behind({})

    async def probe_behind(self, resume: Mapping[Partition, Position]) -> Probe:
        """Looks whether this position still fits the stream, too."""
        from streamflow_nats.probe import probe_source

        return await probe_source(self._nats, self._settings, resume.get(""))

    async def open(self, ctx: SourceContext, resume: Mapping[Partition, Position]) -> Mapping[Partition, Position]:
        from streamflow_nats.positional import PositionalReader
        from streamflow_nats.queue import QueueReader

        await self.close()
        self._link = await Link.connect(self._nats, f"streamflow {ctx.flow} {ctx.source}")
        try:
            stream = JetStream(self._link, self._settings.name)
            info = await stream.info()
            if self._settings.subject:
                check_bound(info, self._settings.subject, to_read=True)
            kind = PositionalReader if is_positional(info) else QueueReader
            reader = await kind.open(stream, info, self._settings, ctx, resume.get(""))
        except BaseException:
            await self.close()
            raise
        self._reader = reader
        return {} if reader.starts is None else {"": reader.starts}

    async def read(self) -> SourceBatch | None:
        reader, link = self._opened()
        while True:
            if not link.lost.done():
                await reader.ready()
            pulls = reader.pulls
            if pulls.buffer:
                await reader.sound()
                return self._batch(reader, pulls.take(READ_RECORDS_MAX))
            if pulls.refusal is not None:
                raise pulls.refusal
            link.check()
            if not pulls.trouble:
                await pulls.wait()

    async def ends(self) -> Mapping[Partition, Position | None]:
        reader, _ = self._opened()
        return {"": await reader.end()}

    def pause(self, partitions: Set[Partition]) -> None:
        reader, _ = self._opened()
        reader.pulls.paused = "" in partitions
        reader.pulls.wake()

    async def committed(self, epoch: int, taken: Taken) -> None:
        if self._reader is not None:
            await self._reader.committed(taken)

    async def close(self) -> None:
        reader, self._reader = self._reader, None
        link, self._link = self._link, None
        try:
            if reader is not None and link is not None and not link.lost.done():
                await reader.close()
        finally:
            if link is not None:
                await link.close()

    def _opened(self) -> tuple[Reader, Link]:
        if self._reader is None or self._link is None:
            raise Unavailable(f"stream {self._settings.name} is not open", hint="Open the source first.")
        return self._reader, self._link

    @staticmethod
    def _batch(reader: Reader, records: list[Delivered]) -> SourceBatch:
        ids = reader.ids(records)
        headers: list[Headers | None] | None = None
        keys: list[bytes | None] | None = None
        if any(record[3] for record in records):
            parsed = [parse_headers(raw.partition(b"\r\n")[2]) if raw else None for *_, raw in records]
            headers = [*parsed]
            keys = [_key(each) for each in parsed]
        return SourceBatch(
            "",
            [record[2] for record in records],
            positions=[record[0] + 1 for record in records] if ids is None else None,
            ids=ids,
            identity=reader.identity,
            headers=headers,
            keys=keys,
            timestamps_ms=[record[1] // 1_000_000 for record in records],
        )


def is_positional(info: StreamInfo) -> bool:
    """Whether the stream keeps what was read, so that a position is enough to read on."""
    return info.config.retention == LIMITS_RETENTION


def _key(headers: dict[str, str] | None) -> bytes | None:
    key = headers.get("sf-key") if headers else None
    return None if key is None else key.encode()
