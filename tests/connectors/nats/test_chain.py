"""Mode chain on a real server: kills in the middle, zombies, foreign writers, purges, older and copied stores."""

from __future__ import annotations

import asyncio
import itertools
import random
import shutil

import pytest
from nats.js.api import DiscardPolicy

from streamflow.batch import Progress, pack_frames, unpack_frames
from streamflow.connect.contracts import SinkOptions
from streamflow.errors import (
    ConnectorError,
    EncodeError,
    Fenced,
    ForeignWriter,
    NotFound,
    ProgressUnknown,
    RecordRejected,
    SinkAhead,
    Unavailable,
)
from streamflow_nats import Limits, Nats
from tests.connectors.nats.kit import chunk, dead, fragment, sink_context


def values(start: int, stop: int) -> list[str]:
    return [f"v{number}" for number in range(start, stop)]


class Stage:
    """One stream, and sinks on it."""

    def __init__(self, broker, name: str, **stream) -> None:
        self.broker, self.name = broker, name
        self.spec = broker.nats.stream(name, value=str, **stream)
        self.sinks: list = []

    async def open(self, generation: int = 1, options: SinkOptions | None = None):
        sink = self.spec.sink(options or SinkOptions())
        self.sinks.append(sink)
        await sink.open(sink_context(generation))
        return sink

    async def seen(self) -> list[str]:
        found: list[str] = await self.broker.values(self.name)
        return found

    async def close(self) -> None:
        for sink in self.sinks:
            await sink.close()


@pytest.fixture(params=["one by one", "in batches", "in turns"])
async def stage(broker, request, monkeypatch):
    """A stream without atomic batches; one on which every run is a batch; and one on which every other run is."""
    choices = itertools.cycle([True] if request.param == "in batches" else [True, False])
    monkeypatch.setattr("streamflow_nats.batching.Batching.choose", lambda self, messages: next(choices))
    each = Stage(broker, await broker.stream("{}.x", allow_atomic=request.param != "one by one"))
    yield each
    await each.close()


@pytest.fixture
def deaf(monkeypatch):
    """Zombies that do not hear the newer instance, as a frozen process does not."""

    async def nobody_hears(link, fence, generation) -> None:
        pass

    monkeypatch.setattr("streamflow_nats.chain.take_over", nobody_hears)


async def test_another_process_with_the_same_generation_comes_second(stage, monkeypatch):
    """It runs on a copy of the store: were it to fence the first, and then the first it, both would end."""
    first = await stage.open(4)
    progress = await first.recover(None, [])
    monkeypatch.setattr("streamflow_nats.fence.process_name", lambda: "another")
    with pytest.raises(Fenced):
        await stage.open(4)
    await first.publish([chunk(first, 1, 1, ["v0"])], progress)
    assert await stage.seen() == ["v0"]


async def test_messages_carry_fence_number_key_and_headers(stage):
    options = SinkOptions(headers=lambda value: {"a": value + "!"}, key=lambda value: (value, 1))
    sink = await stage.open(7, options)
    progress = await sink.recover(None, [])
    await sink.publish([chunk(sink, 1, 1, ["v"])], progress)
    (message,) = await stage.broker.all(stage.name)
    id_name = "sf-id" if sink._in_batches else "Nats-Msg-Id"
    assert message.subject == f"{stage.name}.x"
    assert message.headers == {
        "sf-key": '["v",1]',
        "a": "v!",
        "sf-fence": "sf.f.i.0.out",
        "sf-gen": "7",
        "sf-seq": "1",
        "Nats-Expected-Last-Sequence": "0",
        id_name: message.headers[id_name],
    }


async def test_subjects_chosen_by_the_record(broker):
    name = await broker.stream("{}.>")
    stage = Stage(broker, name, subject=f"{name}.*")
    sink = await stage.open(options=SinkOptions(subject=lambda value: f"{name}.{value}"))
    await sink.publish([chunk(sink, 1, 1, ["a", "b", "a"])], await sink.recover(None, []))
    assert [message.subject for message in await broker.all(name)] == [f"{name}.a", f"{name}.b", f"{name}.a"]
    for bad in ("a.b", "a b", "*", "a\r\nPUB x 0", ""):
        with pytest.raises(EncodeError):
            sink.encode(fragment([bad]))
    await stage.close()


async def test_a_subject_must_be_known(broker):
    name = await broker.stream("{}.a", "{}.b")
    with pytest.raises(NotFound, match="on which subject"):
        await Stage(broker, name).open()
    with pytest.raises(NotFound, match="not bound"):
        await Stage(broker, name, subject="elsewhere").open()
    probe = await broker.nats.stream(name, subject="elsewhere").sink(SinkOptions()).probe()
    assert not probe.ok
    assert probe.hint


async def test_a_subject_outside_the_stream_rejects_its_record(stage):
    sink = await stage.open(options=SinkOptions(subject=lambda value: value))
    progress = await sink.recover(None, [])
    good = f"{stage.name}.x"
    run = chunk(sink, 1, 1, [good, "nowhere", good])
    with pytest.raises(RecordRejected) as caught:
        await sink.publish([run], progress)
    assert caught.value.seq == 2
    run = dead(run, 2)
    sink = await stage.open(2, SinkOptions(subject=lambda value: value))
    found = await sink.recover(progress, [run])
    done = await sink.publish([run], found)
    assert done.next_seq == 4
    assert await stage.seen() == [good, good]


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
    assert (await sink.recover(done, [])).next_seq == 7


async def test_a_message_too_large_for_the_stream(broker):
    name = await broker.stream("{}.x", max_msg_size=500)
    stage = Stage(broker, name)
    unopened = stage.spec.sink(SinkOptions())
    run = chunk(unopened, 1, 1, ["a", "b" * 400, "c"])
    sink = await stage.open()
    with pytest.raises(EncodeError, match="the limit is"):
        sink.encode(fragment(["b" * 400]))
    with pytest.raises(RecordRejected) as caught:
        await sink.publish([run], await sink.recover(None, []))
    assert caught.value.seq == 2
    assert caught.value.hint
    await stage.close()


async def test_a_refusal_in_the_middle_of_a_write_loses_nothing(broker):
    """With one answer for many messages the refused one is still found, and all before it have landed, once."""
    name = await broker.stream("{}.x", max_msgs=300, discard=DiscardPolicy.NEW)
    stage = Stage(broker, name)
    sink = await stage.open()
    run = chunk(sink, 1, 1, values(0, 1000))
    progress = await sink.recover(None, [])
    with pytest.raises(Unavailable, match="maximum messages"):
        await sink.publish([run], progress)
    assert await stage.seen() == values(0, 300)
    sink = await stage.open(2)
    assert (await sink.recover(progress, [run])).next_seq == 301
    await stage.close()


async def test_a_foreign_writer_while_running(stage):
    sink = await stage.open()
    progress = await sink.publish([chunk(sink, 1, 1, values(1, 3))], await sink.recover(None, []))
    await stage.broker.feed(f"{stage.name}.x", b"foreign")
    with pytest.raises(ForeignWriter, match="published by another writer") as caught:
        await sink.publish([chunk(sink, 2, 3, values(3, 5))], progress)
    assert 'mode="batch"' in caught.value.hint
    assert await stage.seen() == ["v1", "v2", "foreign"]


async def test_two_flows_on_one_stream_name_each_other(stage):
    sink = await stage.open()
    progress = await sink.publish([chunk(sink, 1, 1, values(1, 3))], await sink.recover(None, []))
    other = stage.spec.sink(SinkOptions())
    stage.sinks.append(other)
    await other.open(sink_context(flow="g"))
    await other.publish([chunk(other, 1, 1, ["g"])], await other.recover(None, []))
    with pytest.raises(ForeignWriter, match=r"sf\.g\.i\.0\.out"):
        await sink.publish([chunk(sink, 2, 3, ["v3"])], progress)


async def test_a_frozen_zombie_on_the_same_store_doubles_nothing(stage, deaf):
    """Both hold the same outbox: whoever comes first publishes a record, the other counts it as published."""
    zombie = await stage.open(1)
    stored = await zombie.recover(None, [])
    runs = [chunk(zombie, 1, 1, values(1, 4)), chunk(zombie, 2, 4, values(4, 6))]
    newer = await stage.open(2)
    found = await newer.recover(stored, runs)
    assert found.next_seq == 1
    await zombie.publish(runs[:1], stored)
    done = await newer.publish(runs, found)
    assert await stage.seen() == values(1, 6)
    # The zombie goes on where it was: its epoch 2 is there already, by the newer one.
    with pytest.raises(Fenced, match="generation 2"):
        await zombie.publish(runs, stored)
    await newer.publish([chunk(newer, 3, 6, ["v6"])], done)
    assert await stage.seen() == values(1, 7)


async def test_a_zombie_on_a_copied_store_is_fenced(stage, deaf):
    zombie = await stage.open(1)
    stored = await zombie.publish([chunk(zombie, 1, 1, values(1, 3))], await zombie.recover(None, []))
    newer = await stage.open(2)
    mine = [chunk(newer, 2, 3, ["new3", "new4"])]
    done = await newer.publish(mine, await newer.recover(stored, mine))
    with pytest.raises(Fenced):
        await zombie.publish([chunk(zombie, 2, 3, ["old3", "old4", "old5"])], stored)
    with pytest.raises(Fenced):
        await zombie.publish([chunk(zombie, 2, 3, ["new3", "new4"])], stored)
    await newer.publish([chunk(newer, 3, 5, ["new5"])], done)
    assert await stage.seen() == ["v1", "v2", "new3", "new4", "new5"]


async def test_the_loser_of_a_race_between_copies_is_fenced(stage, deaf):
    """The zombie wakes up first: then its records stand, and it is the newer one that must stop."""
    zombie = await stage.open(1)
    stored = await zombie.publish([chunk(zombie, 1, 1, values(1, 3))], await zombie.recover(None, []))
    newer = await stage.open(2)
    mine = [chunk(newer, 2, 3, ["new3", "new4"])]
    found = await newer.recover(stored, mine)
    await zombie.publish([chunk(zombie, 2, 3, ["old3", "old4"])], stored)
    with pytest.raises(Fenced, match="other content"):
        await newer.publish(mine, found)
    assert await stage.seen() == ["v1", "v2", "old3", "old4"]


async def test_an_older_store_is_told_that_it_is_one(stage):
    sink = await stage.open(1)
    baseline = await sink.recover(None, [])
    run = chunk(sink, 1, 1, values(1, 6))
    await sink.publish([run], baseline)
    older = await stage.open(2)
    with pytest.raises(SinkAhead, match="record 5"):
        await older.recover(None, [])
    with pytest.raises(SinkAhead):
        await older.recover(baseline, [])


async def test_a_live_newer_instance_is_not_disturbed_by_an_older_store(stage):
    newer = await stage.open(5)
    progress = await newer.recover(None, [])
    with pytest.raises(Fenced, match="generation 5"):
        await stage.open(3)
    await newer.publish([chunk(newer, 1, 1, ["v1"])], progress)


async def test_a_purge_does_no_harm(stage):
    sink = await stage.open()
    stored = await sink.publish([chunk(sink, 1, 1, values(1, 4))], await sink.recover(None, []))
    await stage.broker.js.purge_stream(stage.name)
    stored = await sink.publish([chunk(sink, 2, 4, ["v4"])], stored)
    await stage.broker.js.purge_stream(stage.name)
    sink = await stage.open(2)
    found = await sink.recover(stored, [])
    await sink.publish([chunk(sink, 3, 5, ["v5"])], found)
    assert await stage.seen() == ["v5"]


async def test_a_purge_that_hides_what_arrived_is_refused(stage):
    sink = await stage.open()
    stored = await sink.recover(None, [])
    run = chunk(sink, 1, 1, values(1, 4))
    await sink.publish([run], stored)
    await stage.broker.js.purge_stream(stage.name)
    sink = await stage.open(2)
    with pytest.raises(ProgressUnknown, match="was deleted") as caught:
        await sink.recover(stored, [run])
    assert "--accept-head" in caught.value.hint


async def test_a_purge_that_keeps_the_last_message_tells_enough(stage):
    sink = await stage.open()
    stored = await sink.recover(None, [])
    run = chunk(sink, 1, 1, values(1, 4))
    await sink.publish([run], stored)
    await stage.broker.js.purge_stream(stage.name, keep=1)
    sink = await stage.open(2)
    assert (await sink.recover(stored, [run])).next_seq == 4


async def test_a_stream_made_anew_is_refused(stage):
    sink = await stage.open()
    stored = await sink.publish([chunk(sink, 1, 1, ["v1"])], await sink.recover(None, []))
    await stage.broker.js.delete_stream(stage.name)
    with pytest.raises((NotFound, Unavailable)):
        await sink.publish([chunk(sink, 2, 2, ["v2"])], stored)
    await stage.broker.make(stage.name, [f"{stage.name}.x"])
    sink = await stage.open(2)
    with pytest.raises(ProgressUnknown, match="was made at"):
        await sink.recover(stored, [])


async def test_streams_on_which_the_chain_would_not_hold(broker):
    origin = await broker.stream("{}.x")
    interest = await broker.stream("{}.x", retention="interest")
    sourced = await broker.stream("{}.x", sources=[{"name": origin}])
    for name, reason in ((interest, "interest retention"), (sourced, "takes messages from other streams")):
        stage = Stage(broker, name)
        with pytest.raises(ConnectorError, match=reason) as caught:
            await stage.open()
        assert caught.value.hint
        probe = await stage.spec.sink(SinkOptions()).probe()
        assert not probe.ok


async def test_a_restored_backup_is_refused(mortal):
    name = await mortal.stream("{}.x")
    stage = Stage(mortal, name)
    sink = await stage.open()
    stored = await sink.publish([chunk(sink, 1, 1, values(1, 4))], await sink.recover(None, []))
    await mortal.close()
    await mortal.server.stop_async()
    data, copy = mortal.server.folder / "data", mortal.server.folder / "copy"
    shutil.copytree(data, copy)
    await mortal.server.start_async()
    sink = await stage.open(2)
    stored = await sink.publish([chunk(sink, 2, 4, values(4, 6))], await sink.recover(stored, []))
    await mortal.server.stop_async()
    shutil.rmtree(data)
    copy.rename(data)
    await mortal.server.start_async()
    await mortal.connect()
    sink = await stage.open(3)
    with pytest.raises(ProgressUnknown, match="ends at 3, but message 5 was published"):
        await sink.recover(stored, [])
    await stage.close()


@pytest.mark.parametrize("in_batches", [False, True])
@pytest.mark.parametrize("seed", range(2))
async def test_server_killed_while_publishing(mortal, seed, in_batches, long_run):
    """Kill after kill in the middle of a run: each record lands once, in order."""
    chance = random.Random(seed)
    name = await mortal.stream("{}.x", allow_atomic=in_batches)
    await mortal.close()
    stage = Stage(mortal, name, limits=Limits(publish_window_records=chance.choice([8, 100, 4096])))
    unopened = stage.spec.sink(SinkOptions())
    epochs, size = (40, 400) if in_batches else (12, 150)
    runs = [
        chunk(unopened, epoch, 1 + (epoch - 1) * size, values((epoch - 1) * size, epoch * size))
        for epoch in range(1, epochs + 1)
    ]
    stored: Progress | None = None
    generation, kills, middle, kills_max = 0, 0, 0, 12 if long_run else 5
    while stored is None or stored.epoch < epochs:
        generation += 1
        sink = stage.spec.sink(SinkOptions())
        killer = None
        try:
            await sink.open(sink_context(generation))
            if stored is None:
                stored = await sink.recover(None, [])
            found = await sink.recover(stored, runs[stored.epoch :])
            middle += found.next_seq > stored.next_seq
            if kills < kills_max:
                killer = asyncio.create_task(_kill_soon(mortal, chance))
            while found.epoch < epochs:
                if killer is not None and kills < 3 and found.epoch >= (kills + 1) * epochs // 4:
                    await asyncio.wait([killer])  # a fast run must leave enough for the kills to come
                found = await sink.publish(runs[found.epoch : found.epoch + 3], found)
                if chance.random() < 0.5:
                    stored = found  # else the progress is lost with the process
            stored = found
        except Unavailable:
            kills += 1
        finally:
            await sink.close()
            if killer is not None:
                await killer
                await mortal.server.start_async()
    assert kills >= 3
    assert middle >= 1
    await mortal.connect()
    assert await mortal.values(name) == values(0, epochs * size)


async def _kill_soon(broker, chance) -> None:
    await asyncio.sleep(0.002 + 0.08 * chance.random())
    await broker.server.kill_async()


async def test_a_frozen_server_is_unavailable_in_time(mortal):
    name = await mortal.stream("{}.x")
    spec = Nats(mortal.server.url, timeout_seconds=0.7).stream(name, value=str)
    sink = spec.sink(SinkOptions())
    await sink.open(sink_context())
    stored = await sink.recover(None, [])
    run = chunk(sink, 1, 1, values(0, 300))
    mortal.server.freeze()
    try:
        with pytest.raises(Unavailable, match="acknowledged nothing"):
            async with asyncio.timeout(5):
                await sink.publish([run], stored)
        async with asyncio.timeout(5):
            await sink.close()
    finally:
        mortal.server.thaw()
    sink = mortal.nats.stream(name, value=str).sink(SinkOptions())
    await sink.open(sink_context(2))
    await sink.publish([run], await sink.recover(stored, [run]))
    assert await mortal.values(name) == values(0, 300)
    await sink.close()


@pytest.mark.parametrize("ahead", range(1, 6))
async def test_a_window_on_its_way_does_not_land_behind_another_history(stage, deaf, ahead):
    """A zombie on a copied store has six messages on their way; the newer instance published ``ahead`` of its own.

    The sequence alone would let the zombie's later messages in: the one after ``ahead`` expects just the sequence that
    the stream then has.
    """
    zombie = await stage.open(1)
    stored = await zombie.publish([chunk(zombie, 1, 1, ["v1"])], await zombie.recover(None, []))
    newer = await stage.open(2)
    mine = [chunk(newer, 2, 2, [f"new{n}" for n in range(ahead)])]
    done = await newer.publish(mine, await newer.recover(stored, mine))
    with pytest.raises(Fenced):
        await zombie.publish([chunk(zombie, 2, 2, [f"old{n}" for n in range(6)])], stored)
    await newer.publish([chunk(newer, 3, 2 + ahead, ["last"])], done)
    assert await stage.seen() == ["v1", *[f"new{n}" for n in range(ahead)], "last"]


@pytest.mark.parametrize("place", range(4))
async def test_a_foreign_message_in_the_middle_of_a_run(stage, place, monkeypatch):
    """Somebody else publishes while a run is on its way: nothing of ours lands behind the foreign message."""
    sink = await stage.open()
    stored = await sink.recover(None, [])
    send, sent = sink._link.send, 0
    monkeypatch.setattr("streamflow_nats.publisher.SEND_RECORDS_MAX", 1)

    async def slip_in(commands: bytes) -> None:
        nonlocal sent
        if sent == place:
            await asyncio.sleep(0.1)
            await stage.broker.feed(f"{stage.name}.x", b"foreign")
        sent += 1
        await send(commands)

    monkeypatch.setattr(sink._link, "send", slip_in)
    with pytest.raises(ForeignWriter):
        await sink.publish([chunk(sink, 1, 1, values(0, 8))], stored)
    assert await stage.seen() == [*values(0, 0 if sink._in_batches else place), "foreign"]
    again = await stage.open(2)
    with pytest.raises(ForeignWriter):
        await again.recover(stored, [chunk(again, 1, 1, values(0, 8))])
