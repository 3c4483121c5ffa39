"""Short words for the tests: contexts, chunks, reading until enough."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from streamflow.batch import Chunk, Fragment, MicroBatch, SourceBatch, pack_frames
from streamflow.connect.contracts import SinkContext, SourceContext
from streamflow_nats.stream import NatsStream


def source_context(**other: Any) -> SourceContext:
    return SourceContext(**{"flow": "f", "source": "in", "shard": 0, "incarnation": "i", "generation": 1, **other})


def sink_context(generation: int = 1, **other: Any) -> SinkContext:
    return SinkContext(
        **{"flow": "f", "sink": "out", "shard": 0, "incarnation": "i", "generation": generation, **other}
    )


def fragment(values: Sequence[Any], keys: Sequence[Any] | None = None) -> Fragment:
    return Fragment(MicroBatch(1, 0), list(values), True, None if keys is None else list(keys))


def chunk(sink: Any, epoch: int, first_seq: int, values: Sequence[Any]) -> Chunk:
    frames = list(sink.encode(fragment(values)))
    return Chunk("out", epoch, 0, first_seq, len(frames), pack_frames(frames))


def dead(chunk: Chunk, *seqs: int) -> Chunk:
    """The chunk with some records given up."""
    from dataclasses import replace

    from streamflow.batch import unpack_frames

    frames = unpack_frames(chunk.payload)
    for seq in seqs:
        frames[seq - chunk.first_seq] = b""
    return replace(chunk, payload=pack_frames(frames))


async def opened(stream: NatsStream[Any], resume: Any = None, **context: Any) -> Any:
    source = stream.source()
    await source.open(source_context(**context), resume or {})
    return source


async def take(source: Any, count: int, seconds: float = 10) -> list[tuple[bytes, Any]]:
    """Reads at least ``count`` records: payload, and position or id."""
    found: list[tuple[bytes, Any]] = []
    async with asyncio.timeout(seconds):
        while len(found) < count:
            batch = await source.read()
            found += rows(batch)
    return found


async def nothing(source: Any, seconds: float = 0.3) -> None:
    try:
        async with asyncio.timeout(seconds):
            batch = await source.read()
    except TimeoutError:
        return
    raise AssertionError(f"came although nothing should: {batch}")


def rows(batch: SourceBatch | None) -> list[tuple[bytes, Any]]:
    assert batch is not None
    return list(zip(batch.payloads, batch.positions or batch.ids or [], strict=True))
