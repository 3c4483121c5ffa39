"""Dead letters: the record as it came, in the commit that leaves it out; taken in again, dropped, bounded."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import streamflow as sf
from streamflow.batch import DeadLetter
from streamflow.errors import (
    DecodeError,
    DefinitionError,
    RecordRejected,
    StateError,
    StepError,
    StreamflowError,
)
from streamflow.runtime.engine import Engine
from streamflow.runtime.requeue import requeued
from streamflow.state.reader import dead_letters
from tests.unit.operators.test_async_map import flow_in, send, topics
from tests.unit.runtime.test_engine import until


def letters(path: Path) -> list[DeadLetter]:
    return [found.letter for found in dead_letters(path)[1]]


async def run_over(flow: sf.Flow, source: sf.MemoryTopic[Any], values: Sequence[int]) -> None:
    send(source, *values)
    source.close_input()
    await flow.run()


def boom(v: int) -> int:
    if v % 3 == 0:
        raise KeyError("boom")  # the line
    return v


async def async_boom(v: int) -> int:
    await asyncio.sleep(0.001 * (v % 2))
    return boom(v)


def build(kind: str, stream: Any) -> Any:
    dead = sf.dead_letter
    keyed = stream.key_by(lambda v: v % 2, name="by")
    match kind:
        case "map":
            return stream.map(boom, on_error=dead, name="bad")
        case "behind a flat_map":
            return stream.flat_map(lambda v: [v], name="f").map(boom, on_error=dead, name="bad")
        case "filter":
            return stream.filter(boom, on_error=dead, name="bad")
        case "key_by":
            return stream.key_by(boom, on_error=dead, name="bad")
        case "retry":
            return stream.map(boom, on_error=sf.retry(2).then(dead), name="bad")
        case "map_batch":
            return stream.map_batch(lambda vs: [boom(v) for v in vs], on_error=dead, name="bad")
        case "process":
            return keyed.process(state=int, on_error=dead, name="bad")(lambda ctx, v: [boom(v)])
        case "reduce":
            reduced = keyed.reduce(lambda a, v: boom(v), of=int, on_error=dead, name="bad")
            return reduced.map(lambda pair: pair[1], name="second")
        case "async map":
            return stream.map(async_boom, concurrency=3, on_error=dead, name="bad")
        case "async unordered":
            return stream.map(async_boom, concurrency=3, ordered=False, on_error=dead, name="bad")
        case "async retry":
            return stream.map(async_boom, on_error=sf.retry(1, backoff="1ms").then(dead), name="bad")

    @keyed.process(state=int, concurrency=3, on_error=dead, name="bad")
    async def bad(ctx: sf.Context[int, int], v: int) -> list[int]:
        return [await async_boom(v)]

    return bad


KINDS = (
    "map",
    "behind a flat_map",
    "filter",
    "key_by",
    "retry",
    "process",
    "async map",
    "async unordered",
    "async retry",
    "async process",
)


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_record_that_a_step_refuses_is_kept_as_it_came(tmp_path, kind, plain):
    source, sink = topics()
    flow = flow_in(tmp_path, plain=plain)
    build(kind, flow.source(source, name="orders")).to(sink)
    for v in range(1, 8):
        source.send(v, key=f"k{v}".encode(), headers={"n": str(v)})
    source.close_input()
    await flow.run()
    assert sorted(sink.values) == [1, 2, 4, 5, 7]
    # calls that run side by side fail in any order
    found = sorted(letters(flow.state_path), key=lambda letter: letter.position or 0)
    assert [json.loads(letter.payload) for letter in found] == [3, 6]
    first = found[0]
    assert (first.kind, first.name, first.source, first.position) == ("step", "bad", "orders", 3)
    assert (first.key, first.headers) == (b"k3", {"n": "3"})
    assert first.error.startswith("KeyError: 'boom' (source 'orders', the record before position 3")
    assert 'raise KeyError("boom")  # the line' in first.traceback
    assert str(Path(sf.__file__).parent) not in first.traceback


async def test_bytes_that_cannot_be_decoded_are_kept(tmp_path):
    source, sink = topics()
    flow = flow_in(tmp_path, message_bytes_max=20)
    flow.source(source, on_error=sf.dead_letter).to(sink)
    for payload in (b"1", b"{broken", b"2", b"9" * 30, b"3"):
        source.send_bytes(payload)
    source.close_input()
    await flow.run()
    assert sink.values == [1, 2, 3]
    found = letters(flow.state_path)
    assert [letter.payload for letter in found] == [b"{broken", b"9" * 30]
    assert [(letter.kind, letter.name, letter.position) for letter in found] == [
        ("source", "in", 2),
        ("source", "in", 4),
    ]
    assert "message_bytes_max" in found[1].error


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("awaits", [False, True])
async def test_values_that_a_sink_cannot_encode_lead_back_to_their_record(tmp_path, plain, awaits):
    source = sf.MemoryTopic("in", value=int)
    sink: sf.MemoryTopic[int] = sf.MemoryTopic("out", value=int)
    flow = flow_in(tmp_path, plain=plain)

    async def doubtful(v: int) -> Any:
        return object() if v == 2 else v

    stream = flow.source(source).flat_map(lambda v: [v, v], name="twice")
    values: Any = stream.map(doubtful) if awaits else stream.map(lambda v: object() if v == 2 else v, name="doubtful")
    values.to(sink, on_error=sf.dead_letter)
    await run_over(flow, source, [1, 2, 3])
    assert sink.values == [1, 1, 3, 3]
    found = letters(flow.state_path)
    assert [(letter.kind, letter.name, letter.position, letter.payload) for letter in found] == [
        ("sink", "out", 2, b"2"),
        ("sink", "out", 2, b"2"),
    ]
    assert "cannot encode" in found[0].error


async def test_a_timer_has_no_record(tmp_path):
    source, sink = topics()
    flow = flow_in(tmp_path)

    @flow.source(source).key_by(lambda v: f"k{v}", name="by").process(state=int, on_error=sf.dead_letter)
    def step(ctx: sf.Context[str, int], v: int) -> list[int]:
        ctx.timer("soon", after="1ms")
        return [v]

    step.on_timer("soon")(lambda ctx: [boom(0)])
    step.to(sink)
    async with flow.running() as run:
        send(source, 1)
        await until(lambda: sink.values == [1])
        while not (found := await run.dead_letters()):
            await asyncio.sleep(0.005)
        with pytest.raises(StateError, match="of step 'step' is no record of a source"):
            await run.engine.job.store.edit_dead([], {found[0].id: b""})
    assert (found[0].letter.source, found[0].letter.payload) == ("", b"")
    assert "a timer, key 'k1'" in found[0].letter.error


async def test_crashes_neither_lose_nor_double_a_letter():
    flow = sf.Flow("f")
    source = flow.source(sf.MemoryTopic("in", value=int))
    kept = source.map(boom, on_error=sf.dead_letter, name="first").map(async_boom, concurrency=2, name="second")
    crashes = 0
    async with flow.test() as t:
        for start in range(1, 60, 3):
            await t.send(source, start, start + 1, start + 2, settle=False)
            for _ in range(start):
                await asyncio.sleep(0)
            await t.crash()
            crashes += 1
        await t.settle()
        found = [json.loads(letter.payload) for letter in letters(t.path)]
        assert found == [v for v in range(1, 61) if v % 3 == 0]
        assert t.out(kept) == [v for v in range(1, 61) if v % 3]
    assert crashes == 20


async def test_too_many_stop_the_flow(tmp_path):
    source, sink = topics()
    flow = flow_in(tmp_path, dead_letters_max=2, commit_min="0ms")
    flow.source(source).map(boom, on_error=sf.dead_letter).to(sink)
    send(source, 3, 6, 1)
    async with flow.running():
        await until(lambda: sink.values == [1])
    send(source, 9)
    source.close_input()
    with pytest.raises(StepError, match="one more dead letter than dead_letters_max = 2"):
        await flow.run()
    assert len(letters(flow.state_path)) == 2


async def test_a_letter_is_taken_in_again_once_and_goes(tmp_path):
    source, sink = topics()
    flow = flow_in(tmp_path)
    mended = False

    def picky(v: int) -> int:
        if v == 3 and not mended:
            raise ValueError(v)
        return v * 10

    flow.source(source).map(picky, on_error=sf.dead_letter).to(sink)
    async with flow.running() as run:
        send(source, 1, 3)
        await until(lambda: len(sink.values) == 1)
        (found,) = await run.dead_letters()
        assert await run.requeue(found.id) > found.epoch  # refused again: another letter in its place
        (again,) = await run.dead_letters()
        assert (again.id > found.id, again.letter.payload, again.letter.source) == (True, b"3", "in")
        mended = True
        await run.requeue(again.id)
        assert await run.dead_letters() == []
        await until(lambda: sink.values == [10, 30])
        with pytest.raises(StateError, match="no dead letter"):
            await run.requeue(again.id)


async def test_a_letter_requeued_at_rest_is_taken_in_by_the_next_run_through_its_restarts(tmp_path):
    source, sink = topics()
    flow = flow_in(tmp_path)
    flow.source(source).map(boom, on_error=sf.dead_letter).to(sink)
    await run_over(flow, source, [3, 6])
    job = flow.job()
    await job.store.open(job.manifest(Engine(job).bound))
    await job.store.edit_dead([1], {2: b"7"})
    await job.store.close()
    await flow.run()
    await flow.run()
    assert sink.values == [7]
    assert letters(flow.state_path) == []


async def test_nobody_waits_for_what_was_requeued_at_rest(tmp_path):
    """If the flow dies first, its own error is all that is said: no exception that was never retrieved."""
    source, sink = topics()
    flow = flow_in(tmp_path)
    flow.source(source).map(boom, on_error=sf.dead_letter).to(sink)
    await run_over(flow, source, [3])
    job = flow.job()
    checkpoint = await job.store.open(job.manifest(Engine(job).bound))
    await job.store.close()
    (found,) = dead_letters(flow.state_path)[1]
    checkpoint = replace(checkpoint, requeued=[replace(found, requeued=b"7")])
    said: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: said.append(context))
    (push,) = await requeued(job.plan.graph, checkpoint, [], job.clock.now_ms())
    push.done.set_exception(StreamflowError("the flow ended"))
    await asyncio.sleep(0)
    del push
    gc.collect()
    assert said == []


async def test_what_cannot_be_decoded_is_not_taken_in_again(tmp_path):
    source, sink = topics()
    flow = flow_in(tmp_path)
    flow.source(source, on_error=sf.dead_letter).to(sink)
    async with flow.running() as run:
        source.send_bytes(b"{")
        source.send(1)
        await until(lambda: sink.values == [1])
        (found,) = await run.dead_letters()
        with pytest.raises(DecodeError, match=f"dead letter {found.id} cannot be decoded"):
            await run.requeue(found.id)
        await run.requeue(found.id, payload=b"5")
        await until(lambda: sink.values == [1, 5])
        assert await run.dead_letters() == []


def mend(data: bytes) -> bytes:
    if data == b"9":
        raise ValueError("9 cannot be mended")
    return data + b"1"


async def test_a_fix_makes_of_the_bytes_what_is_taken_in(tmp_path):
    source, sink = topics()
    flow = flow_in(tmp_path)
    flow.source(source).map(boom, on_error=sf.dead_letter).to(sink)
    async with flow.running() as run:
        send(source, 3, 9, 6, 1)
        await until(lambda: sink.values == [1])
        three, nine, six = await run.dead_letters()
        await run.requeue(three.id, fix=mend)
        with pytest.raises(StepError, match=f"mend raised ValueError for dead letter {nine.id}: 9 cannot be mended"):
            await run.requeue(nine.id, fix=mend)
        with pytest.raises(StepError, match=f"lambda> gave '6' for dead letter {six.id}") as caught:
            await run.requeue(six.id, fix=lambda data: data.decode())  # type: ignore[arg-type, return-value]
        assert caught.value.hint == "It must give bytes."
        with pytest.raises(DefinitionError, match="not both"):
            await run.requeue(six.id, payload=b"7", fix=mend)
        await run.requeue(six.id, fix=mend)
        await until(lambda: sink.values == [1, 31, 61])
        assert [found.id for found in await run.dead_letters()] == [nine.id]


async def test_a_letter_that_many_take_at_once_is_taken_once(tmp_path):
    """The store is asked, and a codec may have to be prepared: others get there meanwhile."""
    source, sink = topics()
    flow = flow_in(tmp_path)
    mended = False

    def picky(v: int) -> int:
        if v == 3 and not mended:
            raise ValueError(v)
        return v

    flow.source(source).map(picky, on_error=sf.dead_letter).to(sink)
    async with flow.running() as run:
        send(source, 3, 1)
        await until(lambda: sink.values == [1])
        (found,) = await run.dead_letters()
        mended = True
        tries = [run.requeue(found.id), run.requeue(found.id), run.drop(found.id), run.requeue(found.id)]
        done = await asyncio.gather(*tries, return_exceptions=True)
        assert isinstance(done[0], int)
        assert [str(error) for error in done[1:]] == [f"dead letter {found.id} is being taken in again"] * 3
        await until(lambda: sink.values == [1, 3])
        assert await run.dead_letters() == []


async def test_a_letter_that_is_being_dropped_is_not_taken_in(tmp_path):
    source, sink = topics()
    flow = flow_in(tmp_path)
    flow.source(source).map(boom, on_error=sf.dead_letter).to(sink)
    async with flow.running() as run:
        send(source, 3, 1)
        await until(lambda: sink.values == [1])
        (found,) = await run.dead_letters()
        done = await asyncio.gather(run.drop(found.id), run.requeue(found.id), return_exceptions=True)
        assert str(done[1]) == f"dead letter {found.id} is being dropped"
        assert await run.dead_letters() == []
        send(source, 2)
        await until(lambda: sink.values == [1, 2])


async def test_a_letter_is_dropped_while_the_flow_runs(tmp_path):
    source, sink = topics()
    flow = flow_in(tmp_path, dead_letters_max=1)
    flow.source(source).map(boom, on_error=sf.dead_letter).to(sink)
    async with flow.running() as run:
        send(source, 3, 1)
        await until(lambda: len(sink.values) == 1)
        await run.drop((await run.dead_letters())[0].id)
        send(source, 6, 2)  # there is room again
        await until(lambda: len(sink.values) == 2)
        assert [found.letter.payload for found in await run.dead_letters()] == [b"6"]


@pytest.mark.parametrize("at_rest", [False, True])
async def test_a_record_that_the_broker_refuses_for_good_is_given_up_and_the_rest_goes_on(tmp_path, at_rest):
    source, sink = topics()
    memory = {"outbox_memory_bytes_max": 1} if at_rest else {}
    flow = flow_in(tmp_path, chunk_bytes=8, **memory)
    sink.refuse(lambda v: v % 3 == 0)
    flow.source(source).to(sink, on_error=sf.dead_letter)
    await run_over(flow, source, range(1, 10))
    assert sink.values == [1, 2, 4, 5, 7, 8]
    found = letters(flow.state_path)
    assert [(letter.kind, letter.name, letter.source) for letter in found] == [("sink", "out", "")] * 3
    assert [letter.payload[-1:] for letter in found] == [b"3", b"6", b"9"]
    assert "refuses record 3" in found[0].error
    sink.refuse(None)
    await flow.run()  # given up for good
    assert sink.values == [1, 2, 4, 5, 7, 8]


async def test_a_record_that_the_broker_refuses_stops_the_flow_by_default(tmp_path):
    source, sink = topics()
    flow = flow_in(tmp_path)
    sink.refuse(lambda v: v == 2)
    flow.source(source).to(sink)
    with pytest.raises(RecordRejected, match="refuses record 2"):
        await run_over(flow, source, [1, 2, 3])
    assert sink.values == [1]
    assert letters(flow.state_path) == []


async def test_a_crash_before_or_behind_the_burial_neither_loses_nor_doubles_the_letter(tmp_path):
    source, sink = topics()
    sink.refuse(lambda v: v == 2)
    flow = flow_in(tmp_path)
    flow.source(source).to(sink, on_error=sf.dead_letter)
    send(source, 1, 2, 3)
    source.close_input()
    died = 0
    for point in ("publish.begun", "record.buried"):

        def die(name: str, at: str = point) -> None:
            if name == at:
                raise RuntimeError(f"died at {at}")

        with pytest.raises(RuntimeError, match="died at"):
            await Engine(replace(flow.job(), point=die)).run()
        died += 1
    await flow.run()
    assert died == 2
    assert sink.values == [1, 3]
    assert len(letters(flow.state_path)) == 1


async def test_a_record_that_the_broker_refuses_is_left_out_where_the_sink_skips(tmp_path):
    source, sink = topics()
    flow = flow_in(tmp_path)
    sink.refuse(lambda v: v % 3 == 0)
    flow.source(source).to(sink, on_error=sf.skip)
    await run_over(flow, source, range(1, 10))
    assert sink.values == [1, 2, 4, 5, 7, 8]
    assert letters(flow.state_path) == []
