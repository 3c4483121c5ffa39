"""Dead letters as a stream of the flow: each once, also through crashes, drops and a sink that is refused."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest

import streamflow as sf
from streamflow.errors import DefinitionError
from streamflow.runtime.engine import Engine
from tests.unit.operators.test_async_map import flow_in, send, topics
from tests.unit.runtime.test_dead_letters import boom, letters
from tests.unit.runtime.test_engine import until
from tests.unit.runtime.test_requeue import letters_of


def letter_topic() -> sf.MemoryTopic[sf.StoredLetter]:
    return sf.MemoryTopic("letters", value=sf.StoredLetter)


async def test_every_kind_of_letter_reaches_the_sink_once_and_a_bounded_flow_ends(tmp_path):
    source, sink = topics()
    out = letter_topic()
    flow = flow_in(tmp_path)
    sink.refuse(lambda v: v == 8)
    numbers = flow.source(source, on_error=sf.dead_letter)
    numbers.map(boom, on_error=sf.dead_letter).to(sink, on_error=sf.dead_letter)
    flow.dead_letters.to(out)
    for v in (1, 2, 3, 4):
        source.send(v, key=b"k", headers={"n": str(v)})
    source.send_bytes(b"{")
    source.send_all([7, 8])
    source.close_input()
    await flow.run()
    assert sink.values == [1, 2, 4, 7]
    found = {letter.letter.kind: letter for letter in out.values}
    assert sorted(found) == ["sink", "source", "step"]
    assert len(out.values) == 3
    step = found["step"]
    assert (step.letter.payload, step.letter.key, step.letter.headers) == (b"3", b"k", {"n": "3"})
    assert (step.letter.source, step.letter.position, step.letter.name) == ("in", 3, "boom")
    assert step.epoch > 0
    assert "KeyError" in step.letter.error
    assert 'raise KeyError("boom")' in step.letter.traceback
    assert [letter.payload for letter in letters(flow.state_path)] == [found.letter.payload for found in out.values]
    await flow.run()
    assert len(out.values) == 3


async def test_a_letter_that_was_dropped_leaves_its_number_to_nobody_who_would_be_passed_over(tmp_path):
    source, sink = topics()
    out = letter_topic()
    flow = flow_in(tmp_path)
    flow.source(source).map(boom, on_error=sf.dead_letter).to(sink)
    flow.dead_letters.to(out)
    async with flow.running() as run:
        for v in (3, 6, 9):
            send(source, v)
            await until(lambda v=v: len(out) == v // 3)  # type: ignore[misc]
            (found,) = await run.dead_letters()
            await run.drop(found.id)
    assert [letter.letter.payload for letter in out.values] == [b"3", b"6", b"9"]
    assert [letter.id for letter in out.values] == [1, 2, 3]


async def test_no_number_is_given_twice(tmp_path):
    """A command that was meant for a letter which is gone must not find another one."""
    source, sink = topics()
    flow = flow_in(tmp_path)
    flow.source(source).map(boom, on_error=sf.dead_letter).to(sink)
    given = []
    for _ in range(2):
        async with flow.running() as run:
            for _ in range(2):
                send(source, 3)
                (found,) = await letters_of(run, 1)
                given.append(found.id)
                await run.drop(found.id)
    assert given == [1, 2, 3, 4]


async def test_crashes_neither_lose_nor_double_one_on_its_way_to_the_sink():
    flow = sf.Flow("f")
    source = flow.source(sf.MemoryTopic("in", value=int))
    source.map(boom, on_error=sf.dead_letter)
    flow.dead_letters.to(letter_topic())
    async with flow.test() as t:
        for start in range(1, 60, 3):
            await t.send(source, start, start + 1, start + 2, settle=False)
            for _ in range(start):
                await asyncio.sleep(0)
            await t.crash()
        await t.settle()
        found = [json.loads(letter.letter.payload) for letter in t.out(flow.dead_letters)]
        assert found == [v for v in range(1, 61) if v % 3 == 0]
        assert [letter.id for letter in t.sink("letters")] == [letter.id for letter in t.out(flow.dead_letters)]
        assert t.crashes == 20


@pytest.mark.parametrize("point", ["commit.done", "epoch.appended", "publish.done", "record.buried"])
async def test_a_death_behind_a_letters_commit_loses_none(tmp_path, point):
    source, sink = topics()
    out = letter_topic()
    flow = flow_in(tmp_path)
    sink.refuse(lambda v: v == 4)
    flow.source(source).map(boom, on_error=sf.dead_letter).to(sink, on_error=sf.dead_letter)
    flow.dead_letters.to(out)
    source.send_all([1, 3, 4, 6])
    source.close_input()
    deaths = 0
    for nth in range(1, 4):
        passed = 0

        def die(name: str, nth: int = nth) -> None:
            nonlocal passed
            passed += name == point
            if name == point and passed == nth:
                raise RuntimeError("died")

        job = flow.job()
        if point == "commit.done":
            job.store._options = replace(job.store._options, point=die)  # type: ignore[attr-defined]
        try:
            await Engine(replace(job, point=die)).run()
        except RuntimeError:
            deaths += 1
    assert deaths
    await flow.run()
    assert sink.values == [1]
    assert sorted(letter.letter.payload[-1:] for letter in out.values) == [b"3", b"4", b"6"]


async def test_letters_are_a_stream_like_any_other(tmp_path):
    source, sink = topics()
    names: sf.MemoryTopic[Any] = sf.MemoryTopic("names")
    flow = flow_in(tmp_path)
    flow.source(source).map(boom, on_error=sf.dead_letter).to(sink)
    flow.dead_letters.key_by(lambda letter: letter.letter.name).count(name="per_step").to(names)
    assert flow.dead_letters is flow.dead_letters
    async with flow.running() as run:
        told = run.subscribe(flow.dead_letters)
        send(source, 3, 6)
        assert (await anext(told)).letter.payload == b"3"
        await until(lambda: names.values == [["boom", 1], ["boom", 2]])


async def test_a_bounded_flow_ends_behind_the_letter_of_its_last_detached_call(tmp_path):
    source, sink = topics()
    out = letter_topic()
    flow = flow_in(tmp_path)

    async def later(v: int) -> int:
        await asyncio.sleep(0.005)
        return boom(v)

    flow.source(source).map(later, detached=True, on_error=sf.dead_letter).to(sink)
    flow.dead_letters.to(out)
    source.send_all([1, 3])
    source.close_input()
    async with asyncio.timeout(10):
        await flow.run()
    assert sink.values == [1]
    assert [letter.letter.payload for letter in out.values] == [b"3"]


def test_letters_of_letters_are_refused():
    flow = sf.Flow("f")
    flow.source(sf.MemoryTopic("in", value=int))
    flow.dead_letters.map(lambda letter: letter.id, on_error=sf.dead_letter, name="ids")
    with pytest.raises(DefinitionError, match="map 'ids' reads the flow's dead letters, and would make new ones"):
        flow.graph()
    flow = sf.Flow("f")
    flow.source(sf.MemoryTopic("in", value=int))
    flow.dead_letters.to(letter_topic(), on_error=sf.dead_letter)
    with pytest.raises(DefinitionError, match="sink 'letters' reads the flow's dead letters"):
        flow.graph()
