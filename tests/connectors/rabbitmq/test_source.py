"""The queue source: redelivery, ids, refusals, bounds, against a real broker."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aio_pika
import pytest

import streamflow as sf
from streamflow.errors import ConnectorError, Fenced, NotFound, Unavailable
from streamflow_rabbitmq import Delivery, Limits, QueueDeclaration, RabbitMQ, lock
from streamflow_rabbitmq import source as source_module
from tests.connectors.rabbitmq.kit import commit, nothing, open_source, take
from tests.connectors.rabbitmq.outsider import QUICK, Outsider, fresh
from tests.faults.proxy import Line

SMALL = Limits(prefetch=10)


def bodies(start: int, stop: int) -> list[bytes]:
    return [b"%d" % number for number in range(start, stop)]


async def emptied(outsider: Outsider, queue: str, *, left: int = 0) -> None:
    """Waits until so many messages are ready, once the source is closed."""
    async with asyncio.timeout(10):
        while await outsider.depth(queue) != left:
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("kind", ["classic", "quorum"])
async def test_more_committed_messages_come_again_than_the_prefetch_holds(outsider: Outsider, kind: str) -> None:
    """After a broker kill more may come again than fit: holding any of them would stop everything."""
    queue = await outsider.queue(x_queue_type=kind)
    ids = [f"id-{number}" for number in range(200)]
    for body, name in zip(bodies(0, 200), ids, strict=True):
        await outsider.feed(queue, [body], message_id=name)
    source = await open_source(outsider.rabbit.queue(queue, limits=SMALL), seen=frozenset(ids[:150]))
    found: list[tuple[bytes, Any]] = []
    while len(found) < 50:
        part = await take(source, 1)
        found += part
        await commit(source, [name for _, name in part])
    assert [body for body, _ in found] == bodies(150, 200)
    await nothing(source)
    await source.close()
    await emptied(outsider, queue)


async def test_between_open_epochs_committed_ones_are_acknowledged_at_once(outsider: Outsider) -> None:
    """Nine messages wait for their commit, and the one place left is enough for any number of repeated ones."""
    queue = await outsider.queue()
    await outsider.feed(queue, bodies(0, 9))
    await outsider.feed(queue, [b"again"] * 40, message_id="seen")
    await outsider.feed(queue, [b"last"])
    source = await open_source(outsider.rabbit.queue(queue, limits=SMALL), seen=frozenset(["seen"]))
    found = await take(source, 10)
    assert [body for body, _ in found] == [*bodies(0, 9), b"last"]
    await source.close()
    await emptied(outsider, queue, left=10)


async def test_lost_acknowledgements(outsider: Outsider) -> None:
    """They never reach the broker: the messages come again, are known by their ids, and go then."""
    queue = await outsider.queue()
    await outsider.feed(queue, bodies(0, 20))
    async with Line(outsider.server) as line:
        source = await open_source(RabbitMQ(line.url, times=QUICK).queue(queue))
        found = await take(source, 20)
        line.silence()
        await commit(source, [name for _, name in found[:15]])
        await asyncio.sleep(0.1)
        line.cut()
        assert line.silences == line.cuts == 1
        with pytest.raises(Unavailable):
            await take(source, 1)
        await source.close()
    await emptied(outsider, queue, left=20)
    seen = frozenset(str(name) for _, name in found[:15])
    source = await open_source(outsider.rabbit.queue(queue), seen=seen)
    assert await take(source, 5) == found[15:]
    await source.close()
    await emptied(outsider, queue, left=5)


async def test_nothing_is_acknowledged_before_sinks_have_recovered(outsider: Outsider) -> None:
    """Until then this may be an older copy of the state, which knows ids, but must not eat the queue."""
    queue = await outsider.queue()
    await outsider.feed(queue, bodies(0, 5), message_id=None)
    first = await open_source(outsider.rabbit.queue(queue))
    seen = frozenset(str(name) for _, name in await take(first, 5))
    await first.close()
    allowed: list[bool] = []
    for _ in range(2):
        source = await open_source(
            outsider.rabbit.queue(queue), seen=seen, may_acknowledge=lambda: bool(allowed), generation=2
        )
        await nothing(source)
        await source.close()
        await emptied(outsider, queue, left=5)
    source = await open_source(outsider.rabbit.queue(queue), seen=seen, may_acknowledge=lambda: bool(allowed))
    await nothing(source)
    allowed.append(True)
    await nothing(source)
    await source.close()
    await emptied(outsider, queue)


async def test_what_waits_for_its_acknowledgement_is_acknowledged_once(outsider: Outsider) -> None:
    """A commit behind a repeated message that still waits takes that along; a second time would end the channel."""
    queue = await outsider.queue()
    await outsider.feed(queue, [b"seen"], message_id="seen")
    await outsider.feed(queue, [b"new"], message_id="new")
    allowed: list[bool] = []
    source = await open_source(
        outsider.rabbit.queue(queue), seen=frozenset(["seen"]), may_acknowledge=lambda: bool(allowed)
    )
    assert await take(source, 1) == [(b"new", "new")]
    allowed.append(True)
    await commit(source, ["new"])
    await nothing(source)
    await outsider.feed(queue, [b"later"], message_id="later")
    assert await take(source, 1) == [(b"later", "later")]
    await source.close()
    await emptied(outsider, queue, left=1)


async def test_a_producer_that_sends_twice(outsider: Outsider) -> None:
    """The same id in flight, and the same id committed: taken once, and both copies are acknowledged."""
    queue = await outsider.queue()
    for name in ("a", "b", "a", "c", "b"):
        await outsider.feed(queue, [name.encode()], message_id=name)
    source = await open_source(outsider.rabbit.queue(queue))
    assert await take(source, 3) == [(b"a", "a"), (b"b", "b"), (b"c", "c")]
    await nothing(source)
    await commit(source, ["a", "b", "c"])
    await outsider.feed(queue, [b"a"], message_id="a")
    await outsider.feed(queue, [b"d"], message_id="d")
    assert await take(source, 1) == [(b"d", "d")]
    await source.close()
    await emptied(outsider, queue, left=1)


async def test_a_message_without_an_id_is_refused_and_stays(outsider: Outsider) -> None:
    queue = await outsider.queue()
    await outsider.feed(queue, [b"good"])
    await outsider.feed_plain(queue, [b"no id"])
    source = await open_source(outsider.rabbit.queue(queue))
    assert [body for body, _ in await take(source, 1)] == [b"good"]
    with pytest.raises(ConnectorError, match="no message_id") as caught:
        await take(source, 1)
    assert not isinstance(caught.value, Unavailable)
    assert queue in str(caught.value) and "no id" in str(caught.value) and "id_from=" in caught.value.hint
    await source.close()
    await emptied(outsider, queue, left=2)


async def test_ids_by_digest_function_or_none(outsider: Outsider) -> None:
    queue = await outsider.queue()
    await outsider.feed(queue, [b"x", b"y", b"x"], message_id=None, correlation_id="c", headers={"n": 7})
    seen: list[Delivery] = []

    def by_function(delivery: Delivery) -> str:
        seen.append(delivery)
        return f"{delivery.correlation_id}-{delivery.headers['n']}-{len(seen)}"

    for id_from, count in (("digest", 2), (by_function, 3), (None, 3)):
        source = await open_source(outsider.rabbit.queue(queue, id_from=id_from))  # type: ignore[arg-type]
        found = await take(source, count)
        assert len({name for _, name in found}) == count
        if callable(id_from):
            assert [name for _, name in found] == ["c-7-1", "c-7-2", "c-7-3"]
            assert (seen[0].body, seen[0].routing_key, seen[0].exchange) == (b"x", queue, "")
        await source.close()
    first = await open_source(outsider.rabbit.queue(queue, id_from=None), generation=1)
    again = [name for _, name in await take(first, 3)]
    await first.close()
    second = await open_source(outsider.rabbit.queue(queue, id_from=None), generation=2, seen=frozenset(again))
    await take(second, 3)
    await second.close()


@pytest.mark.parametrize("wrong", [lambda delivery: "", lambda delivery: 7, lambda delivery: delivery.headers["none"]])
async def test_a_function_that_gives_no_id(outsider: Outsider, wrong: Any) -> None:
    queue = await outsider.queue()
    await outsider.feed(queue, [b"x"])
    source = await open_source(outsider.rabbit.queue(queue, id_from=wrong))
    with pytest.raises(ConnectorError, match="id_from=") as caught:
        await take(source, 1)
    assert caught.value.hint
    await source.close()


@pytest.mark.parametrize("kind", ["classic", "quorum"])
async def test_one_reader_at_a_time(outsider: Outsider, kind: str) -> None:
    queue = await outsider.queue(x_queue_type=kind)
    spec = outsider.rabbit.queue(queue)
    first = await open_source(spec)
    with pytest.raises(Unavailable, match="another flow") as caught:
        await open_source(spec, flow="other")
    assert "single_active" in caught.value.hint
    await first.close()
    await (await open_source(spec, flow="other")).close()


async def test_a_newer_instance_takes_the_queue_over(outsider: Outsider, monkeypatch: pytest.MonkeyPatch) -> None:
    """The older one is told at once, and neither it nor one that began before the newer gets the queue back."""
    queue = await outsider.queue()
    await outsider.feed(queue, bodies(0, 3))
    spec = outsider.rabbit.queue(queue)
    monkeypatch.setattr(lock, "rank", lambda fence, generation: generation)
    older = await open_source(spec, generation=4)
    found = await take(older, 3)
    monkeypatch.setattr(lock, "process_name", lambda: "another")
    newer = await open_source(spec, generation=5)
    with pytest.raises(Fenced):
        await take(older, 1)
    await older.close()
    assert await take(newer, 3) == found
    monkeypatch.setattr(lock, "process_name", lambda: "a third")
    for generation in (4, 5):
        with pytest.raises(Fenced, match="began with generation 5"):
            await open_source(spec, generation=generation)
    await newer.close()


async def test_a_stranger_who_reads_keeps_the_source_out(outsider: Outsider) -> None:
    queue = await outsider.queue()
    tag = await (await outsider.channel.get_queue(queue)).consume(_ignore)
    with pytest.raises(Unavailable, match="another reader"):
        await open_source(outsider.rabbit.queue(queue))
    shared = await open_source(outsider.rabbit.queue(queue, readers="shared"))
    await shared.close()
    await (await outsider.channel.get_queue(queue)).cancel(tag)


async def test_a_single_active_consumer_takes_over(outsider: Outsider) -> None:
    queue = await outsider.queue(x_single_active_consumer=True)
    await outsider.feed(queue, bodies(0, 6))
    spec = outsider.rabbit.queue(queue, readers="single_active")
    first, second = await open_source(spec), await open_source(spec)
    found = await take(first, 6)
    await nothing(second)
    await commit(first, [name for _, name in found[:4]])
    await first.close()
    assert [body for body, _ in await take(second, 2)] == bodies(4, 6)
    await second.close()


async def test_a_stream_is_no_queue(outsider: Outsider) -> None:
    queue = await outsider.queue(x_queue_type="stream")
    source = await open_source(outsider.rabbit.queue(queue, readers="shared"))
    await outsider.feed(queue, [b"x"])
    with pytest.raises(ConnectorError, match="is a stream") as caught:
        await take(source, 1)
    assert "rabbit.stream" in caught.value.hint
    await source.close()


async def test_a_queue_that_is_deleted_while_it_is_read(outsider: Outsider) -> None:
    queue = await outsider.queue()
    source = await open_source(outsider.rabbit.queue(queue))
    await outsider.delete(queue)
    with pytest.raises(Unavailable, match="ended the consumer"):
        await take(source, 1)
    await source.close()
    with pytest.raises(NotFound, match=queue):
        await open_source(outsider.rabbit.queue(queue))


async def test_a_queue_is_made_only_where_that_is_asked_for(outsider: Outsider) -> None:
    name = fresh("declared")
    spec = outsider.rabbit.queue(name, declare=QueueDeclaration("quorum", arguments={"x-max-length": 100}))
    for _ in range(2):
        await (await open_source(spec)).close()
    other = outsider.rabbit.queue(name, declare=QueueDeclaration("classic"))
    with pytest.raises(ConnectorError, match="inequivalent arg") as caught:
        await open_source(other)
    assert "nothing was changed" in caught.value.hint
    assert len(f"{caught.value.message}\n{caught.value.hint}".splitlines()) <= 3
    await (await open_source(spec)).close()


async def test_bindings_of_a_queue_are_made_where_they_are_declared(outsider: Outsider) -> None:
    name, exchange = fresh("declared"), await outsider.exchange()
    spec = outsider.rabbit.queue(name, declare=QueueDeclaration("classic", bindings={exchange: ["eu.*", "ch.*"]}))
    source = await open_source(spec)
    made = await outsider.channel.get_exchange(exchange)
    for key in ("eu.a", "us.b", "ch.c"):
        message = aio_pika.Message(key.encode(), message_id=fresh("m"))
        await made.publish(message, routing_key=key, mandatory=False)
    assert [bytes(payload) for payload, _ in await take(source, 2)] == [b"eu.a", b"ch.c"]
    await source.close()
    await (await open_source(spec)).close()
    missing = outsider.rabbit.queue(name, declare=QueueDeclaration("classic", bindings={"nowhere": ["eu.*"]}))
    with pytest.raises(NotFound, match="exchange nowhere") as caught:
        await open_source(missing)
    assert caught.value.hint


async def test_what_rides_with_a_message(outsider: Outsider) -> None:
    queue = await outsider.queue()
    when = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    headers: Any = {"traceparent": "00-aa-bb-01", "n": 3, "deep": {"a": [1]}}
    await outsider.feed(queue, [b"x"], timestamp=when, headers=headers)
    await outsider.feed(queue, [b"y"], headers={"sf-key": "k"})
    source = await open_source(outsider.rabbit.queue(queue))
    batches: list[Any] = []
    async with asyncio.timeout(5):
        while sum(map(len, batches)) < 2:
            batches.append(await source.read())
    await source.close()
    found = [header for batch in batches for header in batch.headers]
    assert found == [{"traceparent": "00-aa-bb-01", "n": "3", "deep": '{"a":[1]}'}, {"sf-key": "k"}]
    assert [key for batch in batches for key in batch.keys] == [queue.encode(), b"k"]
    assert batches[0].timestamps_ms[0] == int(when.timestamp() * 1000)


async def test_the_last_committed_ids_are_remembered(outsider: Outsider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_module, "SEEN_IDS_MAX", 3)
    queue = await outsider.queue()
    source = await open_source(outsider.rabbit.queue(queue), seen=frozenset(["old"]))
    await commit(source, ["a", "b", "c"])
    assert list(source._seen) == ["a", "b", "c"]
    await source.close()


@pytest.mark.long
async def test_the_broker_ends_a_channel_that_acknowledges_too_late(outsider: Outsider) -> None:
    """The consumer_timeout, 30 minutes by default: the source is Unavailable, and opened again it gets all of it."""
    queue = await outsider.queue()
    await outsider.feed(queue, bodies(0, 3))
    spec = outsider.rabbit.queue(queue)
    change = "application:set_env(rabbit, {}, {}), application:set_env(rabbit, {}, {})."
    await outsider.ctl("eval", change.format("consumer_timeout", 300, "channel_tick_interval", 200))
    try:
        source = await open_source(spec)
        found = await take(source, 3)
        with pytest.raises(Unavailable, match="timed out"):
            await take(source, 1)
        await source.close()
    finally:
        await outsider.ctl("eval", change.format("consumer_timeout", 1_800_000, "channel_tick_interval", 60_000))
    source = await open_source(spec)
    assert await take(source, 3) == found
    await commit(source, [name for _, name in found])
    await source.close()
    await emptied(outsider, queue)


async def test_an_epoch_ends_before_the_prefetch_is_used_up(outsider: Outsider, tmp_path: Path) -> None:
    """Commits are due once in ten minutes; with ten deliveries allowed 60 messages still go through at once."""
    queue = await outsider.queue()
    await outsider.feed(queue, bodies(0, 60))
    settings = sf.Settings(commit_min="10m", commit_max="10m")
    flow = sf.Flow("bounded", state=tmp_path / "state.db", settings=settings)
    numbers = flow.source(outsider.rabbit.queue(queue, limits=SMALL))
    found: list[bytes] = []

    @numbers.map
    def seen(body: bytes) -> bytes:
        found.append(body)
        return body

    async with asyncio.timeout(20), flow.running():
        while len(found) < 60:
            await asyncio.sleep(0.01)
    assert found == bodies(0, 60)
    await emptied(outsider, queue)


async def _ignore(message: aio_pika.abc.AbstractIncomingMessage) -> None:
    pass
