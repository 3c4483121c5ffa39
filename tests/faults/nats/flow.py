"""The flow that fault tests kill, between two streams of NATS."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from streamflow_nats import Limits, Nats, NatsStream
from tests.faults.flow import Counted, Guaranteed, Numbered, Setup

Mode = Literal["chain", "batch", "msgid"]


@dataclass(frozen=True)
class Target:
    """A sink: its stream, how it is guarded, and where its server is."""

    stream: str
    mode: Mode
    url: str


@dataclass(frozen=True, kw_only=True)
class NatsSetup(Setup):
    """How the flow is built.

    Args:
        url: The source's server.
        source: The stream to read.
        targets: The sinks.
        limits: `Limits` of source and sinks by name.
        timeout_seconds: How long the connector waits for an answer.
    """

    url: str
    source: str
    targets: tuple[Target, ...]
    limits: dict[str, Any] = field(default_factory=dict)
    timeout_seconds: float = 5.0

    def reads(self) -> NatsStream[Numbered]:
        return self._server(self.url).stream(self.source, value=Numbered, limits=Limits(**self.limits))

    def writes(self) -> Sequence[tuple[NatsStream[Counted], Guaranteed | None]]:
        return [
            (
                self._server(target.url).stream(
                    target.stream,
                    subject=target.stream.lower(),
                    value=Counted,
                    mode=target.mode,
                    limits=Limits(**self.limits),
                ),
                "at_least_once" if target.mode == "msgid" else None,
            )
            for target in self.targets
        ]

    def _server(self, url: str) -> Nats:
        return Nats(url, timeout_seconds=self.timeout_seconds)
