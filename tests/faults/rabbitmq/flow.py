"""The flow that fault tests kill, between two queues of RabbitMQ, or from a queue to a stream of NATS."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from streamflow.connect.contracts import SinkSpec
from streamflow_nats import Nats
from streamflow_rabbitmq import Limits, RabbitMQ, RabbitQueue, Times
from tests.faults.flow import Counted, Guaranteed, Numbered, Setup

Mode = Literal["confirm", "tx", "exchange", "nats"]


@dataclass(frozen=True)
class Target:
    """A sink: what it is called, how it is written to, and where its server is."""

    name: str
    mode: Mode
    url: str


@dataclass(frozen=True, kw_only=True)
class RabbitSetup(Setup):
    """How the flow is built.

    Args:
        url: The source's server.
        source: The queue to read.
        targets: The sinks.
        limits: `Limits` of source and sinks by name.
        heartbeat_seconds: After two or three of them the broker lets a silent client go.
        timeout_seconds: How long the connector waits for an answer.
    """

    url: str
    source: str
    targets: tuple[Target, ...]
    limits: dict[str, Any] = field(default_factory=dict)
    heartbeat_seconds: int = 1
    timeout_seconds: float = 5.0

    def reads(self) -> RabbitQueue[Numbered]:
        return self._server(self.url).queue(self.source, value=Numbered, limits=Limits(**self.limits))

    def writes(self) -> Sequence[tuple[SinkSpec[Counted], Guaranteed | None]]:
        return [self._target(target) for target in self.targets]

    def _target(self, target: Target) -> tuple[SinkSpec[Counted], Guaranteed | None]:
        if target.mode == "nats":
            return Nats(target.url).stream(target.name, subject=target.name.lower(), value=Counted), None
        rabbit, limits = self._server(target.url), Limits(**self.limits)
        if target.mode == "exchange":
            spec: SinkSpec[Counted] = rabbit.exchange(target.name, value=Counted, routing_key="a.b", limits=limits)
        else:
            spec = rabbit.queue(target.name, value=Counted, mode=target.mode, limits=limits)
        return spec, "effectively_once"

    def _server(self, url: str) -> RabbitMQ:
        return RabbitMQ(url, times=Times(self.heartbeat_seconds, self.timeout_seconds))
