"""RabbitMQ streams: source and sink beside the fastest loops that can be written with rstream. Two cores are needed.

Each round runs the ways one after the other on one server, so that its mood hits all of them; medians of the rounds.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

from rstream import Consumer, ConsumerOffsetSpecification, MessageContext, OffsetType, Producer, RawMessage, schema
from rstream.client import Client

from streamflow.batch import Chunk, Fragment, MicroBatch, pack_frames
from streamflow.connect.contracts import SinkContext, SinkOptions, SourceContext
from streamflow_rabbitmq import RabbitMQ
from tests.brokers import RabbitServer

RECORDS: Final = int(os.environ.get("STREAMFLOW_BENCH_RECORDS", "200000"))
ROUNDS: Final = 5
RUN_RECORDS: Final = 8_000
"""Records of one publish: what two committed epochs give under load."""
PAYLOAD: Final = b"x" * 100
MESSAGE: Final = b"\x00Su\xa0" + bytes((len(PAYLOAD),)) + PAYLOAD

Way = Callable[[RabbitServer, str], Awaitable[float]]


def main() -> None:
    asyncio.run(_main())


async def _main() -> None:
    async with RabbitServer() as server:
        print(f"{RECORDS:,} records of {len(PAYLOAD)} bytes, medians of {ROUNDS} interleaved rounds")
        await _compare(server, "sink", _our_sink, {"rstream frames": _raw_frames, "rstream Producer": _producer})
        await _compare(server, "source", _our_source, {"rstream frames": _raw_deliver, "rstream Consumer": _consumer})


async def _compare(server: RabbitServer, name: str, ours: Way, others: dict[str, Way]) -> None:
    ways = {f"streamflow {name}": ours, **others}
    rates: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(ROUNDS):
        for way, run in ways.items():
            stream = f"{name}-{way}-{number}".replace(" ", "-")
            client = await _client(server)
            await client.create_stream(stream)
            if name == "source":
                await _fill(client, stream)
            rates[way].append(RECORDS / await run(server, stream))
            await client.delete_stream(stream)
            await client.close()
    own = statistics.median(rates[f"streamflow {name}"])
    for way, found in rates.items():
        rate = statistics.median(found)
        ratio = "" if way.startswith("streamflow") else f"   streamflow / this = {own / rate:.2f}"
        print(f"  {way:<20} {rate:>12,.0f} records/s{ratio}")


def _rabbit(server: RabbitServer) -> RabbitMQ:
    return RabbitMQ(server.url, stream_port=server.stream_port)


async def _client(server: RabbitServer) -> Client:
    client = Client(server.host, server.stream_port, frame_max=1024 * 1024, heartbeat=60)
    await client.start()
    await client.authenticate("/", "guest", "guest")
    return client


async def _our_sink(server: RabbitServer, stream: str) -> float:
    """Publishes runs of chunks that were encoded and packed before, as the engine does behind a commit."""
    sink: Any = _rabbit(server).stream(stream).sink(SinkOptions())
    frames = list(sink.encode(Fragment(MicroBatch(1, 0), [PAYLOAD] * RUN_RECORDS, True)))
    packed = pack_frames(frames)
    await sink.open(SinkContext("bench", stream, 0, "i", 1))
    at = await sink.recover(None, [])
    began = time.perf_counter()
    for epoch in range(1, RECORDS // RUN_RECORDS + 1):
        at = await sink.publish([Chunk(stream, epoch, 0, at.next_seq, RUN_RECORDS, packed)], at)
    took = time.perf_counter() - began
    await sink.close()
    return took


async def _raw_frames(server: RabbitServer, stream: str) -> float:
    """Frames of rstream, 1,000 messages each, up to 8,000 without a confirm."""
    client = await _client(server)
    await client.declare_publisher(stream, "me", 1)
    awaited = 0
    confirmed = asyncio.Event()

    def on_confirm(frame: schema.PublishConfirm) -> None:
        nonlocal awaited
        awaited -= len(frame.publishing_ids)
        confirmed.set()

    client.add_handler(schema.PublishConfirm, on_confirm)
    began = time.perf_counter()
    for first in range(1, RECORDS + 1, 1000):
        while awaited > RUN_RECORDS - 1000:
            confirmed.clear()
            await confirmed.wait()
        awaited += 1000
        messages = [schema.Message(seq, None, MESSAGE) for seq in range(first, first + 1000)]
        await client.send_publish_frame(schema.Publish(1, messages))
    while awaited:
        confirmed.clear()
        await confirmed.wait()
    took = time.perf_counter() - began
    await client.close()
    return took


async def _producer(server: RabbitServer, stream: str) -> float:
    producer = Producer(server.host, server.stream_port, username="guest", password="guest")
    await producer.start()
    done = 0
    all_done = asyncio.Event()

    def on_confirm(status: Any) -> None:
        nonlocal done
        done += 1
        if done >= RECORDS:
            all_done.set()

    began = time.perf_counter()
    for first in range(1, RECORDS + 1, 1000):
        batch: list[Any] = [RawMessage(MESSAGE, seq) for seq in range(first, first + 1000)]
        await producer.send_batch(stream, batch, publisher_name="me", on_publish_confirm=on_confirm)
    await all_done.wait()
    took = time.perf_counter() - began
    await producer.close()
    return took


async def _fill(client: Client, stream: str) -> None:
    await client.declare_publisher(stream, None, 9)
    awaited = 0
    confirmed = asyncio.Event()

    def on_confirm(frame: schema.PublishConfirm) -> None:
        nonlocal awaited
        awaited -= len(frame.publishing_ids)
        confirmed.set()

    client.add_handler(schema.PublishConfirm, on_confirm)
    for first in range(1, RECORDS + 1, 1000):
        awaited += 1000
        messages = [schema.Message(seq, None, MESSAGE) for seq in range(first, first + 1000)]
        await client.send_publish_frame(schema.Publish(9, messages))
        while awaited > RUN_RECORDS:
            confirmed.clear()
            await confirmed.wait()
    while awaited:
        confirmed.clear()
        await confirmed.wait()


async def _our_source(server: RabbitServer, stream: str) -> float:
    source = _rabbit(server).stream(stream).source()
    began = time.perf_counter()
    await source.open(SourceContext("bench", "s", 0, "i", 1), {})
    found = 0
    while found < RECORDS:
        batch = await source.read()
        assert batch is not None
        assert batch.payloads[0] == PAYLOAD
        found += len(batch)
    took = time.perf_counter() - began
    await source.close()
    return took


async def _raw_deliver(server: RabbitServer, stream: str) -> float:
    """Frames of rstream: one credit back for each chunk, messages cut out of it, not decoded."""
    client = await _client(server)
    done = asyncio.Event()
    found = 0

    async def on_chunk(frame: schema.Deliver) -> None:
        nonlocal found
        found += len(frame.get_messages())
        await client.credit(1, 1)
        if found >= RECORDS:
            done.set()

    client.add_handler(schema.Deliver, on_chunk, "1")
    await client.run_queue_listener_task(1, on_chunk)
    began = time.perf_counter()
    await client.subscribe(stream, 1, initial_credit=10)
    await done.wait()
    took = time.perf_counter() - began
    await client.close()
    return took


async def _consumer(server: RabbitServer, stream: str) -> float:
    consumer = Consumer(server.host, server.stream_port, username="guest", password="guest")
    found = 0
    done = asyncio.Event()

    def on_message(message: bytes, context: MessageContext) -> None:
        nonlocal found
        found += 1
        if found >= RECORDS:
            done.set()

    await consumer.start()
    began = time.perf_counter()
    start = ConsumerOffsetSpecification(OffsetType.FIRST, None)
    await consumer.subscribe(stream, callback=on_message, offset_specification=start, initial_credit=10)
    await done.wait()
    took = time.perf_counter() - began
    await consumer.close()
    return took
