"""A trial on a real RabbitMQ: queues of its own, a flow between them, and the check of every single result."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from tests.brokers import NatsServer, RabbitServer
from tests.faults.feeder import BURSTS
from tests.faults.nats.outside import Outsider, make_stream
from tests.faults.process import FlowProcess
from tests.faults.rabbitmq.flow import Mode, RabbitSetup, Target
from tests.faults.rabbitmq.outside import Collector, Outside, RabbitFeeder, make_queue
from tests.faults.trial import FlowTrial, Reader

_numbers = itertools.count(1)
_run = secrets.token_hex(3)


@dataclass(frozen=True)
class Kind:
    """What a trial is about: the source's queue, and the sink."""

    source: Literal["classic", "quorum"] = "classic"
    sink: Mode = "confirm"

    def __str__(self) -> str:
        return f"{self.source}-{self.sink}"


KINDS = (Kind(), Kind("quorum", "exchange"), Kind(sink="tx"))
"""The sinks on RabbitMQ, each behind a queue."""


@dataclass
class Trial(FlowTrial):
    """Two queues of one server, and a flow between them.

    Args:
        server: Where the queues are; trials may share it.
        folder: For state, diary and log.
        kind: What the queues are like.
        nats: Where the results go, if the sink is a stream of NATS.
        exact: Whether results are checked as they are; by default that is so where only the flow dies and its sink
            keeps transactions, or is NATS. Else they are checked as a consumer takes them that remembers ids.
        source_url, sink_url: Other ways to the server, through a proxy for instance.
        settings, limits: As in `RabbitSetup`.
    """

    server: RabbitServer
    folder: Path
    kind: Kind = Kind()
    nats: NatsServer | None = None
    exact: bool | None = None
    source_url: str = ""
    sink_url: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    limits: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        number = next(_numbers)
        self.source, self.sink = f"in-{_run}-{number}", f"OUT{_run}{number}"
        self.folder = self.folder / f"trial{number}"
        self.folder.mkdir(parents=True)
        exact = self.kind.sink == "tx" if self.exact is None else self.exact
        self.collector = Collector(self.server, self.sink, exact=exact)
        self.flow = FlowProcess(self.setup(), self.folder)

    async def __aenter__(self) -> Self:
        await make_queue(self.server, self.source, self.kind.source)
        if self.nats is not None:
            await make_stream(self.nats, self.sink)
        else:
            kind = "quorum" if self.kind.sink == "exchange" else "classic"
            await make_queue(self.server, self.sink, kind, self._exchange, collected=True)
            self.collector.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await super().__aexit__(kind, error, trace)
        await self.collector.stop()

    def __str__(self) -> str:
        return str(self.kind)

    def outsider(self) -> AbstractAsyncContextManager[Reader]:
        return Outsider(self.nats) if self.nats is not None else Outside(self.collector)

    def setup(self, **other: Any) -> RabbitSetup:
        """The flow of this trial."""
        url = self.server.url
        sink_url = self.nats.url if self.nats is not None else self.sink_url or url
        given: dict[str, Any] = {
            "url": self.source_url or url,
            "source": self.source,
            "targets": (Target(self._exchange or self.sink, self.kind.sink, sink_url),),
            "state": self.folder / "flow.db",
            "settings": self.settings,
            "limits": self.limits,
        }
        return RabbitSetup(**{**given, **other})

    def feeder(self, seed: int = 7, bursts: Sequence[int] = BURSTS) -> RabbitFeeder:
        return RabbitFeeder(self.server, self.source, self.progress, seed, bursts)

    async def progress(self) -> int:
        """How many results have come."""
        async with self.outsider() as outsider:
            return await outsider.count(self.sink)

    @property
    def _exchange(self) -> str:
        return f"ex-{self.sink}" if self.kind.sink == "exchange" else ""
