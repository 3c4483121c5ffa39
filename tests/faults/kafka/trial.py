"""A trial on a real Kafka: topics of its own, a flow between them, and the check of every single result."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from tests.brokers import KafkaServer
from tests.faults.feeder import BURSTS
from tests.faults.kafka.flow import KafkaSetup, Target
from tests.faults.kafka.outside import PARTITIONS, KafkaFeeder, Outsider, make_topics
from tests.faults.process import FlowProcess
from tests.faults.trial import FlowTrial

_numbers = itertools.count(1)


@dataclass
class Trial(FlowTrial):
    """Two topics of one server, and a flow between them.

    Args:
        server: Where the topics are; trials may share it.
        folder: For state, diary and log.
        source_url, sink_url: Other ways to the server, through a proxy for instance.
        settings, options: As in `KafkaSetup`.
        config: Of the two topics.
    """

    server: KafkaServer
    folder: Path
    source_url: str = ""
    sink_url: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    config: dict[str, str] = field(default_factory=dict)
    partitions: int = PARTITIONS

    def __post_init__(self) -> None:
        number = next(_numbers)
        self.source, self.sink = f"in{number}", f"out{number}"
        self.folder = self.folder / f"trial{number}"
        self.folder.mkdir(parents=True)
        self.flow = FlowProcess(self.setup(), self.folder)

    async def __aenter__(self) -> Self:
        await make_topics(self.server, self.source, self.sink, partitions=self.partitions, **self.config)
        return self

    def __str__(self) -> str:
        return f"kafka {self.source} -> {self.sink}"

    def outsider(self) -> Outsider:
        return Outsider(self.server)

    def setup(self, **other: Any) -> KafkaSetup:
        """The flow of this trial."""
        url = self.server.url
        given: dict[str, Any] = {
            "url": self.source_url or url,
            "source": self.source,
            "targets": (Target(self.sink, self.sink_url or url),),
            "state": self.folder / "flow.db",
            "settings": self.settings,
            "options": {"timeout_seconds": 5.0, "refresh_seconds": 2.0, **self.options},
        }
        return KafkaSetup(**{**given, **other})

    def feeder(self, seed: int = 7, bursts: Sequence[int] = BURSTS) -> KafkaFeeder:
        return KafkaFeeder(self.server, self.source, self.sink, seed, bursts)
