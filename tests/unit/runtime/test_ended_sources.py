"""The end of a bounded source: it closes windows even if it finds intake stalled by a sink that is away."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import streamflow as sf
from streamflow.runtime.settings import Settings


class Away(sf.Instrument):
    """Once intake has stalled the input ends; the sink comes back a little later."""

    def __init__(self, source: sf.MemoryTopic[Any], sink: sf.MemoryTopic[Any]) -> None:
        self.source, self.sink = source, sink
        self.stalls = 0

    def stalled(self, reason: str) -> None:
        self.stalls += 1
        self.source.close_input()
        asyncio.get_running_loop().call_later(0.3, setattr, self.sink, "unreachable", False)


async def test_windows_close_though_the_outbox_was_full_when_the_source_ended(tmp_path: Path) -> None:
    settings = Settings(outbox_bytes_max=1, fragment_rows_max=1, commit_min="0ms", checkpoint_share=1.0)
    flow = sf.Flow("ended", state=tmp_path / "ended.db", settings=settings)
    topic, sink = sf.MemoryTopic[Any]("in"), sf.MemoryTopic[Any]("out")
    records = flow.source(topic, time=lambda second: second * 1000)
    counts = records.key_by(lambda _: "k").window(sf.tumbling("10s")).count(name="counts")
    counts.map(lambda row: row.value).to(sink)
    topic.send_all([1, 12])
    sink.unreachable = True
    away = Away(topic, sink)
    await flow.run(away)
    assert away.stalls
    assert sink.values == [1, 1]
