"""Mode batch on a real server: shared streams, large epochs, kills, purges, zombies, what is refused."""

from __future__ import annotations

import asyncio
import random

import pytest

from streamflow.batch import Progress, pack_frames, unpack_frames
from streamflow.connect.contracts import SinkOptions
from streamflow.errors import ConnectorError, Fenced, ForeignWriter, NotFound, ProgressUnknown, SinkAhead, Unavailable
from tests.connectors.nats.kit import chunk, dead, sink_context
from tests.connectors.nats.test_chain import Stage, values


async def make(broker, *subjects: str, **config) -> Stage:
    name = await broker.stream(*(subjects or ("{}.x", "{}._sf.>")), allow_atomic=True, **config)
    return Stage(broker, name, subject=f"{name}.x", mode="batch")


@pytest.fixture
async def stage(broker):
    each = await make(broker)
    yield each
    await each.close()


async def test_an_epoch_larger_than_one_batch(stage):
    sink = await stage.open()
    progress = await sink.recover(None, [])
    progress = await sink.publish([chunk(sink, 1, 1, values(0, 2500)), chunk(sink, 2, 2501, ["last"])], progress)
    assert (progress.epoch, progress.next_seq) == (2, 2502)
    assert await stage.seen() == [*values(0, 2500), "last"]
    # The batches were cut by the server's limit, not by epochs.
    messages = await stage.broker.all(stage.name)
    assert sum("sf-marker" in message.headers for message in messages) == 1 + 3


@pytest.mark.parametrize("arrived", range(7))
async def test_given_up_records_do_not_confuse_recovery(stage, arrived):
    sink = await stage.open()
    progress = await sink.recover(None, [])
    whole = dead(chunk(sink, 1, 1, values(1, 7)), 1, 4, 6)
    if arrived:
        part = type(whole)("out", 1, 0, 1, arrived, pack_frames(unpack_frames(whole.payload)[:arrived]))
        await sink.publish([part], progress)
    sink = await stage.open(2)
    found = await sink.recover(progress, [whole])
    done = await sink.publish([whole], found)
    assert done.next_seq == 7
    assert await stage.seen() == ["v2", "v3", "v5"]
    sink = await stage.open(3)
    found = await sink.recover(done, [])
    assert found.next_seq == 7
    await sink.publish([chunk(sink, 2, 7, ["v7"])], found)
    assert await stage.seen() == ["v2", "v3", "v5", "v7"]


async def test_sinks_and_others_share_a_stream(stage):
    one = await stage.open()
    other = stage.spec.sink(SinkOptions())
    stage.sinks.append(other)
    await other.open(sink_context(flow="g"))
    mine, theirs = await one.recover(None, []), await other.recover(None, [])
    for epoch in range(1, 6):
        mine = await one.publish([chunk(one, epoch, epoch, [f"mine{epoch}"])], mine)
        await stage.broker.feed(f"{stage.name}.x", b"stranger")
        theirs = await other.publish([chunk(other, epoch, epoch, [f"theirs{epoch}"])], theirs)
    seen = await stage.seen()
    assert [value for value in seen if value.startswith("mine")] == [f"mine{n}" for n in range(1, 6)]
    assert [value for value in seen if value.startswith("theirs")] == [f"theirs{n}" for n in range(1, 6)]
    assert seen.count("stranger") == 5


async def test_a_zombie_is_fenced_for_good(stage):
    zombie = await stage.open(1)
    stored = await zombie.publish([chunk(zombie, 1, 1, ["v1"])], await zombie.recover(None, []))
    newer = await stage.open(2)
    for _ in range(3):
        with pytest.raises(Fenced):
            await zombie.publish([chunk(zombie, 2, 2, ["old"])], stored)
    run = [chunk(newer, 2, 2, ["v2"])]
    await newer.publish(run, await newer.recover(stored, run))
    assert await stage.seen() == ["v1", "v2"]


async def test_an_older_store(stage):
    sink = await stage.open(5)
    baseline = await sink.recover(None, [])
    await sink.publish([chunk(sink, 1, 1, values(0, 5))], baseline)
    for generation in (2, 6):
        older = await stage.open(generation)
        with pytest.raises(SinkAhead):
            await older.recover(None, [])
        with pytest.raises(SinkAhead):
            await older.recover(baseline, [])
    behind = await stage.open(3)
    with pytest.raises(Fenced):
        await behind.recover(Progress(1, 6, baseline.cursor), [])


async def test_another_process_with_the_same_generation_comes_second(stage, monkeypatch):
    """It runs on a copy of the store: were it to fence the first, and then the first it, both would end."""
    first = await stage.open(4)
    progress = await first.recover(None, [])
    monkeypatch.setattr("streamflow_nats.fence.process_name", lambda: "another")
    with pytest.raises(Fenced):
        await stage.open(4)
    await first.publish([chunk(first, 1, 1, ["v0"])], progress)
    assert await stage.seen() == ["v0"]


@pytest.mark.parametrize("between", [False, True])
async def test_a_purge_with_nothing_behind_it_does_no_harm(stage, between):
    sink = await stage.open()
    stored = await sink.publish([chunk(sink, 1, 1, values(0, 3))], await sink.recover(None, []))
    await stage.broker.js.purge_stream(stage.name)
    if between:
        await stage.broker.feed(f"{stage.name}.x", b"stranger")
    sink = await stage.open(2)
    if between:
        with pytest.raises(ProgressUnknown, match="is gone"):
            await sink.recover(stored, [])
        return
    found = await sink.recover(stored, [])
    assert found.next_seq == 4
    await sink.publish([chunk(sink, 2, 4, ["v4"])], found)
    assert await stage.seen() == ["v4"]


async def test_a_purge_of_the_records_keeps_the_marker(stage):
    sink = await stage.open()
    baseline = await sink.recover(None, [])
    run = chunk(sink, 1, 1, values(0, 3))
    await sink.publish([run], baseline)
    await stage.broker.js.purge_stream(stage.name, subject=f"{stage.name}.x")
    sink = await stage.open(2)
    assert (await sink.recover(baseline, [run])).next_seq == 4


async def test_a_running_sink_whose_marker_was_purged_is_fenced_not_wrong(stage):
    sink = await stage.open()
    stored = await sink.publish([chunk(sink, 1, 1, ["v1"])], await sink.recover(None, []))
    await stage.broker.js.purge_stream(stage.name)
    run = [chunk(sink, 2, 2, ["v2"])]
    with pytest.raises(Fenced):
        await sink.publish(run, stored)
    sink = await stage.open(2)
    await sink.publish(run, await sink.recover(stored, run))
    assert await stage.seen() == ["v2"]


async def test_something_else_on_the_marker_subject(stage):
    await stage.broker.feed(f"{stage.name}._sf.sf.f.i.0.out", b"not a marker")
    with pytest.raises(ForeignWriter, match="no marker"):
        await stage.open()


async def test_what_the_stream_must_allow(broker):
    name = await broker.stream("{}.x", "{}._sf.>")
    plain = Stage(broker, name, subject=f"{name}.x", mode="batch")
    with pytest.raises(ConnectorError, match="does not allow atomic batches") as caught:
        await plain.open()
    assert "allow_atomic" in caught.value.hint
    assert "atomic" in (await plain.spec.sink(SinkOptions()).probe()).problem
    narrow = await make(broker, "{}.x")
    with pytest.raises(NotFound, match="no place for the marker") as caught:
        await narrow.open()
    assert f"{narrow.name}.x,{narrow.name}._sf.>" in caught.value.hint
    interest = await make(broker, "{}.>", retention="interest")
    with pytest.raises(ConnectorError, match="interest retention"):
        await interest.open()


async def test_the_marker_may_live_beside_the_records(broker):
    stage = await make(broker, "other.{}.>", "{}.x")
    sink = await stage.open()
    await sink.publish([chunk(sink, 1, 1, ["v1"])], await sink.recover(None, []))
    markers = [m.subject for m in await broker.all(stage.name) if "sf-marker" in m.headers]
    assert set(markers) == {f"other.{stage.name}._sf.sf.f.i.0.out"}
    await stage.close()


@pytest.mark.parametrize("seed", range(2))
async def test_server_killed_while_publishing(mortal, seed, long_run):
    chance = random.Random(seed)
    stage = await make(mortal)
    await mortal.close()
    unopened = stage.spec.sink(SinkOptions())
    epochs, size = 25, 200
    runs = [chunk(unopened, e, 1 + (e - 1) * size, values((e - 1) * size, e * size)) for e in range(1, epochs + 1)]
    stored: Progress | None = None
    generation, kills, lost, kills_max = 0, 0, 0, 12 if long_run else 5
    while stored is None or stored.epoch < epochs:
        generation += 1
        sink = stage.spec.sink(SinkOptions())
        killer = None
        try:
            await sink.open(sink_context(generation))
            if stored is None:
                stored = await sink.recover(None, [])
            found = await sink.recover(stored, runs[stored.epoch :])
            lost += found.next_seq > stored.next_seq
            if kills < kills_max:
                killer = asyncio.create_task(_kill_soon(mortal, chance))
            while found.epoch < epochs:
                if killer is not None and kills < 3 and found.epoch >= (kills + 1) * epochs // 4:
                    await asyncio.wait([killer])  # a fast run must leave enough for the kills to come
                found = await sink.publish(runs[found.epoch : found.epoch + 2], found)
                if chance.random() < 0.3:
                    stored = found
            stored = found
        except Unavailable:
            kills += 1
        finally:
            await sink.close()
            if killer is not None:
                await killer
                await mortal.server.start_async()
    assert kills >= 3
    assert lost >= 1
    await mortal.connect()
    assert await mortal.values(stage.name) == values(0, epochs * size)


async def _kill_soon(broker, chance) -> None:
    await asyncio.sleep(0.002 + 0.05 * chance.random())
    await broker.server.kill_async()
