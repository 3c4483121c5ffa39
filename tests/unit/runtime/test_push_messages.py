"""A record pushed to a source of messages comes as a message, and comes back as one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

import streamflow as sf
from streamflow.errors import DefinitionError
from streamflow.runtime.cut import Envelope
from streamflow.runtime.engine import Engine
from streamflow.state.sqlite import SqliteStore
from tests.unit.operators.test_async_map import flow_in, topics
from tests.unit.runtime.test_engine import until
from tests.unit.runtime.test_requeue import NOON_MS, letters_of, recorded

PUSHED = sf.Message(7, key=b"k", headers={"a": "1"}, timestamp_ms=NOON_MS)


async def test_steps_get_the_message_and_so_does_a_replay(tmp_path):
    source, sink = topics()
    flow, seen = flow_in(tmp_path), list[Any]()

    def look(m: sf.Message[int]) -> int:
        seen.append(m)
        return m.value

    stream = flow.source(source, message=True, time=lambda m: m.timestamp_ms or 0)
    stream.map(look).to(sink)
    async with flow.running() as run:
        await run.push(stream, replace(PUSHED, position=99))
        await run.push(stream, sf.Message(8, timestamp_ms=NOON_MS))
        await until(lambda: sink.values == [7, 8])
    assert seen == [PUSHED, sf.Message(8, timestamp_ms=NOON_MS)]
    stored = [push for epoch in recorded(flow.state_path) for push in epoch.pushed]
    assert [push.payload for push in stored] == [b"7", b"8"]
    assert stored[0].envelope == Envelope(id=stored[0].id, key=b"k", headers={"a": "1"}, timestamp_ms=NOON_MS)
    again = replace(flow.job(), store=SqliteStore(tmp_path / "again.db"), journal=recorded(flow.state_path))
    await Engine(again).run()
    assert seen[2:] == seen[:2]


async def test_a_letter_of_one_holds_it_whole_and_brings_it_back(tmp_path):
    source, sink = topics()
    flow, seen = flow_in(tmp_path), list[Any]()

    def picky(m: sf.Message[int]) -> int:
        seen.append(m)
        return m.value // (len(seen) - 1)

    stream = flow.source(source, message=True)
    stream.map(picky, on_error=sf.dead_letter).to(sink)
    async with flow.running() as run:
        await run.push(stream, PUSHED)
        (found,) = await letters_of(run, 1)
        assert (found.letter.source, found.letter.payload, found.letter.key) == ("in", b"7", b"k")
        await run.requeue(found.id)
        await until(lambda: sink.values == [7])
    assert seen == [PUSHED, PUSHED]


async def test_what_is_no_message_is_refused(tmp_path):
    source, sink = topics()
    flow = flow_in(tmp_path)
    stream = flow.source(source, message=True)
    stream.map(lambda m: m.value).to(sink)
    async with flow.running() as run:
        with pytest.raises(DefinitionError, match=r"source 'in' gives messages, and 7 is none"):
            await run.push(stream, 7)  # type: ignore[misc]
    assert sink.values == []
