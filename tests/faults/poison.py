"""Poison: records of every kind that something refuses, the flow that meets them, and what must become of each."""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import streamflow as sf
from streamflow.connect.contracts import SinkSpec, SourceSpec
from tests.faults.flow import Guaranteed, Setup

MESSAGE_BYTES_MAX: Final = 2_000
REFUSED_BYTES: Final = 3_000
"""So large is a value that the sink's broker does not take; brokers here take less, memory topics are told to."""
FRAME_BYTES: Final = 1_100_000
"""So large is one that no frame of a RabbitMQ stream holds: those have 1 MiB."""
KEYS: Final = 5

WHERE: Final = {
    "undecodable": ("source", "records"),
    "oversized": ("source", "records"),
    "raises": ("step", "checked"),
    "awaits": ("step", "awaited"),
    "state": ("step", "counted"),
    "unencodable": ("sink", "out"),
    "refused": ("sink", "out"),
}
"""Who refuses which kind."""

Policy = Literal["skip", "dead_letter", "retry", "stop"]


@dataclass
class Record:
    n: int
    kind: str = "good"
    pad: str = ""


@dataclass
class Tally:
    count: int = 0


@dataclass
class Out:
    n: int
    count: int
    extra: Any = ""


def payload(n: int, kind: str) -> bytes:
    """A record as a producer sends it; its number can be read whatever else is wrong with it."""
    whole = json.dumps({"n": n, "kind": kind, "pad": "x" * MESSAGE_BYTES_MAX if kind == "oversized" else ""}).encode()
    return whole[: whole.index(b"pad")] if kind == "undecodable" else whole


def mixture(count: int, seed: int, kinds: Sequence[str]) -> list[str]:
    """Kinds of records 1, 2, ...: a third of them poison, each kind some times."""
    rng = random.Random(seed)
    poison = [kinds[at % len(kinds)] for at in range(count // 3)]
    found = [*poison, *["good"] * (count - len(poison))]
    rng.shuffle(found)
    return found


def wanted(kinds: Sequence[str]) -> list[tuple[int, int]]:
    """The results: number and count of its key, in order. What a sink refuses has been counted, and nothing else."""
    tally: Counter[int] = Counter()
    found = []
    for n, kind in enumerate(kinds, 1):
        if kind == "good" or WHERE[kind][0] == "sink":
            tally[n % KEYS] += 1
        if kind == "good":
            found.append((n, tally[n % KEYS]))
    return found


def wanted_letters(kinds: Sequence[str]) -> list[tuple[str, str, int]]:
    """The dead letters: kind, name and number."""
    return sorted((*WHERE[kind], n) for n, kind in enumerate(kinds, 1) if kind != "good")


def told_letters(letters: Sequence[Any]) -> list[tuple[str, str, int]]:
    """The dead letters that there are."""
    found = []
    for letter in letters:
        number = re.search(rb'"n":\s*(\d+)', letter.payload)
        assert number is not None, letter
        found.append((letter.kind, letter.name, int(number[1])))
    return sorted(found)


class Poisoned(Exception):
    """What the steps raise."""


def add_steps(
    flow: sf.Flow,
    reads: SourceSpec[Record],
    writes: SinkSpec[Out],
    policy: Policy,
    guarantee: Guaranteed | None = None,
    subject: Callable[[Out], str] | None = None,
    refused_bytes: int = REFUSED_BYTES,
) -> None:
    """Writes the steps of the flow: each of them refuses one kind, under the policy that is asked for."""
    plain: Any = {"skip": sf.skip, "stop": sf.stop}.get(policy, sf.dead_letter)
    step = sf.retry(2).then(sf.dead_letter) if policy == "retry" else plain
    waits = sf.retry(2, backoff="1ms").then(sf.dead_letter) if policy == "retry" else plain

    def checked(record: Record) -> Record:
        if record.kind == "raises":
            raise Poisoned(record.n)
        return record

    async def awaited(record: Record) -> Record:
        await asyncio.sleep(0.0005 * (record.n % 3))
        if record.kind == "awaits":
            raise Poisoned(record.n)
        return record

    def counted(ctx: sf.Context[int, Tally], record: Record) -> Iterator[Out]:
        ctx.state.count += 1
        yield Out(record.n, ctx.state.count, extras(record.kind, refused_bytes))
        if record.kind == "state":
            raise Poisoned(record.n)

    records = flow.source(reads, name="records", on_error=plain)
    good = records.map(checked, on_error=step).map(awaited, concurrency=8, on_error=waits)
    keyed = good.key_by(lambda record: record.n % KEYS)
    out = keyed.process(state=Tally, on_error=step)(counted)
    out.to(writes, name="out", guarantee=guarantee, on_error=plain, subject=subject)


class Unwritable:
    """No sink can encode it."""

    def __repr__(self) -> str:
        return "Unwritable()"


def extras(kind: str, refused_bytes: int = REFUSED_BYTES) -> Any:
    return "y" * refused_bytes if kind == "refused" else Unwritable() if kind == "unencodable" else ""


@dataclass(frozen=True, kw_only=True)
class PoisonSetup(Setup):
    """The flow between two places of a real broker.

    Args:
        url: The broker.
        broker: Which one it is.
        source: Where records are.
        sink: Where results go.
        policy: What becomes of poison.
        stream_port: Where streams of RabbitMQ are.
    """

    url: str
    broker: Literal["nats", "kafka", "rabbitmq", "rabbitmq stream"]
    source: str
    sink: str
    policy: Policy = "dead_letter"
    stream_port: int = 0
    settings: dict[str, Any] = field(default_factory=lambda: {"message_bytes_max": MESSAGE_BYTES_MAX})

    def build(self, flow: sf.Flow) -> None:
        guarantee: Guaranteed | None = "effectively_once" if self.broker == "rabbitmq" else None
        subject = _routed if self.broker == "rabbitmq" else None
        refused_bytes = FRAME_BYTES if self.broker == "rabbitmq stream" else REFUSED_BYTES
        add_steps(flow, self.reads(), self.writes()[0][0], self.policy, guarantee, subject, refused_bytes)

    def reads(self) -> Any:
        if self.broker == "nats":
            from streamflow_nats import Nats

            return Nats(self.url).stream(self.source, value=Record)
        if self.broker == "kafka":
            from streamflow_kafka import Kafka

            return Kafka(self.url).topic(self.source, value=Record)
        if self.broker == "rabbitmq stream":
            return self._streams().stream(self.source, value=Record)
        from streamflow_rabbitmq import RabbitMQ

        return RabbitMQ(self.url).queue(self.source, value=Record)

    def writes(self) -> Sequence[tuple[Any, Guaranteed | None]]:
        if self.broker == "nats":
            from streamflow_nats import Nats

            return [(Nats(self.url).stream(self.sink, subject=self.sink.lower(), value=Out), None)]
        if self.broker == "kafka":
            from streamflow_kafka import Kafka

            return [(Kafka(self.url).topic(self.sink, value=Out), None)]
        if self.broker == "rabbitmq stream":
            return [(self._streams().stream(self.sink, value=Out), None)]
        from streamflow_rabbitmq import RabbitMQ

        return [(RabbitMQ(self.url).exchange(f"ex-{self.sink}", value=Out, routing_key="a.b"), None)]

    def _streams(self) -> Any:
        from streamflow_rabbitmq import RabbitMQ, UserPassword

        return RabbitMQ(self.url, auth=UserPassword("guest", "guest"), stream_port=self.stream_port)


def _routed(out: Out) -> str:
    """A key that leads nowhere: RabbitMQ gives such a message back."""
    return "nowhere" if out.extra else "a.b"
