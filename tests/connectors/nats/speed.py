"""Prints how fast streams are read and written, beside nats-py's own ways: python -m tests.connectors.nats.speed.

Ratios of one run count; absolute figures depend on disk and processor.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

from nats.js.api import AckPolicy, ConsumerConfig

from streamflow.connect.contracts import SinkOptions
from streamflow_nats.settings import Mode
from tests.brokers import NatsServer
from tests.connectors.nats.broker import Broker
from tests.connectors.nats.kit import chunk, opened, sink_context

PAYLOAD = b"x" * 100


async def timed(name: str, count: int, work: Callable[[], Awaitable[Any]]) -> None:
    begin = time.perf_counter()
    await work()
    print(f"  {name:<34} {count / (time.perf_counter() - begin):>10,.0f}/s")


async def sinks(broker: Broker, count: int) -> None:
    await one_sink(broker, "chain", count, in_batches=False)
    for mode in ("chain", "batch", "msgid"):
        await one_sink(broker, mode, count)
    name = await broker.stream("{}.x")
    js = broker.client.jetstream(publish_async_max_pending=4000)

    async def publish_async() -> None:
        futures = [await js.publish_async(f"{name}.x", PAYLOAD) for _ in range(count)]
        await js.publish_async_completed()
        del futures

    await timed("nats-py publish_async", count, publish_async)
    few = max(100, count // 20)

    async def publish() -> None:
        for _ in range(few):
            await broker.js.publish(f"{name}.x", PAYLOAD)

    await timed("nats-py publish, awaited one by one", few, publish)


async def one_sink(broker: Broker, mode: Mode, count: int, *, in_batches: bool = True) -> None:
    name = await broker.stream("{}.x", "{}._sf.>", allow_atomic=in_batches)
    sink = broker.nats.stream(name, subject=f"{name}.x", mode=mode).sink(SinkOptions())
    await sink.open(sink_context())
    stored = await sink.recover(None, [])
    runs = [chunk(sink, epoch, 1 + (epoch - 1) * 2000, [PAYLOAD] * 2000) for epoch in range(1, count // 2000 + 1)]

    async def publish() -> None:
        at = stored
        for run in runs:
            at = await sink.publish([run], at)

    await timed(f"sink, mode {mode}" + ("" if in_batches else ", no allow_atomic"), count, publish)
    await sink.close()


async def sources(broker: Broker, count: int) -> None:
    name = await broker.stream("{}.x", storage="memory")
    sink = broker.nats.stream(name, mode="msgid").sink(SinkOptions())
    await sink.open(sink_context())
    await sink.publish([chunk(sink, 1, 1, [PAYLOAD] * count)], await sink.recover(None, []))
    await sink.close()
    source = await opened(broker.nats.stream(name))

    async def read() -> None:
        found = 0
        while found < count:
            found += len(await source.read())

    await timed("source", count, read)
    await source.close()
    subscription = await broker.js.pull_subscribe(
        f"{name}.x", stream=name, config=ConsumerConfig(ack_policy=AckPolicy.NONE)
    )

    async def fetch() -> None:
        found = 0
        while found < count:
            found += len(await subscription.fetch(1000))

    await timed("nats-py fetch(1000)", count, fetch)


async def main(count: int) -> None:
    for title, config in (("fsync on every message (sync_interval: always)", "always"), ("server's default", "2m")):
        with NatsServer() as server:
            server.stop()
            server.extra_config = f"jetstream {{ store_dir: '{server.folder}/other', sync_interval: {config} }}"
            server.start()
            broker = Broker(server)
            await broker.connect()
            print(title)
            await sinks(broker, count // 10 if config == "always" else count)
            if config != "always":
                await sources(broker, count * 2)
            await broker.close()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000))
