"""The network between a simulated host and its brokers: requests that come late, get lost, or lose their answer."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from streamflow.batch import Chunk, Fragment, Partition, Position, Progress, SourceBatch, Taken
from streamflow.connect.contracts import Frames, Guarantee, Probe, Sink, SinkContext, Source, SourceContext
from streamflow.connect.memory import MemoryTopic
from streamflow.errors import Fenced, Unavailable
from streamflow.testing.simulation.loop import Killed, SimulatedLoop

T = TypeVar("T")

ANSWER_LOST: Final = "the answer got lost"


@dataclass(frozen=True, slots=True)
class Faults:
    """What goes wrong between a flow and its brokers, as rates that a seed draws.

    Args:
        refused: Share of requests that do not arrive.
        lost: Share of requests that arrive, but whose answer does not.
        part: Share of publishes of which only the first records arrive.
        read: Share of reads that lose the connection.
        ack: Share of acknowledgements that are lost.
        latency_seconds: The longest way of a request, and of its answer.
    """

    refused: float = 0.0
    lost: float = 0.0
    part: float = 0.0
    read: float = 0.0
    ack: float = 0.0
    latency_seconds: float = 0.0


class Network:
    """Carries requests.

    GUARANTEE: a request that arrives has its effect whole, at one instant, also when who sent it is dead by then.
    With no faults and no latency it is a plain call.

    Args:
        loop: The loop.
        chance: Where randomness comes from.
        faults: What goes wrong.
        labels: Counts what went wrong.
    """

    def __init__(self, loop: SimulatedLoop, chance: random.Random, faults: Faults, labels: Counter[str]) -> None:
        self.loop = loop
        self.chance = chance
        self.faults = faults
        self.labels = labels
        self.healed = False

    def hits(self, rate: float) -> bool:
        """Whether a fault strikes now."""
        return not self.healed and rate > 0 and self.chance.random() < rate

    async def request(self, name: str, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Sends a request and waits for its answer.

        Args:
            name: What it is called, for labels and messages.
            make: Its effect: a coroutine that waits for nothing.

        Raises:
            Unavailable: It did not arrive, or its answer did not.
        """
        latency = self.faults.latency_seconds
        if self.hits(self.faults.refused):
            self.labels[f"{name} refused"] += 1
            raise Unavailable(f"{name}: no way to the broker")
        lost = self.hits(self.faults.lost)
        if not latency and not lost:
            return await make()
        answer: asyncio.Future[T] = self.loop.create_future()

        def arrive() -> None:
            try:
                give, what = _outcome(make())
            except Killed:
                return
            if lost or answer.done():
                self.labels[f"{name} arrived, its answer lost"] += 1
            elif not answer.get_loop().is_closed():
                self._later(lambda: answer.done() or give(answer, what))

        self._later(arrive)
        if lost:
            error = Unavailable(f"{name}: {ANSWER_LOST}")
            self._later(lambda: answer.done() or _give_error(answer, error))
        return await answer

    def _later(self, call: Callable[[], object]) -> None:
        delay = self.chance.random() * self.faults.latency_seconds
        self.loop.inside(self.loop.world, lambda: self.loop.call_later(delay, call))


def _give_error(answer: asyncio.Future[Any], error: Exception) -> bool:
    answer.set_exception(error)
    return True


def _outcome(work: Coroutine[Any, Any, Any]) -> tuple[Callable[[asyncio.Future[Any], Any], None], Any]:
    """Runs a coroutine that waits for nothing; how to give its result or error to a future, and what."""
    try:
        work.send(None)
    except StopIteration as done:
        return asyncio.Future.set_result, done.value
    except Exception as error:
        return asyncio.Future.set_exception, error
    raise AssertionError("a request waits for something in the broker")


class SimulatedSource:
    """A source behind the network.

    Args:
        inner: The source at the broker.
        network: The way to it.
    """

    def __init__(self, inner: Source, network: Network) -> None:
        self._inner = inner
        self._network = network

    @property
    def guarantee(self) -> Guarantee:
        return self._inner.guarantee

    async def probe(self) -> Probe:
        return await self._inner.probe()

    async def open(self, ctx: SourceContext, resume: Mapping[Partition, Position]) -> Mapping[Partition, Position]:
        return await self._network.request("source open", lambda: self._inner.open(ctx, resume))

    async def read(self) -> SourceBatch | None:
        if self._network.hits(self._network.faults.read):
            self._network.labels["source lost while reading"] += 1
            raise Unavailable("the connection is gone")
        return await self._inner.read()

    async def ends(self) -> Mapping[Partition, Position | None]:
        return await self._network.request("source ends", self._inner.ends)

    def pause(self, partitions: Set[Partition]) -> None:
        self._inner.pause(partitions)

    async def committed(self, epoch: int, taken: Taken) -> None:
        if self._network.hits(self._network.faults.ack):
            self._network.labels["lost ack"] += 1
            return
        await self._network.request("ack", lambda: self._inner.committed(epoch, taken))

    async def close(self) -> None:
        await self._inner.close()


class SimulatedSink:
    """A sink behind the network.

    Args:
        inner: The sink at the broker.
        topic: The broker, which may be made to take a part only.
        network: The way to it.
        publishing: Told of each call of `publish`: its chunks and its progress so far.
    """

    def __init__(
        self,
        inner: Sink,
        topic: MemoryTopic[Any],
        network: Network,
        publishing: Callable[[Sequence[Chunk], Progress], None],
    ) -> None:
        self._inner = inner
        self._topic = topic
        self._network = network
        self._publishing = publishing

    @property
    def guarantee(self) -> Guarantee:
        return self._inner.guarantee

    async def probe(self) -> Probe:
        return await self._inner.probe()

    async def open(self, ctx: SinkContext) -> None:
        await self._network.request("sink open", lambda: self._inner.open(ctx))

    async def recover(self, stored: Progress | None, pending: Sequence[Chunk]) -> Progress:
        return await self._network.request("recover", lambda: self._inner.recover(stored, pending))

    def encode(self, records: Fragment) -> Frames:
        return self._inner.encode(records)

    async def publish(self, chunks: Sequence[Chunk], at: Progress) -> Progress:
        self._publishing(chunks, at)
        return await self._network.request("publish", lambda: self._arrived(chunks, at))

    async def _arrived(self, chunks: Sequence[Chunk], at: Progress) -> Progress:
        network, topic = self._network, self._topic
        count = sum(chunk.count for chunk in chunks)
        part = network.hits(network.faults.part)
        if part:
            topic.fail_next_publish(Unavailable("the connection is gone"), after=network.chance.randrange(count + 1))
        before = len(topic)
        try:
            return await self._inner.publish(chunks, at)
        except Fenced:
            network.labels["fenced at the broker"] += 1
            raise
        finally:
            topic.mend()
            if part and 0 < len(topic) - before < count:
                network.labels["part of a publish arrived"] += 1

    async def close(self) -> None:
        await self._inner.close()
