"""RabbitMQ queues: source and sinks beside loops on aio-pika and aiormq, with a broker of its own; medians."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

import aio_pika
import aiormq
from aiormq.abc import ChannelFrame
from pamqp import commands
from pamqp.body import ContentBody
from pamqp.frame import marshal
from pamqp.header import ContentHeader

from streamflow.batch import Chunk, Fragment, MicroBatch, Progress, Taken, pack_frames
from streamflow.connect.contracts import SinkContext, SinkOptions, SourceContext
from streamflow_rabbitmq import Limits, RabbitMQ
from tests.brokers import BrokerError, RabbitServer

COUNT = 20_000
ROUNDS = 5
RUN = 2_000
JOINED = 50
PREFETCH = 2_000
PAYLOAD = b"x" * 100

Rates = dict[str, list[float]]


def main() -> None:
    try:
        asyncio.run(measure(COUNT))
    except BrokerError as error:
        print(f"  left out: {error}")


async def measure(count: int) -> None:
    async with RabbitServer() as server:
        rates: Rates = {}
        for number in range(ROUNDS):
            for what, work in (
                ("confirm: aio-pika, a window of confirms", publish_plainly),
                ("confirm: aiormq, frames made by hand", publish_frames_confirmed),
                ("confirm: streamflow", publish_confirming),
                ("tx: aiormq, frames made by hand", publish_frames_in_transactions),
                ("tx: streamflow", publish_in_transactions),
                ("source: aio-pika, prefetch and acks", consume_plainly),
                ("source: aiormq, prefetch and acks", consume_by_aiormq),
                ("source: streamflow", read),
            ):
                queue = f"bench-{number}-{len(rates)}-{what.partition(':')[0]}"
                seconds = await work(server, queue, count)
                rates.setdefault(what, []).append(count / seconds)
        report(rates)


def report(rates: Rates) -> None:
    """Each beside the best loop on a plain client that does the same."""
    median = {what: statistics.median(found) for what, found in rates.items()}
    for what, found in median.items():
        kind = what.partition(":")[0]
        plain = max(
            (name for name in median if name.startswith(kind) and "streamflow" not in name), key=median.__getitem__
        )
        ratio = statistics.median(ours / theirs for ours, theirs in zip(rates[what], rates[plain], strict=True))
        spread = f"{min(rates[what]):,.0f} .. {max(rates[what]):,.0f}"
        print(f"  {what:<40} {found:>9,.0f}/s   {ratio:5.2f} of the best plain one   ({spread})")


async def timed(work: Callable[[], Awaitable[Any]]) -> float:
    began = time.perf_counter()
    await work()
    return time.perf_counter() - began


async def publish_plainly(server: RabbitServer, queue: str, count: int) -> float:
    """As fast as aio-pika goes with confirms: many publishes at a time."""
    async with await aio_pika.connect(server.url) as connection:
        channel = await connection.channel()
        await channel.declare_queue(queue, durable=True)
        exchange = channel.default_exchange

        async def publish() -> None:
            for start in range(0, count, RUN):
                await asyncio.gather(
                    *(
                        exchange.publish(
                            aio_pika.Message(PAYLOAD, message_id=f"id.{seq}", delivery_mode=2), routing_key=queue
                        )
                        for seq in range(start, start + RUN)
                    )
                )

        seconds = await timed(publish)
        await channel.queue_delete(queue)
        return seconds


async def publish_frames_confirmed(server: RabbitServer, queue: str, count: int) -> float:
    """As fast as aiormq's connection goes: frames are made once per message and written many at a time."""
    connection = await aiormq.connect(server.url)
    channel: Any = await connection.channel(publisher_confirms=True)
    await channel.queue_declare(queue, durable=True)

    async def publish() -> None:
        for start in range(1, count + 1, RUN):
            confirms = []
            for tag in range(start, start + RUN):
                channel.confirmations[tag] = confirm = channel.create_future()
                confirms.append(confirm)
            await write(connection, channel.number, queue, start)
            await asyncio.gather(*confirms)

    seconds = await timed(publish)
    await channel.queue_delete(queue)
    await connection.close()
    return seconds


async def publish_frames_in_transactions(server: RabbitServer, queue: str, count: int) -> float:
    """The same in transactions of as many messages as the sink's."""
    connection = await aiormq.connect(server.url)
    channel = await connection.channel(publisher_confirms=False)
    await channel.queue_declare(queue, durable=True)
    await channel.tx_select()

    async def publish() -> None:
        for start in range(1, count + 1, RUN):
            await write(connection, channel.number, queue, start)
            await channel.tx_commit()

    seconds = await timed(publish)
    await channel.queue_delete(queue)
    await connection.close()
    return seconds


async def write(connection: Any, number: int, queue: str, start: int) -> None:
    """Writes the frames of `RUN` messages, `JOINED` at a time."""
    method = marshal(commands.Basic.Publish(exchange="", routing_key=queue, mandatory=True), number)
    body = marshal(ContentBody(PAYLOAD), number)
    for first in range(start, start + RUN, JOINED):
        parts = []
        for seq in range(first, first + JOINED):
            properties = commands.Basic.Properties(message_id=f"id.{seq}", delivery_mode=2)
            parts += [method, marshal(ContentHeader(0, len(PAYLOAD), properties), number), body]
        await connection.write_queue.put(ChannelFrame(b"".join(parts), should_close=False))


async def publish_confirming(server: RabbitServer, queue: str, count: int) -> float:
    return await publish_ours(server, queue, count, "confirm")


async def publish_in_transactions(server: RabbitServer, queue: str, count: int) -> float:
    return await publish_ours(server, queue, count, "tx")


async def publish_ours(server: RabbitServer, queue: str, count: int, mode: Any) -> float:
    await make(server, queue)
    sink = RabbitMQ(server.url).queue(queue, value=bytes, mode=mode).sink(SinkOptions())
    await sink.open(SinkContext("bench", queue, 0, "i", 1))
    at = await sink.recover(None, [])
    runs = []
    for number in range(count // RUN):
        frames = list(sink.encode(Fragment(MicroBatch(1, 0), [PAYLOAD] * RUN, True)))
        runs.append(Chunk("out", number + 1, 0, 1 + number * RUN, RUN, pack_frames(frames)))

    async def publish() -> None:
        progress: Progress = at
        for run in runs:
            progress = await sink.publish([run], progress)

    seconds = await timed(publish)
    await sink.close()
    await drop(server, queue)
    return seconds


async def consume_plainly(server: RabbitServer, queue: str, count: int) -> float:
    """As fast as aio-pika goes with acknowledgements: a callback, and one for all of a prefetch's half."""
    await fill(server, queue, count)
    async with await aio_pika.connect(server.url) as connection:
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=PREFETCH)
        found: list[bytes] = []
        done = asyncio.Event()

        async def take(message: aio_pika.abc.AbstractIncomingMessage) -> None:
            found.append(message.body)
            if len(found) % (PREFETCH // 2) == 0 or len(found) == count:
                await message.ack(multiple=True)
            if len(found) == count:
                done.set()

        async def consume() -> None:
            await (await channel.get_queue(queue)).consume(take)
            await done.wait()

        seconds = await timed(consume)
    await drop(server, queue)
    return seconds


async def consume_by_aiormq(server: RabbitServer, queue: str, count: int) -> float:
    """The same without aio-pika's messages."""
    await fill(server, queue, count)
    connection = await aiormq.connect(server.url)
    channel = await connection.channel()
    await channel.basic_qos(prefetch_count=PREFETCH)
    found: list[bytes] = []
    done = asyncio.Event()

    async def take(message: Any) -> None:
        found.append(message.body)
        if len(found) % (PREFETCH // 2) == 0 or len(found) == count:
            await channel.basic_ack(message.delivery.delivery_tag, multiple=True, wait=False)
        if len(found) == count:
            done.set()

    async def consume() -> None:
        await channel.basic_consume(queue, take)
        await done.wait()

    seconds = await timed(consume)
    await connection.close()
    await drop(server, queue)
    return seconds


async def read(server: RabbitServer, queue: str, count: int) -> float:
    await fill(server, queue, count)
    source = RabbitMQ(server.url).queue(queue, limits=Limits(prefetch=PREFETCH)).source()

    async def consume() -> None:
        await source.open(SourceContext("bench", queue, 0, "i", 1), {})
        ids: list[str] = []
        done = epoch = 0
        while done < count:
            batch = await source.read()
            assert batch is not None and batch.ids is not None
            ids += batch.ids
            done += len(batch)
            if len(ids) >= PREFETCH // 2 or done == count:
                epoch += 1
                await source.committed(epoch, Taken(ids=ids))
                ids = []

    seconds = await timed(consume)
    await source.close()
    await drop(server, queue)
    return seconds


async def make(server: RabbitServer, queue: str) -> None:
    async with await aio_pika.connect(server.url) as connection:
        await (await connection.channel()).declare_queue(queue, durable=True)


async def drop(server: RabbitServer, queue: str) -> None:
    async with await aio_pika.connect(server.url) as connection:
        await (await connection.channel()).queue_delete(queue)


async def fill(server: RabbitServer, queue: str, count: int) -> None:
    await make(server, queue)
    sink = RabbitMQ(server.url).queue(queue, value=bytes).sink(SinkOptions())
    await sink.open(SinkContext("bench", f"fill-{queue}", 0, "i", 1))
    frames = list(sink.encode(Fragment(MicroBatch(1, 0), [PAYLOAD] * count, True)))
    await sink.publish([Chunk("out", 1, 0, 1, count, pack_frames(frames))], await sink.recover(None, []))
    await sink.close()
