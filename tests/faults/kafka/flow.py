"""The flow that fault tests kill, between two topics of Kafka."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from streamflow_kafka import Kafka, KafkaTopic, KafkaTopics, Options
from tests.faults.flow import Counted, Guaranteed, Numbered, Setup


@dataclass(frozen=True)
class Target:
    """A sink: its topic, and where its server is."""

    topic: str
    url: str


@dataclass(frozen=True, kw_only=True)
class KafkaSetup(Setup):
    """How the flow is built.

    Args:
        url: The source's server.
        source: The topic to read.
        targets: The sinks.
        pattern: Read all topics that match, instead of one.
        options: `Options` of source and sinks by name.
    """

    url: str
    source: str
    targets: tuple[Target, ...]
    pattern: str = ""
    options: dict[str, Any] = field(default_factory=dict)

    def reads(self) -> KafkaTopics[Numbered]:
        kafka = self._cluster(self.url)
        if self.pattern:
            return kafka.topics(pattern=self.pattern, value=Numbered)
        return kafka.topic(self.source, value=Numbered)

    def writes(self) -> Sequence[tuple[KafkaTopic[Counted], Guaranteed | None]]:
        return [(self._cluster(target.url).topic(target.topic, value=Counted), None) for target in self.targets]

    def _cluster(self, url: str) -> Kafka:
        return Kafka(url, options=Options(**self.options))
