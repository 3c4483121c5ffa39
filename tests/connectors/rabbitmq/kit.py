"""Short words for the tests: contexts, chunks, reading until enough."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from streamflow.batch import Chunk, Taken, pack_frames
from streamflow.connect.contracts import SinkContext, SinkOptions, SourceContext
from tests.connectors.nats.kit import dead, fragment, nothing, take

__all__ = ["DECLARED_SECONDS", "chunk", "commit", "dead", "fragment", "nothing", "open_sink", "open_source", "take"]

DECLARED_SECONDS = 2.5
"""What was declared in the last two seconds before a kill is lost."""


async def open_source(spec: Any, **context: Any) -> Any:
    source = spec.source()
    given = {"flow": "f", "source": "in", "shard": 0, "incarnation": "i", "generation": 1, **context}
    try:
        await source.open(SourceContext(**given), {})
    except BaseException:
        await source.close()
        raise
    return source


async def open_sink(spec: Any, name: str, generation: int = 1, *, options: Any = None, **context: Any) -> Any:
    """Opens a sink whose lock and marker carry ``name``."""
    sink = spec.sink(options or SinkOptions())
    given = {"flow": name, "sink": "out", "shard": 0, "incarnation": "i", "generation": generation, **context}
    try:
        await sink.open(SinkContext(**given))
    except BaseException:
        await sink.close()
        raise
    return sink


def chunk(sink: Any, epoch: int, first_seq: int, values: Sequence[Any]) -> Chunk:
    frames = list(sink.encode(fragment(values)))
    return Chunk("out", epoch, 0, first_seq, len(frames), pack_frames(frames))


async def commit(source: Any, ids: Sequence[Any], epoch: int = 1) -> None:
    await source.committed(epoch, Taken(ids=list(ids)))
    await asyncio.sleep(0)
