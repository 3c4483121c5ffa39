"""Streams on a real RabbitMQ beyond the conformance kit: other clients, keys, partitions, given-up records."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio
from rstream import Consumer, ConsumerOffsetSpecification, OffsetType

from streamflow.batch import Chunk, Fragment, MicroBatch, Position, Progress, pack_frames, unpack_frames
from streamflow.connect.contracts import SinkContext, SinkOptions, SourceContext
from streamflow.errors import (
    ConnectorError,
    DefinitionError,
    Fenced,
    ProgressUnknown,
    RecordRejected,
    SettingsError,
    SourceReplaced,
    Unavailable,
)
from streamflow_rabbitmq import RabbitMQ, Times, UserPassword
from streamflow_rabbitmq.streams import source as source_module
from streamflow_rabbitmq.streams.frames import HASHED, ROUTE
from tests.brokers import RabbitServer
from tests.connectors.rabbitmq.streams_outside import Streams, body_of

TIMES = Times(heartbeat_seconds=2, timeout_seconds=5)
_names = iter(f"s{number}" for number in range(10_000))


class Hands:
    """A server, an outsider on it, and what is to be closed."""

    def __init__(self, server: RabbitServer, streams: Streams) -> None:
        self.server, self.streams = server, streams
        self.rabbit = RabbitMQ(server.url, stream_port=server.stream_port, times=TIMES)
        self.opened: list[Any] = []

    async def stream(self) -> str:
        name = next(_names)
        await self.streams.make(name)
        return name

    async def super_stream(self, count: int = 3) -> tuple[str, list[str]]:
        name = next(_names)
        return name, await self.streams.make_super(name, count)

    async def sink(self, spec: Any, generation: int = 1, **options: Any) -> Any:
        sink = spec.sink(SinkOptions(**options))
        self.opened.append(sink)
        await sink.open(SinkContext("f", f"out-{spec.name}", 0, "i", generation))
        return sink

    async def source(self, spec: Any, resume: Any = None, **more: Any) -> Any:
        source = spec.source()
        self.opened.append(source)
        context = SourceContext(
            **{"flow": "f", "source": "in", "shard": 0, "incarnation": "i", "generation": 1, **more}
        )
        await source.open(context, resume or {})
        return source


@pytest_asyncio.fixture
async def hands(lasting_rabbit: RabbitServer) -> AsyncIterator[Hands]:
    async with Streams(lasting_rabbit) as streams:
        each = Hands(lasting_rabbit, streams)
        yield each
        for opened in each.opened:
            await opened.close()


def chunk(sink: Any, first: int, values: list[Any], keys: list[Any] | None = None, epoch: int = 1) -> Chunk:
    frames = list(sink.encode(Fragment(MicroBatch(1, 0), values, True, keys)))
    return Chunk("out", epoch, 0, first, len(frames), pack_frames(frames))


def given_up(chunk: Chunk, *seqs: int) -> Chunk:
    frames = unpack_frames(chunk.payload)
    for seq in seqs:
        frames[seq - chunk.first_seq] = b""
    return replace(chunk, payload=pack_frames(frames))


async def take(source: Any, count: int) -> list[Any]:
    found: list[Any] = []
    async with asyncio.timeout(10):
        while len(found) < count:
            batch = await source.read()
            none = [None] * len(batch)
            rows = zip(batch.payloads, batch.headers or none, batch.keys or none, batch.timestamps_ms, strict=True)
            found += [(batch.partition, *row) for row in rows]
    return found


async def test_an_rstream_consumer_sees_each_result_once(hands: Hands) -> None:
    """Published in three lives, each of which publishes again what the one before had published."""
    name = await hands.stream()
    stored: Progress | None = None
    for life in range(1, 4):
        sink = await hands.sink(hands.rabbit.stream(name, value=str), life)
        pending = [chunk(sink, 1, [f"r{n}" for n in range(1, 31)])]
        at = await sink.recover(stored, pending)
        assert at.next_seq == (1 if life == 1 else 31)
        await sink.publish(pending, Progress(0, 1, at.cursor))
        stored = Progress(0, 1, b"")
        await sink.close()
    found: list[str] = []
    consumer = Consumer(hands.server.host, hands.server.stream_port, username="guest", password="guest")
    await consumer.start()
    start = ConsumerOffsetSpecification(OffsetType.FIRST, None)

    def on_message(message: bytes, _: Any) -> None:
        found.append(body_of(message).decode())

    await consumer.subscribe(name, on_message, offset_specification=start)
    await asyncio.sleep(0.5)
    await consumer.close()
    assert found == [f"r{n}" for n in range(1, 31)]


async def test_keys_and_headers_travel(hands: Hands) -> None:
    name = await hands.stream()
    spec = hands.rabbit.stream(name, value=str)
    sink = await hands.sink(spec, headers=lambda value: {"of": value})
    at = await sink.recover(None, [])
    await sink.publish([chunk(sink, 1, ["a", "b", "c"], ["ann", 7, None])], at)
    found = await take(await hands.source(spec), 3)
    assert [row[1:4] for row in found] == [
        (b"a", {"of": "a"}, b"ann"),
        (b"b", {"of": "b"}, b"7"),
        (b"c", {"of": "c"}, None),
    ]
    assert all(abs(row[4] / 1000 - __import__("time").time()) < 60 for row in found)


async def test_the_row_encoder_equals_the_sink(hands: Hands) -> None:
    spec = hands.rabbit.stream("any", value=str)
    encode = spec.row_encoder(SinkOptions())
    assert encode is not None
    values = ["", "x", "y" * 255, "z" * 256]
    assert [encode(value) for value in values] == list(
        spec.sink(SinkOptions()).encode(Fragment(MicroBatch(1, 0), values, True))
    )
    assert spec.row_encoder(SinkOptions(key=str)) is None
    assert hands.rabbit.super_stream("any", value=str).row_encoder(SinkOptions()) is None


async def test_records_that_were_given_up_leave_no_hole(hands: Hands) -> None:
    """In the middle, and at the end, where the stream's last id stays below the progress."""
    name = await hands.stream()
    spec = hands.rabbit.stream(name, value=str)
    sink = await hands.sink(spec)
    at = await sink.recover(None, [])
    first = given_up(chunk(sink, 1, ["1", "2", "3", "4"]), 2, 4)
    at = await sink.publish([first], at)
    assert at.next_seq == 5
    sink = await hands.sink(spec, 2)
    again = await sink.recover(at, [])
    assert again.next_seq == 5
    at = await sink.publish([chunk(sink, 5, ["5"], epoch=2)], again)
    assert await hands.streams.values(name) == [b"1", b"3", b"5"]
    with pytest.raises(ProgressUnknown):
        await sink.recover(replace(at, next_seq=9, cursor=b'{"last":8}'), [])


async def test_a_key_stays_in_its_partition(hands: Hands) -> None:
    name, partitions = await hands.super_stream()
    spec = hands.rabbit.super_stream(name, value=str)
    sink = await hands.sink(spec)
    at = await sink.recover(None, [])
    keys = [f"hello{n}" for n in range(1, 10)]
    frames = sink.encode(Fragment(MicroBatch(1, 0), keys, True, keys))
    assert {ROUTE.unpack_from(frame)[0] for frame in frames} == {HASHED}
    await sink.publish([chunk(sink, 1, keys, keys)], at)
    assert [await hands.streams.values(each) for each in partitions] == [
        [b"hello2", b"hello5", b"hello7", b"hello9"],
        [b"hello1", b"hello3", b"hello8"],
        [b"hello4", b"hello6"],
    ]
    found = await take(await hands.source(spec), 9)
    assert {(row[0], row[3].decode()) for row in found} == {
        (partitions[index], key)
        for index, part in enumerate(["2 5 7 9", "1 3 8", "4 6"])
        for key in (f"hello{n}" for n in part.split())
    }


async def test_a_partition_may_be_named(hands: Hands) -> None:
    name, partitions = await hands.super_stream()
    sink = await hands.sink(hands.rabbit.super_stream(name, value=str), partition=int)
    at = await sink.recover(None, [])
    at = await sink.publish([chunk(sink, 1, ["0", "2", "2"])], at)
    assert [await hands.streams.values(each) for each in partitions] == [[b"0"], [], [b"2", b"2"]]
    with pytest.raises(RecordRejected, match="partition 7") as caught:
        await sink.publish([chunk(sink, 4, ["1", "7"], epoch=2)], at)
    assert caught.value.hint


async def test_a_super_sink_keeps_to_its_partitions(hands: Hands) -> None:
    """One that is added would change where records go: it is not used, and what was published is still known."""
    name, partitions = await hands.super_stream()
    spec = hands.rabbit.super_stream(name, value=str)
    sink = await hands.sink(spec)
    baseline = await sink.recover(None, [])
    values = [f"v{n}" for n in range(1, 13)]
    pending = [chunk(sink, 1, values)]
    at = await sink.publish([chunk(sink, 1, values[:7])], baseline)
    added = await hands.streams.make_super(name, 1, first=3)
    sink = await hands.sink(spec, 2)
    found = await sink.recover(baseline, pending)
    assert found.next_seq == 8 == at.next_seq
    await sink.publish(pending, found)
    contents = [await hands.streams.values(each) for each in [*partitions, *added]]
    assert contents[3] == []
    assert sorted(value for part in contents for value in part) == sorted(value.encode() for value in values)


async def test_what_landed_out_of_turn_is_not_published_twice(hands: Hands) -> None:
    """A later record is in its partition, an earlier one of another partition is not."""
    name, partitions = await hands.super_stream()
    spec = hands.rabbit.super_stream(name, value=str)
    sink = await hands.sink(spec)
    baseline = await sink.recover(None, [])
    values = [f"v{n}" for n in range(1, 10)]  # to partitions 1 2 0 1 2 0 ...
    pending = [chunk(sink, 1, values)]
    # as if the connection had ended when only one partition had got its part
    await sink.publish([given_up(pending[0], *(n for n in range(1, 10) if n % 3 != 2))], baseline)
    sink = await hands.sink(spec, 2)
    found = await sink.recover(baseline, pending)
    assert found.next_seq == 1
    await sink.publish(pending, found)
    assert [await hands.streams.values(each) for each in partitions] == [
        [b"v3", b"v6", b"v9"],
        [b"v1", b"v4", b"v7"],
        [b"v2", b"v5", b"v8"],
    ]


async def test_other_content_on_a_copy_of_the_store_is_noticed_where_it_can_be(hands: Hands) -> None:
    name, _ = await hands.super_stream()
    spec = hands.rabbit.super_stream(name, value=str)
    sink = await hands.sink(spec, partition=lambda value: int(value[0]))
    baseline = await sink.recover(None, [])
    await sink.publish([chunk(sink, 1, ["0a", "1a"])], baseline)
    sink = await hands.sink(spec, 2, partition=lambda value: int(value[0]))
    with pytest.raises(Fenced, match="other content"):
        await sink.recover(baseline, [chunk(sink, 1, ["2b", "0b", "0c"])])


async def test_new_partitions_are_found_and_pinned(hands: Hands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_module, "DISCOVERY_SECONDS", 0.2)
    name, partitions = await hands.super_stream(1)
    pinned: list[Any] = []

    async def pin(starts: Any) -> None:
        pinned.append(dict(starts))

    source = await hands.source(hands.rabbit.super_stream(name), pin=pin)
    await hands.streams.feed(partitions[0], [b"old"])
    assert [row[:2] for row in await take(source, 1)] == [(partitions[0], b"old")]
    (added,) = await hands.streams.make_super(name, 1, first=1)
    await hands.streams.feed(added, [b"new"])
    assert [row[:2] for row in await take(source, 1)] == [(added, b"new")]
    assert [list(starts) for starts in pinned] == [[added]]
    assert pinned[0][added].at == 0


async def test_a_partition_that_is_gone_is_refused(hands: Hands) -> None:
    name, partitions = await hands.super_stream()
    with pytest.raises(SourceReplaced, match="no partition other"):
        await hands.source(hands.rabbit.super_stream(name), {"other": Position(3, ""), partitions[0]: Position(0)})


async def test_latest_starts_behind_what_is_there(hands: Hands) -> None:
    name = await hands.stream()
    await hands.streams.feed(name, [b"old"] * 10)
    source = await hands.source(hands.rabbit.stream(name, start="latest"))
    await hands.streams.feed(name, [b"new"])
    assert [row[1] for row in await take(source, 1)] == [b"new"]


async def test_a_deleted_stream_is_noticed(hands: Hands) -> None:
    name = await hands.stream()
    source = await hands.source(hands.rabbit.stream(name))
    sink = await hands.sink(hands.rabbit.stream(name, value=str))
    at = await sink.recover(None, [])
    await hands.streams.delete(name)
    with pytest.raises(Unavailable, match="deleted"):
        async with asyncio.timeout(5):
            await source.read()
    with pytest.raises(Unavailable):
        async with asyncio.timeout(10):
            await sink.publish([chunk(sink, 1, ["x"])], at)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"auth": UserPassword("guest", "wrong")}, "refuses the login of user guest"),
        ({"vhost": "nowhere"}, "cannot open virtual host nowhere"),
    ],
)
async def test_a_wrong_login_says_so(hands: Hands, changed: dict[str, Any], said: str) -> None:
    rabbit = RabbitMQ(hands.server.url, stream_port=hands.server.stream_port, times=TIMES, **changed)
    with pytest.raises(ConnectorError, match=said) as caught:
        await hands.source(rabbit.stream("any"))
    assert not isinstance(caught.value, Unavailable)
    assert caught.value.hint
    probe = await rabbit.stream("any").source().probe()
    assert not probe.ok and said in probe.problem and "wrong" not in repr(probe)


async def test_the_amqp_port_is_not_the_stream_port(hands: Hands) -> None:
    rabbit = RabbitMQ(hands.server.url, stream_port=hands.server.port, times=Times(timeout_seconds=2))
    with pytest.raises(ConnectorError, match="speaks AMQP") as caught:
        await hands.source(rabbit.stream("any"))
    assert "stream_port" in caught.value.hint


def test_a_keyed_stream_keeps_its_key() -> None:
    """Frames made from the value alone would lose it: then the loop leaves encoding to the sink."""
    import streamflow as sf

    rabbit = RabbitMQ()
    flow = sf.Flow("keyed", state="unused.db")
    plain = flow.source(rabbit.stream("in", value=str)).map(str.upper)
    plain.to(rabbit.stream("plain", value=str))
    plain.key_by(len).to(rabbit.stream("keyed", value=str))
    encoders = {step.name: step.options["row_encoder"] for step in flow.graph().steps if step.kind == "sink"}
    assert encoders["plain"] is not None
    assert encoders["keyed"] is None


def test_what_makes_no_sense_is_refused_when_the_flow_is_built() -> None:
    rabbit = RabbitMQ()
    with pytest.raises(DefinitionError, match="no partitions"):
        rabbit.stream("s", value=str).sink(SinkOptions(partition=int))
    with pytest.raises(DefinitionError, match="no routing keys"):
        rabbit.super_stream("s", value=str).sink(SinkOptions(subject=str))
    with pytest.raises(SettingsError):
        rabbit.stream("")
    with pytest.raises(SettingsError):
        rabbit.stream("s", start="somewhere")  # type: ignore[call-overload]
