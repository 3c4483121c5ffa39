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
        left_out: Partitions of sinks in which the end of a transaction is not written, as where the broker was killed
            in that instant. The broker must not verify transactions.
    """

    url: str
    source: str
    targets: tuple[Target, ...]
    options: dict[str, Any] = field(default_factory=dict)
    left_out: tuple[int, ...] = ()

    def reads(self) -> KafkaTopic[Numbered]:
        return Kafka(self.url, options=Options(**self.options)).topic(self.source, value=Numbered)

    def writes(self) -> Sequence[tuple[KafkaTopic[Counted], Guaranteed | None]]:
        options = Options(**self.options)
        if self.left_out:
            leave_out(self.left_out)
        return [
            (Kafka(target.url, options=options).topic(target.topic, value=Counted), None) for target in self.targets
        ]


def leave_out(partitions: Sequence[int]) -> None:
    """Leaves partitions out of every transaction of this process, though records are sent to them."""
    from streamflow_kafka.transactions import Transactions

    add = Transactions.add

    async def add_some(transactions: Transactions, wanted: Sequence[int]) -> None:
        await add(transactions, [each for each in wanted if each not in partitions])

    Transactions.add = add_some  # type: ignore[method-assign, assignment]


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
