"""The flow that fault tests kill, between two streams or super streams of RabbitMQ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from streamflow.connect.contracts import SinkSpec, SourceSpec
from streamflow_rabbitmq import Limits, RabbitMQ, RabbitStream, Times, UserPassword
from tests.faults.flow import Counted, Guaranteed, Numbered, Setup


@dataclass(frozen=True)
class Way:
    """A way to the server: straight, or through lines that can be cut."""

    url: str
    stream_port: int


@dataclass(frozen=True, kw_only=True)
class StreamSetup(Setup):
    """How the flow is built.

    Args:
        way_in: The way to the source's server.
        way_out: The way to the sink's.
        source: The stream to read.
        sink: The stream to write.
        partitioned: Whether source and sink are super streams.
        heartbeat_seconds: Of every connection.
    """

    way_in: Way
    way_out: Way
    source: str
    sink: str
    partitioned: tuple[bool, bool] = (False, False)
    heartbeat_seconds: int = 2

    def reads(self) -> SourceSpec[Numbered]:
        rabbit = self._rabbit(self.way_in)
        limits = Limits(read_ahead_records=2000)
        stream: RabbitStream[Numbered]
        if self.partitioned[0]:
            stream = rabbit.super_stream(self.source, value=Numbered, limits=limits)
        else:
            stream = rabbit.stream(self.source, value=Numbered, limits=limits)
        return stream

    def writes(self) -> Sequence[tuple[SinkSpec[Counted], Guaranteed | None]]:
        rabbit = self._rabbit(self.way_out)
        stream: RabbitStream[Counted]
        if self.partitioned[1]:
            stream = rabbit.super_stream(self.sink, value=Counted)
        else:
            stream = rabbit.stream(self.sink, value=Counted)
        return [(stream, None)]

    def _rabbit(self, way: Way) -> RabbitMQ:
        times = Times(heartbeat_seconds=self.heartbeat_seconds, timeout_seconds=5)
        return RabbitMQ(way.url, auth=UserPassword("guest", "guest"), stream_port=way.stream_port, times=times)
