"""A trial across brokers: one flow between places of several of them, fed and read with the plain client of each.

Nothing of a broker is here. A place is one end of a trial on that broker alone: of the trial on the source's broker
come feeder and source, of the trial on the sink's broker come sink, reader and check. So the readers are plain clients:
an aiokafka consumer with read_committed, a nats-py consumer, rstream's client.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from tests.brokers import KafkaServer, NatsServer, RabbitServer
from tests.faults.across.flow import AcrossSetup
from tests.faults.feeder import BURSTS, Feeder
from tests.faults.kafka.trial import Trial as KafkaTrial
from tests.faults.nats.trial import Trial as NatsTrial
from tests.faults.process import FlowProcess
from tests.faults.rabbitmq.stream_trial import Trial as StreamTrial
from tests.faults.rabbitmq.trial import Kind as QueueKind
from tests.faults.rabbitmq.trial import Trial as QueueTrial
from tests.faults.trial import FlowTrial

Sink = Literal["kafka", "nats", "stream"]
Source = Literal["kafka", "nats", "stream", "queue"]
SINKS: tuple[Sink, ...] = ("kafka", "nats", "stream")
"""A topic, a stream of JetStream, a stream of RabbitMQ."""
SOURCES: tuple[Source, ...] = (*SINKS, "queue")
"""And a quorum queue of RabbitMQ."""
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Servers:
    """One server of each broker; trials share them."""

    kafka: KafkaServer
    nats: NatsServer
    rabbit: RabbitServer

    def place(self, kind: Source, folder: Path) -> KafkaTrial | NatsTrial | StreamTrial | QueueTrial:
        """A trial on one broker, of which one end will be used; its names say what it is."""
        trial: KafkaTrial | NatsTrial | StreamTrial | QueueTrial
        match kind:
            case "kafka":
                trial = KafkaTrial(self.kafka, folder)
            case "nats":
                trial = NatsTrial(self.nats, folder)
            case "stream":
                trial = StreamTrial(self.rabbit, folder)
            case "queue":
                trial = QueueTrial(self.rabbit, folder, QueueKind("quorum", "nats"), nats=self.nats)
        trial.source, trial.sink = f"{kind}-{trial.source}", f"{kind}-{trial.sink}"
        return trial


class Together(Feeder):
    """Several feeders as one."""

    def __init__(self, feeders: Sequence[Feeder]) -> None:
        super().__init__(0, BURSTS)
        self.feeders = feeders

    async def feed(self, count: int) -> None:
        """Publishes records now, by each of them."""
        for feeder in self.feeders:
            await feeder.feed(count)
        self._sum_up()

    async def _feed(self) -> None:
        async with AsyncExitStack() as stack:
            for feeder in self.feeders:
                await stack.enter_async_context(feeder)
            while not self._stopping:
                self._sum_up()
                await asyncio.sleep(0.01)
        self._sum_up()

    def _sum_up(self) -> None:
        self.sent = sum((feeder.sent for feeder in self.feeders), Counter())
        self.total = sum(feeder.total for feeder in self.feeders)
        self.acknowledged = sum(feeder.acknowledged for feeder in self.feeders)


@dataclass
class Trial:
    """One flow, with one state file, from one or more places to one or more others.

    Args:
        servers: Where the places are.
        folder: For state, diary and log.
        sources: Where the flow reads.
        sinks: Where it writes: everything to each.
        settings: `streamflow.Settings` by name.
    """

    servers: Servers
    folder: Path
    sources: tuple[Source, ...]
    sinks: tuple[Sink, ...]
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder = self.folder / f"across{next(_numbers)}"
        self._from = [self.servers.place(kind, self.folder / f"from-{kind}") for kind in self.sources]
        self._to = [self.servers.place(kind, self.folder / f"to-{kind}") for kind in self.sinks]
        setup = AcrossSetup(
            state=self.folder / "flow.db",
            settings=self.settings,
            sources=tuple(place.setup() for place in self._from),
            sinks=tuple(place.setup() for place in self._to),
        )
        self.flow = FlowProcess(setup, self.folder)
        self._places = AsyncExitStack()

    async def __aenter__(self) -> Self:
        for place in (*self._from, *self._to):
            await self._places.enter_async_context(place)
        for place in self._to:
            place.flow = self.flow
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.flow.stop()
        await self._places.aclose()

    def __str__(self) -> str:
        return f"{' + '.join(self.sources)} -> {' + '.join(self.sinks)}"

    @asynccontextmanager
    async def feeding(self, seed: int) -> AsyncIterator[Feeder]:
        """Feeds every source while the block lasts, not too far ahead of the results at the first sink."""
        feeders = [place.feeder(seed + number) for number, place in enumerate(self._from)]
        one_by_one = asyncio.Lock()
        results: FlowTrial = self._to[0]
        async with results.outsider() as reader:

            async def behind() -> int:
                async with one_by_one:
                    return sum(feeder.total for feeder in feeders) - await reader.count(results.sink)

            for feeder, letter in zip(feeders, "abc", strict=False):
                feeder.letter, feeder.behind = letter, behind
            async with Together(feeders) as together:
                yield together

    async def check(self, feeder: Feeder) -> None:
        """At each sink, read with the broker's plain client: every record once, in order, and nothing else."""
        for place in self._to:
            await place.check(feeder)

    @property
    def published(self) -> set[str]:
        """The sinks to which something was published."""
        return {event["sink"] for event in self.flow.events("published")}
