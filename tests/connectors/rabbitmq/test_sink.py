"""The sinks: unroutable messages, full queues, alarms, older copies, takeovers, against a real broker."""

from __future__ import annotations

import asyncio
from typing import Any

import aio_pika
import pytest

from streamflow.batch import Progress
from streamflow.connect.contracts import SinkOptions
from streamflow.errors import (
    ConnectorError,
    Fenced,
    NotFound,
    ProgressUnknown,
    RecordRejected,
    SettingsError,
    SinkAhead,
    Unavailable,
)
from streamflow_rabbitmq import ExchangeDeclaration, Limits, RabbitMQ, Times, lock
from streamflow_rabbitmq.lock import lock_name
from streamflow_rabbitmq.marker import marker_name
from tests.connectors.rabbitmq.kit import chunk, dead, open_sink
from tests.connectors.rabbitmq.outsider import QUICK, Outsider, fresh
from tests.faults.proxy import Line

MODES = pytest.mark.parametrize("mode", ["confirm", "tx"])


def marker_of(name: str) -> str:
    return marker_name(f"sf.{name}.i.0.out")


@MODES
async def test_messages_are_persistent_and_carry_id_key_and_headers(outsider: Outsider, mode: Any) -> None:
    queue, name = await outsider.queue(), fresh("flow")
    options = SinkOptions(key=lambda value: value[0], headers=lambda value: {"traceparent": value})
    sink = await open_sink(outsider.rabbit.queue(queue, value=str, mode=mode), name, options=options)
    await sink.publish([chunk(sink, 1, 1, ["one", "two"])], await sink.recover(None, []))
    await sink.close()
    found = await outsider.messages(queue)
    assert [message.body for message in found] == [b"one", b"two"]
    assert [message.message_id for message in found] == [f"sf.{name}.i.0.out.1", f"sf.{name}.i.0.out.2"]
    assert found[0].headers == {"sf-key": "o", "traceparent": "one"}
    assert {message.delivery_mode for message in found} == {aio_pika.DeliveryMode.PERSISTENT}


async def test_a_subject_is_the_routing_key(outsider: Outsider) -> None:
    eu, us = await outsider.queue(), await outsider.queue()
    exchange = await outsider.exchange(bind=[(eu, "eu.#"), (us, "us.#")])
    options = SinkOptions(subject=lambda value: value)
    sink = await open_sink(outsider.rabbit.exchange(exchange, value=str), fresh("flow"), options=options)
    at = await sink.recover(None, [])
    await sink.publish([chunk(sink, 1, 1, ["eu.a", "us.b", "eu.c.d"])], at)
    await sink.close()
    assert await outsider.bodies(eu) == [b"eu.a", b"eu.c.d"]
    assert await outsider.bodies(us) == [b"us.b"]


@MODES
async def test_a_message_that_no_queue_takes(outsider: Outsider, mode: Any) -> None:
    """The record is named, the others arrive, and once there is a binding nothing is missing."""
    queue, name = await outsider.queue(), fresh("flow")
    exchange = await outsider.exchange(bind=[(queue, "a")])
    spec = outsider.rabbit.exchange(exchange, value=str, mode=mode)
    options = SinkOptions(subject=lambda value: value.partition(" ")[0])
    sink = await open_sink(spec, name, options=options)
    at = await sink.recover(None, [])
    pending = [chunk(sink, 1, 1, ["a 1", "b 2", "a 3", "b 4"])]
    with pytest.raises(RecordRejected) as caught:
        await sink.publish(pending, at)
    assert caught.value.seq == 2 and "'b'" in str(caught.value) and "Bind a queue" in caught.value.hint
    await sink.close()
    assert await outsider.distinct(queue) == ["a 1", "a 3"]

    sink = await open_sink(spec, name, 2, options=options)
    if mode == "tx":
        with pytest.raises(RecordRejected):
            await sink.recover(at, pending)
        await sink.close()
        sink = await open_sink(spec, name, 3, options=options)
    await (await outsider.channel.get_queue(queue)).bind(exchange, "b")
    progress = await sink.recover(at, pending)
    if progress.next_seq < 5:
        progress = await sink.publish(pending, progress)
    assert progress.next_seq == 5
    await sink.close()
    assert sorted(await outsider.distinct(queue)) == ["a 1", "a 3", "b 2", "b 4"]
    if mode == "tx":
        assert len(await outsider.bodies(queue)) == 4


@MODES
async def test_a_record_that_was_given_up_is_left_out(outsider: Outsider, mode: Any) -> None:
    queue, name = await outsider.queue(), fresh("flow")
    exchange = await outsider.exchange(bind=[(queue, "a")])
    spec = outsider.rabbit.exchange(exchange, value=str, mode=mode)
    options = SinkOptions(subject=lambda value: value)
    sink = await open_sink(spec, name, options=options)
    at = await sink.recover(None, [])
    pending = [chunk(sink, 1, 1, ["a", "b", "a"])]
    with pytest.raises(RecordRejected):
        await sink.publish(pending, at)
    await sink.close()
    sink = await open_sink(spec, name, 2, options=options)
    given_up = [dead(pending[0], 2)]
    progress = await sink.recover(at, given_up)
    if progress.next_seq < 4:
        progress = await sink.publish(given_up, progress)
    assert progress.next_seq == 4
    await sink.close()
    assert await outsider.distinct(queue) == ["a", "a"]


async def test_a_full_queue_that_rejects_is_unavailable(outsider: Outsider) -> None:
    queue = await outsider.queue(x_max_length=3, x_overflow="reject-publish")
    sink = await open_sink(outsider.rabbit.queue(queue, value=str), fresh("flow"))
    at = await sink.recover(None, [])
    with pytest.raises(Unavailable, match=r"basic\.nack"):
        await sink.publish([chunk(sink, 1, 1, [str(number) for number in range(10)])], at)
    await sink.close()


@pytest.mark.long
async def test_an_alarm_that_blocks_the_connection(outsider: Outsider) -> None:
    """While the broker has no memory a publish waits, and says so if that takes too long; then it goes on."""
    times = Times(heartbeat_seconds=2, timeout_seconds=1, blocked_seconds=0.5)
    rabbit = RabbitMQ(outsider.server.url, times=times)
    cases = []
    for mode in ("confirm", "tx"):
        queue, name = await outsider.queue(), fresh("flow")
        spec = rabbit.queue(queue, value=str, mode=mode)
        sink = await open_sink(spec, name)
        at = await sink.publish([chunk(sink, 1, 1, ["before"])], await sink.recover(None, []))
        cases.append((queue, name, spec, sink, at, [chunk(sink, 2, 2, ["while", "blocked"])]))
    await outsider.ctl("set_vm_memory_high_watermark", "0")
    try:
        for _, _, _, sink, at, pending in cases:
            with pytest.raises(Unavailable) as caught:
                await sink.publish(pending, at)
            assert "alarm" in f"{caught.value} {caught.value.hint}"
            await sink.close()
    finally:
        await outsider.ctl("set_vm_memory_high_watermark", "0.6")
    for queue, name, spec, _, at, pending in cases:
        sink = await open_sink(spec, name, 2)
        progress = await sink.recover(at, pending)
        if progress.next_seq < 4:
            await sink.publish(pending, progress)
        await sink.close()
        assert await outsider.distinct(queue) == ["before", "while", "blocked"]


@MODES
async def test_an_older_copy_of_the_store_is_refused(
    outsider: Outsider, mode: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its generation; and where it counted up to it, by what was published."""
    queue, name = await outsider.queue(), fresh("flow")
    spec = outsider.rabbit.queue(queue, value=str, mode=mode)
    sink = await open_sink(spec, name, 5)
    at = await sink.recover(None, [])
    older = await sink.publish([chunk(sink, 1, 1, ["one"])], at)
    await sink.publish([chunk(sink, 2, 2, ["two", "three"])], older)
    await sink.close()
    # each opening is that of a process of its own
    monkeypatch.setattr(lock, "rank", lambda fence, generation: generation)
    with pytest.raises(Fenced, match="generation 5"):
        await open_sink(spec, name, 4)
    sink = await open_sink(spec, name, 6)
    with pytest.raises(SinkAhead) as caught:
        await sink.recover(older, [chunk(sink, 2, 2, ["other"])])
    assert "--accept-head" in caught.value.hint
    head = await sink.recover(None, ())
    await sink.close()
    sink = await open_sink(spec, name, 7)
    adopted = Progress(2, 3, head.cursor)
    assert (await sink.recover(adopted, ())).next_seq == 3
    await sink.publish([chunk(sink, 3, 3, ["after"])], adopted)
    await sink.close()


@MODES
async def test_a_run_that_was_cut_off_in_the_middle_is_no_older_copy(outsider: Outsider, mode: Any) -> None:
    """Published again and again without an answer: what was attempted is not counted twice."""
    queue, name = await outsider.queue(), fresh("flow")
    async with Line(outsider.server) as line:
        spec = RabbitMQ(line.url, times=QUICK).queue(queue, value=str, mode=mode, limits=Limits())
        sink = await open_sink(spec, name)
        at = await sink.recover(None, [])
        pending = [chunk(sink, 1, 1, [f"{number} {'x' * 500}" for number in range(500)])]
        for generation in range(2, 6):
            line.cut_after(60_000 * generation)
            with pytest.raises(Unavailable):
                await sink.publish(pending, at)
            assert line.cuts == generation - 1 and not line.armed
            await sink.close()
            sink = await open_sink(spec, name, generation)
            at = await sink.recover(at, pending)
        done = at if at.next_seq > 500 else await sink.publish(pending, at)
        assert done.next_seq == 501
        await sink.close()
    found = await outsider.distinct(queue)
    assert [int(each.partition(" ")[0]) for each in found] == list(range(500))


async def test_a_deleted_marker_is_progress_unknown_in_mode_tx(outsider: Outsider) -> None:
    queue, name = await outsider.queue(), fresh("flow")
    spec = outsider.rabbit.queue(queue, value=str, mode="tx")
    sink = await open_sink(spec, name)
    at = await sink.publish([chunk(sink, 1, 1, ["one"])], await sink.recover(None, []))
    await sink.close()
    await outsider.delete(marker_of(name))
    sink = await open_sink(spec, name, 2)
    with pytest.raises(ProgressUnknown, match="marker") as caught:
        await sink.recover(at, [])
    assert "--accept-head" in caught.value.hint
    await sink.close()


async def test_a_deleted_marker_does_not_stop_mode_confirm(outsider: Outsider) -> None:
    queue, name = await outsider.queue(), fresh("flow")
    spec = outsider.rabbit.queue(queue, value=str)
    sink = await open_sink(spec, name)
    at = await sink.publish([chunk(sink, 1, 1, ["one"])], await sink.recover(None, []))
    await outsider.delete(marker_of(name))
    with pytest.raises(ConnectorError, match="marker queue"):
        await sink.publish([chunk(sink, 2, 2, ["two"])], at)
    await sink.close()
    sink = await open_sink(spec, name, 2)
    pending = [chunk(sink, 2, 2, ["two"])]
    at = await sink.publish(pending, await sink.recover(at, pending))
    await sink.close()
    sink = await open_sink(spec, name, 3)
    assert (await sink.recover(at, [])).next_seq == 3
    await sink.close()
    assert await outsider.distinct(queue) == ["one", "two"]


async def test_what_others_wrote_into_the_marker(outsider: Outsider) -> None:
    queue, name = await outsider.queue(), fresh("flow")
    spec = outsider.rabbit.queue(queue, value=str)
    await (await open_sink(spec, name)).close()
    await outsider.feed(marker_of(name), [b"not a marker"])
    with pytest.raises(ConnectorError, match="no marker"):
        await open_sink(spec, name, 2)


@pytest.mark.long
@MODES
async def test_a_holder_that_does_not_answer_is_waited_for(outsider: Outsider, mode: Any) -> None:
    """Its line is silent: the broker lets it go when its heartbeats stay away, and then the lock is free."""
    queue, name = await outsider.queue(), fresh("flow")
    times = Times(heartbeat_seconds=1, timeout_seconds=5)
    async with Line(outsider.server) as line:
        frozen = await open_sink(RabbitMQ(line.url, times=times).queue(queue, value=str, mode=mode), name)
        at = await frozen.recover(None, [])
        line.silence()
        spec = RabbitMQ(outsider.server.url, times=times).queue(queue, value=str, mode=mode)
        sink = await open_sink(spec, name, 2)
        pending = [chunk(sink, 1, 1, ["one"])]
        at = await sink.publish(pending, await sink.recover(at, pending))
        late = asyncio.ensure_future(frozen.publish([chunk(sink, 1, 1, ["zombie"])], at))
        await asyncio.sleep(0.1)
        line.let_through()
        with pytest.raises((Unavailable, Fenced)):
            await late
        await frozen.close()
        await sink.publish([chunk(sink, 2, 2, ["two"])], at)
        await sink.close()
    assert await outsider.bodies(queue) == [b"one", b"two"]


@pytest.mark.long
async def test_a_lock_that_a_stranger_holds_is_not_waited_for_without_end(outsider: Outsider) -> None:
    queue, name = await outsider.queue(), fresh("flow")
    await outsider.channel.declare_queue(lock_name(f"sf.{name}.i.0.out"), exclusive=True)
    times = Times(heartbeat_seconds=1, timeout_seconds=5)
    spec = RabbitMQ(outsider.server.url, times=times).queue(queue, value=str)
    began = asyncio.get_running_loop().time()
    with pytest.raises(Unavailable, match="does not answer"):
        await open_sink(spec, name)
    assert 4 < asyncio.get_running_loop().time() - began < 8


async def test_exchanges_are_made_only_where_that_is_asked_for(outsider: Outsider) -> None:
    name = fresh("exchange")
    with pytest.raises(NotFound, match=name):
        await open_sink(outsider.rabbit.exchange(name), fresh("flow"))
    spec = outsider.rabbit.exchange(name, value=str, declare=ExchangeDeclaration("fanout"))
    for generation in (1, 2):
        await (await open_sink(spec, name, generation)).close()
    with pytest.raises(ConnectorError, match="is not what declare= says") as caught:
        await open_sink(outsider.rabbit.exchange(name, declare=ExchangeDeclaration("topic")), fresh("flow"))
    assert caught.value.hint


@MODES
async def test_bindings_of_an_exchange_are_made_where_they_are_declared(outsider: Outsider, mode: Any) -> None:
    name, europe, rest = fresh("exchange"), await outsider.queue(), await outsider.queue()
    declared = ExchangeDeclaration("topic", bindings={europe: ["eu.*", "ch.*"], rest: ["us.#"]})
    options = SinkOptions(subject=lambda value: value)
    sink = await open_sink(
        outsider.rabbit.exchange(name, value=str, mode=mode, declare=declared), fresh("flow"), options=options
    )
    at = await sink.recover(None, [])
    await sink.publish([chunk(sink, 1, 1, ["eu.a", "us.b.c", "ch.d"])], at)
    await sink.close()
    assert await outsider.bodies(europe) == [b"eu.a", b"ch.d"]
    assert await outsider.bodies(rest) == [b"us.b.c"]


async def test_a_binding_to_what_is_missing_is_named(outsider: Outsider) -> None:
    declared = ExchangeDeclaration("topic", bindings={"nowhere": ["eu.*"]})
    with pytest.raises(NotFound, match="queue nowhere") as caught:
        await open_sink(outsider.rabbit.exchange(fresh("exchange"), declare=declared), fresh("flow"))
    assert caught.value.hint


async def test_names_too_long_for_message_ids(outsider: Outsider) -> None:
    with pytest.raises(SettingsError, match="too long"):
        await open_sink(outsider.rabbit.queue(await outsider.queue()), "x" * 230)
