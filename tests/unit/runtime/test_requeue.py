"""Requeueing: a letter's record comes back whole, once, and does not do again what had been done with it."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import streamflow as sf
from streamflow.errors import StateError, StepError
from streamflow.runtime.engine import Engine
from streamflow.runtime.journal import RecordedEpoch, read_epoch
from streamflow.state.claim import StoreOptions
from streamflow.state.sqlite import SqliteStore
from tests.unit.operators.test_async_map import flow_in, topics
from tests.unit.runtime.test_engine import until

NOON_MS = 1_700_000_000_000


class Picky:
    """Refuses its records until it is mended, and notes them."""

    def __init__(self) -> None:
        self.mended = False
        self.seen: list[Any] = []

    def __call__(self, value: Any) -> Any:
        self.seen.append(value)
        if not self.mended:
            raise ValueError("not yet")
        return value


async def letters_of(run: sf.Running, count: int, above: int = -1) -> Sequence[sf.StoredLetter]:
    """So many letters, of epochs behind this one."""
    found: list[sf.StoredLetter] = []
    for _ in range(2000):
        found = [letter for letter in await run.dead_letters() if letter.epoch > above]
        if len(found) == count:
            return found
        await asyncio.sleep(0.005)
    raise AssertionError(f"there are {len(found)} letters, not {count}")


async def test_what_other_paths_have_taken_is_not_given_to_them_again(tmp_path):
    flow, source = flow_in(tmp_path), sf.MemoryTopic("in", value=str)
    outs = {name: sf.MemoryTopic(name, value=str) for name in "abc"}
    picky, picky_too = Picky(), Picky()
    stream = flow.source(source)
    stream.map(picky, name="picky", on_error=sf.dead_letter).to(outs["a"])
    stream.map(str.upper, name="upper").to(outs["b"])

    def only_x(v: str) -> Any:
        return picky_too(v) if v == "x" else v

    stream.flat_map(lambda v: [v, "y", "z"], name="three").map(only_x, on_error=sf.dead_letter).to(outs["c"])
    async with flow.running() as run:
        source.send("x")
        first, second = await letters_of(run, 2)
        picky.mended = picky_too.mended = True
        with pytest.raises(StateError, match="what source 'in' gives also goes to 'upper', 'three'") as refused:
            await run.requeue(first.id)
        assert "everywhere=True, --everywhere" in refused.value.hint
        with pytest.raises(StateError, match="goes to 'picky', 'upper'; flat_map 'three' makes several records of one"):
            await run.requeue(second.id)
        await until(lambda: outs["c"].values == ["y", "z"])
        assert [letter.id for letter in await run.dead_letters()] == [first.id, second.id]
        await run.requeue(first.id, everywhere=True)
        await letters_of(run, 1)
        await until(lambda: outs["c"].values == ["y", "z", "x", "y", "z"])
    assert (outs["a"].values, outs["b"].values) == (["x"], ["X", "X"])


async def test_a_step_that_has_counted_a_record_does_not_count_it_twice(tmp_path):
    source, sink = topics()
    flow, picky = flow_in(tmp_path), Picky()
    counted = flow.source(source).key_by(lambda v: v % 2, name="by").count(name="counted")
    counted.map(picky, on_error=sf.dead_letter, name="picky").to(sink)
    async with flow.running() as run:
        source.send(1)
        (found,) = await letters_of(run, 1)
        picky.mended = True
        with pytest.raises(StateError, match="count 'counted' has taken it into its state"):
            await run.requeue(found.id)
        await run.drop(found.id)


@pytest.mark.parametrize("kind", ["map", "async map", "detached"])
async def test_a_record_comes_back_with_key_headers_place_time_and_identity(tmp_path, kind):
    flow, source = flow_in(tmp_path), sf.MemoryTopic("in", value=str, partitions=["p"])
    sink: sf.MemoryTopic[str] = sf.MemoryTopic("out", value=str)
    picky = Picky()

    def look(ctx: sf.Context[None, None], m: sf.Message[str]) -> str:
        picky((m, ctx.id, dict(ctx.headers), ctx.event_time))
        return m.value

    async def look_later(ctx: sf.Context[None, None], m: sf.Message[str]) -> str:
        return look(ctx, m)

    async def value_later(ctx: sf.Context[None, None], v: str) -> str:
        picky((v, ctx.id, dict(ctx.headers)))
        return v

    stream = flow.source(source, message=True, time="broker", lateness="1d")
    if kind == "map":
        stream.map(look, on_error=sf.dead_letter).to(sink)
    elif kind == "async map":
        stream.map(look_later, on_error=sf.dead_letter).to(sink)
    else:
        values = stream.map(lambda m: m.value, name="value")
        values.map(value_later, detached=True, on_error=sf.dead_letter).to(sink)
    async with flow.running() as run:
        source.send("hello", "p", key=b"k", headers={"a": "1"}, timestamp_ms=NOON_MS)
        (found,) = await letters_of(run, 1)
        assert (found.letter.timestamp_ms, found.letter.position, found.letter.partition) == (NOON_MS, 1, "p")
        await run.requeue(found.id)  # refused again, with all that the first letter held
        (again,) = await letters_of(run, 1, above=found.epoch)
        assert replace(again.letter, traceback="") == replace(found.letter, traceback="")
        picky.mended = True
        await run.requeue(again.id)
        await until(lambda: sink.values == ["hello"])
    first, *others = picky.seen
    assert others == [first, first], "key, headers, position, timestamp, event time and identity are those of the first"
    if kind != "detached":
        message = first[0]
        assert (message.key, message.headers, message.position) == (b"k", {"a": "1"}, 1)
        assert (message.timestamp_ms, first[2]) == (NOON_MS, {"a": "1"})
        assert first[3].timestamp() == NOON_MS / 1000


async def test_keys_and_event_time_lead_it_where_it_belongs(tmp_path):
    flow, source = flow_in(tmp_path), sf.MemoryTopic("in", value=int)
    sink: sf.MemoryTopic[Any] = sf.MemoryTopic("out", value=Any)
    picky = Picky()
    kept = flow.source(source, message=True, time=lambda m: m.timestamp_ms or 0, lateness="1h").filter(
        lambda m: m.value or bool(picky(m)), on_error=sf.dead_letter, name="kept"
    )
    counts = kept.key_by(lambda m: (m.key or b"nobody").decode()).window(sf.tumbling("1m")).count(name="per_minute")
    counts.to(sink)
    async with flow.running() as run:
        source.send(0, key=b"ann", timestamp_ms=NOON_MS)
        source.send(1, key=b"bob", timestamp_ms=NOON_MS + 1)
        (found,) = await letters_of(run, 1)
        picky.mended = True
        kept_value = b"2"
        await run.requeue(found.id, payload=kept_value)
        source.close_input()
        await until(lambda: len(sink.values) == 2)
    assert sorted((row["key"], row["value"], row["start"]) for row in map(dict, sink.values)) == [
        ("ann", 1, sink.values[0]["start"]),
        ("bob", 1, sink.values[0]["start"]),
    ]


@pytest.mark.parametrize("fault", ["raises", "too far ahead"])
async def test_a_record_without_an_event_time_is_refused_by_name(tmp_path, fault):
    flow, source = flow_in(tmp_path), sf.MemoryTopic("in", value=int)
    sink: sf.MemoryTopic[int] = sf.MemoryTopic("out", value=int)

    def time(v: int) -> int:
        if v < 0:
            raise LookupError("no time")
        return v

    flow.source(source, time=time, future_max="1h", on_error=sf.dead_letter).to(sink)
    async with flow.running() as run:
        source.send(-1 if fault == "raises" else NOON_MS * 2)
        (found,) = await letters_of(run, 1)
        with pytest.raises(
            StepError, match=f"dead letter {found.id} of source 'in' has no event time that can be"
        ) as no:
            await run.requeue(found.id)
        assert ("LookupError: no time" if fault == "raises" else "ahead of the clock") in no.value.message
        assert "--fix" in no.value.hint
        assert len(await run.dead_letters()) == 1
        await run.requeue(found.id, payload=b"%d" % NOON_MS)
        await until(lambda: sink.values == [NOON_MS])
        assert await run.dead_letters() == []


async def test_what_a_broker_refused_is_an_output_and_no_record_of_a_source(tmp_path):
    source, sink = topics()
    flow = flow_in(tmp_path)
    sink.refuse(lambda v: v == 3)
    flow.source(source).to(sink, on_error=sf.dead_letter)
    async with flow.running() as run:
        source.send_all([1, 3, 4])
        (found,) = await letters_of(run, 1)
        with pytest.raises(StateError, match="refused by the broker of sink 'out', behind the commit") as refused:
            await run.requeue(found.id)
        assert f"drop {found.id}" in refused.value.hint
        assert "export" in refused.value.hint
        assert "--fix" not in refused.value.hint


async def test_what_a_timer_raised_for_is_no_record_of_a_source(tmp_path):
    source, sink = topics()
    flow = flow_in(tmp_path)

    @flow.source(source).key_by(lambda v: v, name="by").process(state=int, on_error=sf.dead_letter)
    def step(ctx: sf.Context[int, int], v: int) -> list[int]:
        ctx.timer("soon", after="1ms")
        return [v]

    step.on_timer("soon")(lambda ctx: [1 // 0])
    step.to(sink)
    async with flow.running() as run:
        source.send(1)
        (found,) = await letters_of(run, 1)
        with pytest.raises(StateError, match="of step 'step' is no record of a source: a timer"):
            await run.requeue(found.id)


def recorded(path: Path) -> list[RecordedEpoch]:
    with sqlite3.connect(path) as connection:
        rows = connection.execute(
            "SELECT epoch, journal.payload, internal.payload FROM journal LEFT JOIN internal USING(epoch) ORDER BY 1"
        )
        return [read_epoch(epoch, journal, pushed or b"") for epoch, journal, pushed in rows]


async def test_a_replay_takes_a_requeued_record_in_as_it_was(tmp_path):
    flow, source = flow_in(tmp_path), sf.MemoryTopic("in", value=str)
    sink: sf.MemoryTopic[Any] = sf.MemoryTopic("out", value=Any)
    picky = Picky()

    def look(ctx: sf.Context[None, None], m: sf.Message[str]) -> list[Any]:
        picky.mended = len(picky.seen) % 2 == 1  # it refuses the first call of each run
        picky(m)
        return [m.value, str(m.key), dict(m.headers), m.position, m.timestamp_ms, ctx.id]

    flow.source(source, message=True, time=lambda m: m.timestamp_ms or 0).map(look, on_error=sf.dead_letter).to(sink)
    async with flow.running() as run:
        source.send("x", key=b"k", headers={"a": "1"}, timestamp_ms=NOON_MS)
        (found,) = await letters_of(run, 1)
        await run.requeue(found.id)
        await until(lambda: len(sink.values) == 1)
    assert len(picky.seen) == 2
    again = replace(flow.job(), store=SqliteStore(tmp_path / "again.db"), journal=recorded(flow.state_path))
    first = sink.values[:]
    await Engine(again).run()
    assert first[0][:5] == ["x", "b'k'", {"a": "1"}, 1, NOON_MS]
    assert len(picky.seen) == 4
    assert picky.seen[2:] == picky.seen[:2]
    digests = [
        sqlite3.connect(path).execute("SELECT digest FROM epoch ORDER BY epoch DESC LIMIT 1").fetchone()
        for path in (flow.state_path, tmp_path / "again.db")
    ]
    assert digests[0] == digests[1]


@pytest.mark.parametrize(
    "point", ["state.loaded", "number.formed", "epoch.encoded", "commit.begun", "commit.done", "publish.begun"]
)
async def test_a_death_at_any_point_of_its_return_neither_loses_nor_doubles_it(tmp_path, point):
    source, sink = topics()
    flow, picky = flow_in(tmp_path), Picky()

    async def charged(ctx: sf.Context[None, None], v: int) -> int:
        picky(ctx.id)
        await asyncio.sleep(0)
        return v

    flow.source(source).map(charged, on_error=sf.dead_letter).to(sink)
    source.send(7)
    async with flow.running() as run:
        (found,) = await letters_of(run, 1)
    job = flow.job()
    await job.store.open(job.manifest(Engine(job).bound))
    await job.store.edit_dead([], {found.id: found.letter.payload})
    await job.store.close()
    picky.mended = True

    died = 0

    def die(name: str) -> None:
        nonlocal died
        if name == point:
            died += 1
            raise RuntimeError("died")

    store = SqliteStore(flow.state_path, options=StoreOptions(point=die))
    with pytest.raises(RuntimeError, match="died"):
        await asyncio.wait_for(Engine(replace(flow.job(), point=die, store=store)).run(), 20)
    assert died == 1
    async with flow.running() as run:
        await letters_of(run, 0)
        await until(lambda: sink.values == [7])
    assert sink.values == [7]
    assert len(set(picky.seen)) == 1, "every attempt of every life has the identity of the first"
