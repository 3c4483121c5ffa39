"""A pushed record keeps its identity through restarts, and no other record gets it after a crash."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

import streamflow as sf
from streamflow.runtime.cut import Pushed
from streamflow.runtime.engine import Engine
from streamflow.runtime.journal import RecordedPush, read_epoch
from tests.unit.operators.test_async_map import flow_in, topics
from tests.unit.runtime.test_engine import until


async def test_a_record_pushed_after_a_crash_has_another_identity_than_the_one_that_was_lost(tmp_path):
    source, sink = topics()
    flow = flow_in(tmp_path)
    ids: list[str] = []

    async def charged(ctx: sf.Context[None, None], v: int) -> int:
        ids.append(ctx.id)
        await asyncio.sleep(0)
        return v

    stream = flow.source(source)
    stream.map(charged).to(sink)

    def die(name: str) -> None:
        if name == "epoch.encoded":
            raise RuntimeError("died")

    engine = Engine(replace(flow.job(), point=die))
    engine.push(Pushed("in", 1, b"1", asyncio.get_running_loop().create_future(), "lost"))
    with pytest.raises(RuntimeError, match="died"):
        await engine.run()
    assert len(ids) == 1, "the call was made, and its epoch was never committed"
    async with flow.running() as run:
        await run.push(stream, 2)
        await until(lambda: sink.values == [2])
    assert len(set(ids)) == 2


def test_pushes_of_older_state_files_can_be_read():
    from msgspec.msgpack import encode

    assert read_epoch(1, b"\x90", encode([("in", b"1")])).pushed == (RecordedPush("in", b"1"),)
    assert read_epoch(1, b"\x90", encode([("in", b"1", "abc")])).pushed == (RecordedPush("in", b"1", "abc"),)
