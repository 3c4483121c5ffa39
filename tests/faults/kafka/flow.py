"""The flow that fault tests kill, between two topics of Kafka."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import streamflow as sf
from streamflow.connect.contracts import SinkSpec
from streamflow_kafka import Kafka, KafkaTopic, Options
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
        options: `Options` of source and sinks by name.
    """

    url: str
    source: str
    targets: tuple[Target, ...]
    options: dict[str, Any] = field(default_factory=dict)

    def reads(self) -> KafkaTopic[Numbered]:
        return Kafka(self.url, options=Options(**self.options)).topic(self.source, value=Numbered)

    def writes(self) -> Sequence[tuple[KafkaTopic[Counted], Guaranteed | None]]:
        options = Options(**self.options)
        return [
            (Kafka(target.url, options=options).topic(target.topic, value=Counted), None) for target in self.targets
        ]


@dataclass(frozen=True, kw_only=True)
class ToFileSetup(Setup):
    """The same flow from a topic into a file.

    Args:
        url: The server.
        source: The topic to read.
        file: The file to write.
        options: `Options` by name.
    """

    url: str
    source: str
    file: Path
    options: dict[str, Any] = field(default_factory=dict)

    def reads(self) -> KafkaTopic[Numbered]:
        return Kafka(self.url, options=Options(**self.options)).topic(self.source, value=Numbered)

    def writes(self) -> Sequence[tuple[SinkSpec[Counted], Guaranteed | None]]:
        return [(sf.jsonl(self.file, value=Counted), None)]
