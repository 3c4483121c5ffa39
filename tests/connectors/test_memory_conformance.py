"""Memory topics pass the conformance kit: with positions, with ids, with several partitions, and blind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from streamflow.connect.memory import MemoryTopic
from streamflow.testing.conformance import SinkConformance, SourceConformance


class TestMemorySource(SourceConformance):
    topic: MemoryTopic[bytes]

    async def start(self) -> None:
        self.topic = MemoryTopic("conformance", value=bytes, partitions=self.partitions, ids=self.by_ids)

    def spec(self) -> MemoryTopic[bytes]:
        return self.topic

    async def feed(self, payloads: Sequence[bytes], partition: str = "") -> None:
        self.topic.send_all(payloads, partition)

    async def end_input(self) -> None:
        self.topic.close_input()

    async def truncate(self, count: int, partition: str = "") -> None:
        self.topic.truncate_before(count, partition)

    async def lose(self, count: int, partition: str = "") -> None:
        held = [record for record in self.topic.records if record.partition == partition]
        self.topic.truncate_from(held[-count].offset, partition)

    async def replace(self) -> None:
        self.topic.replace()

    async def take_down(self) -> None:
        self.topic.unreachable = True

    async def bring_up(self) -> None:
        self.topic.unreachable = False


class TestMemorySourceWithPartitions(TestMemorySource):
    partitions = ("a", "b", "c")


class TestMemorySourceWithIds(TestMemorySource):
    by_ids = True


class TestMemorySink(SinkConformance):
    blind = False
    topic: MemoryTopic[Any]

    async def start(self) -> None:
        self.topic = MemoryTopic("conformance", value=str, blind=self.blind)

    def spec(self) -> MemoryTopic[Any]:
        return self.topic

    async def visible(self) -> list[Any]:
        return self.topic.values

    async def traceparents(self) -> list[str | None]:
        return [(record.headers or {}).get("traceparent") for record in self.topic.records]

    async def write_foreign(self, values: Sequence[Any]) -> None:
        self.topic.send_all(values)

    async def replace(self) -> None:
        self.topic.replace()

    async def take_down(self) -> None:
        self.topic.unreachable = True

    async def bring_up(self) -> None:
        self.topic.unreachable = False


class TestMemorySinkOfPlainValues(TestMemorySink):
    async def start(self) -> None:
        self.topic = MemoryTopic("conformance")


class TestBlindMemorySink(TestMemorySink):
    blind = True
