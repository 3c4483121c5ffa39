"""Mode msgid on a real server: exact inside the duplicate window, at-least-once beyond it, and named so."""

from __future__ import annotations

import asyncio

from streamflow.connect.contracts import Level
from tests.connectors.nats.kit import chunk
from tests.connectors.nats.test_chain import Stage, values


async def test_exact_inside_the_window_and_doubled_beyond(broker):
    name = await broker.stream("{}.x", duplicate_window=500_000_000)
    stage = Stage(broker, name, mode="msgid")
    assert stage.spec.sink_guarantee.level is Level.AT_LEAST_ONCE
    assert "duplicate window" in stage.spec.sink_guarantee.reason
    sink = await stage.open()
    stored = await sink.recover(None, [])
    run = chunk(sink, 1, 1, values(0, 10))
    await sink.publish([run], stored)
    sink = await stage.open(2)
    await sink.publish([run], await sink.recover(stored, [run]))
    assert await stage.seen() == values(0, 10)
    await asyncio.sleep(1.2)
    sink = await stage.open(3)
    await sink.publish([run], await sink.recover(stored, [run]))
    assert await stage.seen() == values(0, 10) * 2
    await stage.close()


async def test_many_writers_share_the_stream(broker):
    name = await broker.stream("{}.x")
    stage = Stage(broker, name, mode="msgid")
    assert stage.spec.target == ""
    sinks = [await stage.open(number) for number in (1, 2)]
    for number, sink in enumerate(sinks):
        sink._fence = f"sf.other.{number}"
        await sink.publish([chunk(sink, 1, 1, ["a", "b"])], await sink.recover(None, []))
    assert await stage.seen() == ["a", "b"] * 2
    await stage.close()
