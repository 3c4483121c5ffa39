"""Short words for the tests of the source: contexts, opening, reading until enough."""

from __future__ import annotations

import asyncio
from typing import Any

from streamflow.batch import Position, SourceBatch
from streamflow.connect.contracts import SourceContext
from streamflow_kafka import KafkaTopics


def source_context(**other: Any) -> SourceContext:
    return SourceContext(**{"flow": "f", "source": "in", "shard": 0, "incarnation": "i", "generation": 1, **other})


_open: list[Any] = []


async def opened(spec: KafkaTopics[Any], resume: Any = None, **context: Any) -> Any:
    """Opens a source, which is closed when the test ends."""
    source, _ = await started(spec, resume, **context)
    return source


async def started(spec: KafkaTopics[Any], resume: Any = None, **context: Any) -> tuple[Any, dict[str, Position]]:
    """The same, and where its partitions start."""
    source = spec.source()
    _open.append(source)
    return source, dict(await source.open(source_context(**context), resume or {}))


async def close_all() -> None:
    """Closes what the test has opened."""
    while _open:
        await _open.pop().close()


async def batches(source: Any, count: int, seconds: float = 20) -> list[SourceBatch]:
    """Reads batches until they hold so many records."""
    found: list[SourceBatch] = []
    async with asyncio.timeout(seconds):
        while sum(map(len, found)) < count:
            found.append(await source.read())
    return found


async def take(source: Any, count: int, seconds: float = 20) -> list[tuple[str, Any, int]]:
    """Reads records: partition, payload, position."""
    return [row for batch in await batches(source, count, seconds) for row in rows(batch)]


async def payloads(source: Any, count: int) -> list[Any]:
    """Reads records: their payloads."""
    return [payload for _, payload, _ in await take(source, count)]


async def nothing(source: Any, seconds: float = 0.5) -> None:
    """Checks that no record comes; a position may move on."""
    try:
        async with asyncio.timeout(seconds):
            while not (batch := await source.read()).payloads:
                pass
    except TimeoutError:
        return
    raise AssertionError(f"came although nothing should: {batch}")


def rows(batch: SourceBatch) -> list[tuple[str, Any, int]]:
    assert batch.positions is not None
    return [(batch.partition, each, at) for each, at in zip(batch.payloads, batch.positions, strict=True)]
