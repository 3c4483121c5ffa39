"""NATS: source and sinks beside the fastest loops that can be written with nats-py. Two cores are needed.

Each round runs the ways one after the other on one server, so that its mood hits all of them; medians of the rounds.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import statistics
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

import nats
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy, StorageType, StreamConfig

from streamflow.batch import Chunk, Fragment, MicroBatch, pack_frames
from streamflow.connect.contracts import SinkContext, SinkOptions, SourceContext
from streamflow_nats import Nats
from streamflow_nats.settings import Mode
from tests.brokers import NatsServer

READ_RECORDS: Final = 100_000
PUBLISHED_RECORDS: Final = {"2m": 60_000, "always": 2_000}
"""By how often the server calls fsync; its default is every two minutes."""
ROUNDS: Final = 5
RUN_RECORDS: Final = 2_000
"""Records of one publish: what a committed epoch gives under load."""
WINDOW: Final = 4_096
"""Messages that may wait for their acknowledgement, as the sink's."""
PULL_RECORDS: Final = 512
PULLS: Final = 8
PAYLOAD: Final = b"x" * 100

Way = Callable[[NatsServer, str, int], Awaitable[float]]
_names = itertools.count(1)


def main() -> None:
    asyncio.run(_main())


async def _main() -> None:
    async with NatsServer(sync="2m") as server:
        print(f"sources, {READ_RECORDS:,} records", flush=True)
        await _fill(server, "SOURCE")
        sources: dict[str, Way] = {
            "streamflow, source": _source,
            "nats-py, overlapped pulls": _overlapped_pulls,
            "nats-py, fetch(1000)": _fetch,
        }
        await _compare(server, sources, READ_RECORDS, stream="SOURCE")
    sinks: dict[str, Way] = {
        "streamflow, chain": partial(_sink, "chain"),
        "streamflow, batch": partial(_sink, "batch"),
        "streamflow, msgid": partial(_sink, "msgid"),
        "nats-py, windowed publisher": _publish_windowed,
        "nats-py, publish_async": _publish_async,
    }
    for sync, count in PUBLISHED_RECORDS.items():
        async with NatsServer(sync=sync) as server:
            for allow_atomic in (True, False):
                ways = {name: way for name, way in sinks.items() if allow_atomic or name != "streamflow, batch"}
                atomic = "with" if allow_atomic else "without"
                print(f"sinks, fsync {sync}, streams {atomic} allow_atomic, {count:,} records", flush=True)
                await _compare(server, ways, count, allow_atomic=allow_atomic)


async def _compare(
    server: NatsServer, ways: dict[str, Way], count: int, *, allow_atomic: bool = False, stream: str = ""
) -> None:
    """Runs the ways in turn, each on a stream of its own unless one is given."""
    rates: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(ROUNDS):
        for way, run in ways.items():
            name = stream or await _make(server, allow_atomic=allow_atomic)
            gc.collect()
            rates[way].append(count / await run(server, name, count))
            if not stream:
                await _delete(server, name)
    median = {way: statistics.median(found) for way, found in rates.items()}
    best = max((way for way in ways if way.startswith("nats-py")), key=median.__getitem__)
    for way, found in rates.items():
        ratios = [ours / theirs for ours, theirs in zip(found, rates[best], strict=True)]
        told = f"{statistics.median(ratios):5.2f} of the best plain loop ({min(ratios):.2f} .. {max(ratios):.2f})"
        print(f"  {way:<30} {median[way]:>9,.0f}/s   {told}", flush=True)


# -- streams ----------------------------------------------------------------------------------------------------------


async def _make(server: NatsServer, *, allow_atomic: bool) -> str:
    name = f"BENCH{next(_names)}"
    client = await nats.connect(server.url)
    # nats-py 2.16 does not know allow_atomic; the server's own API does
    config = {"name": name, "subjects": [f"{name}.x", f"{name}._sf.>"], "allow_atomic": allow_atomic}
    answer = json.loads((await client.request(f"$JS.API.STREAM.CREATE.{name}", json.dumps(config).encode())).data)
    assert "error" not in answer, answer
    await client.close()
    return name


async def _delete(server: NatsServer, name: str) -> None:
    client = await nats.connect(server.url)
    state = (await client.jetstream().stream_info(name)).state
    assert state.messages > 0
    await client.jetstream().delete_stream(name)
    await client.close()


async def _fill(server: NatsServer, name: str) -> None:
    client = await nats.connect(server.url)
    config = StreamConfig(name=name, subjects=[f"{name}.x"], storage=StorageType.MEMORY)
    await client.jetstream().add_stream(config)
    await client.close()
    await _publish_windowed(server, name, READ_RECORDS)


# -- publishing -------------------------------------------------------------------------------------------------------


async def _sink(mode: Mode, server: NatsServer, name: str, count: int) -> float:
    """Publishes epochs, one after the other; encoding is not counted."""
    sink = Nats(server.url).stream(name, subject=f"{name}.x", value=bytes, mode=mode).sink(SinkOptions())
    await sink.open(SinkContext("bench", "out", 0, "i", 1))
    at = await sink.recover(None, [])
    runs = []
    for number in range(count // RUN_RECORDS):
        frames = list(sink.encode(Fragment(MicroBatch(1, 0), [PAYLOAD] * RUN_RECORDS, True)))
        runs.append(Chunk("out", number + 1, 0, 1 + number * RUN_RECORDS, RUN_RECORDS, pack_frames(frames)))
    began = time.perf_counter()
    for run in runs:
        at = await sink.publish([run], at)
    took = time.perf_counter() - began
    assert at.next_seq == count + 1
    await sink.close()
    return took


async def _publish_windowed(server: NatsServer, name: str, count: int) -> float:
    """The best plain publisher: an inbox of its own, and a window of messages whose acknowledgements it counts."""
    client = await nats.connect(server.url, pending_size=8 << 20)
    inbox, subject = client.new_inbox(), f"{name}.x"
    acknowledged = 0
    moved = asyncio.Event()

    async def take(message: Any) -> None:
        nonlocal acknowledged
        assert b'"error"' not in message.data, message.data
        acknowledged += 1
        moved.set()

    await client.subscribe(inbox + ".*", cb=take)
    began = time.perf_counter()
    for number in range(1, count + 1):
        while number - acknowledged > WINDOW:
            moved.clear()
            await moved.wait()
        await client.publish(subject, PAYLOAD, reply=f"{inbox}.{number}")
    while acknowledged < count:
        moved.clear()
        await moved.wait()
    took = time.perf_counter() - began
    await client.close()
    return took


async def _publish_async(server: NatsServer, name: str, count: int) -> float:
    """What nats-py has for it."""
    client = await nats.connect(server.url)
    stream = client.jetstream(publish_async_max_pending=WINDOW)
    began = time.perf_counter()
    futures = [await stream.publish_async(f"{name}.x", PAYLOAD) for _ in range(count)]
    await stream.publish_async_completed()
    took = time.perf_counter() - began
    assert all(future.done() for future in futures)
    await client.close()
    return took


# -- reading ----------------------------------------------------------------------------------------------------------


async def _source(server: NatsServer, name: str, count: int) -> float:
    source = Nats(server.url).stream(name).source()
    began, found = time.perf_counter(), 0
    await source.open(SourceContext("bench", "in", 0, "i", 1), {})
    while found < count:
        batch = await source.read()
        assert batch is not None
        found += len(batch)
    took = time.perf_counter() - began
    await source.close()
    return took


async def _overlapped_pulls(server: NatsServer, name: str, count: int) -> float:
    """The best plain reader: a callback for all messages, and always some pull requests ahead of it."""
    client = await nats.connect(server.url, pending_size=8 << 20)
    inbox = client.new_inbox()
    request = json.dumps({"batch": PULL_RECORDS, "expires": 30_000_000_000}).encode()
    found: list[bytes] = []
    done = asyncio.Event()
    began = time.perf_counter()
    config = ConsumerConfig(ack_policy=AckPolicy.NONE, deliver_policy=DeliverPolicy.ALL, mem_storage=True)
    consumer = await client.jetstream().add_consumer(name, config)
    pull = f"$JS.API.CONSUMER.MSG.NEXT.{name}.{consumer.name}"

    async def take(message: Any) -> None:
        if not message.reply:
            return  # the end of a request
        found.append(message.data)
        if len(found) % PULL_RECORDS == 0:
            await client.publish(pull, request, reply=inbox)
        if len(found) == count:
            done.set()

    await client.subscribe(inbox, cb=take, pending_msgs_limit=-1, pending_bytes_limit=-1)
    for _ in range(PULLS):
        await client.publish(pull, request, reply=inbox)
    await done.wait()
    took = time.perf_counter() - began
    await client.close()
    return took


async def _fetch(server: NatsServer, name: str, count: int) -> float:
    """What nats-py has for it."""
    client = await nats.connect(server.url)
    began = time.perf_counter()
    config = ConsumerConfig(ack_policy=AckPolicy.NONE)
    subscription = await client.jetstream().pull_subscribe(f"{name}.x", stream=name, config=config)
    found = 0
    while found < count:
        found += len(await subscription.fetch(1000))
    took = time.perf_counter() - began
    await client.close()
    return took
