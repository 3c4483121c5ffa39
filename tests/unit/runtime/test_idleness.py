"""Idleness of a source: what the broker answers, how soon, and what is on its way from it to intake."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import streamflow as sf
from streamflow.batch import Partition, Position, SourceBatch, Taken
from streamflow.codecs import codec_for
from streamflow.connect.contracts import MORE, Guarantee, Level, Probe, Source, SourceContext
from tests.unit.runtime.test_engine import until

IDLE_SECONDS = 0.1
_TEXT = codec_for(str)


class Preparing:
    """A codec that needs an answer of somebody before it can decode, as one with a schema registry does."""

    name = "preparing"
    unprepared = _TEXT

    def __init__(self) -> None:
        self.may_decode = asyncio.Event()
        self.may_decode.set()

    def encode(self, value: str) -> bytes:
        return _TEXT.encode(value)

    def decode(self, data: bytes) -> str:
        return _TEXT.decode(data)

    async def prepare_decoding(self, payloads: Sequence[bytes | None]) -> None:
        await self.may_decode.wait()

    async def prepare_encoding(self, name: str) -> None: ...


class Queue:
    """A queue whose broker says what it is told to; spec and source in one."""

    name = "queue"
    guarantee = Guarantee(Level.EXACTLY_ONCE, "a test")

    def __init__(self) -> None:
        self.codec: Any = Preparing()
        self.ready: asyncio.Queue[list[bytes]] = asyncio.Queue()
        self.more = False
        self.answers_after_seconds = 0.0
        self.asked = self.handed_out = 0

    def describe(self) -> str:
        return "a queue"

    def source(self) -> Source:
        return self

    async def probe(self) -> Probe:
        return Probe(True)

    async def open(self, ctx: SourceContext, resume: Mapping[Partition, Position]) -> Mapping[Partition, Position]:
        return {}

    async def read(self) -> SourceBatch | None:
        payloads = await self.ready.get()
        self.handed_out += len(payloads)
        return SourceBatch("", payloads, ids=[str(self.handed_out + at) for at in range(len(payloads))])

    async def ends(self) -> Mapping[Partition, Position | None]:
        delay, self.answers_after_seconds = self.answers_after_seconds, 0.0
        self.asked += 1
        await asyncio.sleep(delay)
        return {"": MORE if self.more else None}

    def pause(self, partitions: Set[Partition]) -> None: ...

    async def committed(self, epoch: int, taken: Taken) -> None: ...

    async def close(self) -> None: ...


class Counting:
    """A flow that counts a queue's records in one window of event time."""

    def __init__(self, folder: Path) -> None:
        self.queue = Queue()
        flow = sf.Flow("idle", state=folder / "idle.db")
        records = flow.source(self.queue, name="in", time=lambda record: int(record) * 1000, idle=f"{IDLE_SECONDS}s")
        self.counts = records.key_by(lambda record: "k").window(sf.tumbling("60s")).count(name="counts")
        self.flow, self.records = flow, records
        self.seen: list[Any] = []
        self.told: list[int] = []

    async def __aenter__(self) -> Counting:
        self._running = self.flow.running()
        run = await self._running.__aenter__()
        self._listeners = [
            asyncio.create_task(self._listen(run.subscribe(self.records), self.seen)),
            asyncio.create_task(self._listen(run.subscribe(self.counts), self.told)),
        ]
        return self

    async def __aexit__(self, *error: Any) -> None:
        for listener in self._listeners:
            listener.cancel()
        await self._running.__aexit__(*error)

    async def _listen(self, rows: Any, into: list[Any]) -> None:
        async for row in rows:
            into.append(getattr(row, "value", row))  # noqa: PERF401 - it never ends

    async def asked(self, times: int) -> None:
        """Waits until the broker was asked so often from now on."""
        times += self.queue.asked
        while self.queue.asked < times:
            await asyncio.sleep(0.005)


async def test_a_queue_that_holds_more_is_not_idle(tmp_path: Path) -> None:
    async with asyncio.timeout(20), Counting(tmp_path) as flow:
        flow.queue.more = True
        flow.queue.ready.put_nowait([b"1", b"2"])
        await flow.asked(4)
        assert (flow.seen, flow.told) == (["1", "2"], [])
        flow.queue.more = False
        while not flow.told:
            await asyncio.sleep(0.01)
        assert flow.told == [2]


async def test_an_answer_that_comes_late_says_that_the_broker_was_away(tmp_path: Path) -> None:
    async with asyncio.timeout(20), Counting(tmp_path) as flow:
        flow.queue.answers_after_seconds = 3 * IDLE_SECONDS
        asked = flow.queue.asked
        flow.queue.ready.put_nowait([b"1", b"2"])
        while not flow.told:
            await asyncio.sleep(0.01)
        assert flow.told == [2]
        assert flow.queue.asked == asked + 2


async def test_records_that_wait_for_their_schema_are_no_silence(tmp_path: Path) -> None:
    async with asyncio.timeout(20), Counting(tmp_path) as flow:
        flow.queue.ready.put_nowait([b"1"])
        while not flow.seen:
            await asyncio.sleep(0.005)
        flow.queue.codec.may_decode.clear()
        flow.queue.ready.put_nowait([b"2"])
        await asyncio.sleep(5 * IDLE_SECONDS)
        assert (flow.queue.handed_out, flow.told) == (2, [])
        flow.queue.codec.may_decode.set()
        while not flow.told:
            await asyncio.sleep(0.01)
        assert flow.told == [2]


async def test_every_partition_of_a_queue_is_waited_for(tmp_path: Path) -> None:
    """A queue has no positions to start from, so its partitions are those whose ends it tells."""
    topic: sf.MemoryTopic[int] = sf.MemoryTopic("in", value=int, partitions=("a", "b"), ids=True)
    out: sf.MemoryTopic[Any] = sf.MemoryTopic("out")
    flow = sf.Flow("f", state=tmp_path / "f.db")
    seconds = flow.source(topic, time=lambda v: v * 1000, lateness="0s", idle=None)
    seconds.key_by(lambda v: "k", name="by").window(sf.tumbling("10s")).count(name="counted").map(
        lambda row: row.value
    ).to(out)
    async with flow.running() as run:
        for v in (1, 2, 30):
            topic.send(v, partition="a")
        await asyncio.sleep(4 * IDLE_SECONDS)
        assert out.values == [], "partition b may hold earlier ones"
        assert run.watermarks().sources["in"] is None
        for v in (3, 31):
            topic.send(v, partition="b")
        await until(lambda: out.values == [3])
