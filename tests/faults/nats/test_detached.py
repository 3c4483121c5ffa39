"""Detached calls between two streams of NATS, the flow killed while they are under way: each has one result."""

from __future__ import annotations

import asyncio
import json
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import streamflow as sf
from streamflow.state.reader import dead_letters
from streamflow_nats import Nats
from tests.brokers import NatsServer
from tests.faults.flow import Setup
from tests.faults.nats.outside import Outsider, make_stream
from tests.faults.process import FlowProcess

KEYS = 7
RECORDS = 200
KILLS = 4


@dataclass
class Asked:
    n: int


@dataclass
class Answered:
    n: int
    id: str


@dataclass(frozen=True, kw_only=True)
class DetachedSetup(Setup):
    """A detached step with keys between two streams of one server; one call in ten fails at every attempt."""

    url: str
    source: str
    sink: str

    def build(self, flow: sf.Flow) -> None:
        async def answered(ctx: sf.Context[int, Any], asked: Asked) -> Answered:
            await asyncio.sleep(asked.n % 11 * 0.015)
            if asked.n % 10 == 0:
                raise ValueError(asked.n)
            return Answered(asked.n, ctx.id)

        keyed = flow.source(self.reads()).key_by(lambda asked: asked.n % KEYS)
        policy = sf.retry(1, backoff="1ms").then(sf.dead_letter)
        done = keyed.map(answered, detached=True, concurrency=16, deadline="1m", on_error=policy)
        done.to(self.writes()[0][0])

    def reads(self) -> Any:
        return Nats(self.url).stream(self.source, value=Asked)

    def writes(self) -> Sequence[tuple[Any, None]]:
        return [(Nats(self.url).stream(self.sink, subject=self.sink.lower(), value=Answered), None)]


@pytest.mark.long
async def test_detached_calls_under_kills(server: NatsServer, tmp_path: Path) -> None:
    await make_stream(server, "ASKED")
    await make_stream(server, "ANSWERED")
    setup = DetachedSetup(state=tmp_path / "flow.db", url=server.url, source="ASKED", sink="ANSWERED")
    flow, rng, share = FlowProcess(setup, tmp_path), random.Random(11), RECORDS // (KILLS + 1)
    wanted = [n for n in range(RECORDS) if n % 10]
    async with Outsider(server) as outsider:
        try:
            for life in range(KILLS + 1):
                for n in range(share * life, share * (life + 1)):
                    await outsider.js.publish("asked", json.dumps({"n": n}).encode())
                flow.start()
                await flow.until(lambda: flow.said("committed"), "a commit")
                if life < KILLS:
                    await asyncio.sleep(rng.uniform(0.0, 0.3))
                    flow.kill()
            for _ in range(600):
                if await outsider.count("ANSWERED") >= len(wanted) or not flow.alive:
                    break
                await asyncio.sleep(0.05)
            await asyncio.sleep(0.5)  # a moment for what should not come
            await flow.stop_cleanly()
        finally:
            flow.stop()
        found = await outsider.results("ANSWERED")
    assert flow.kills == KILLS
    assert sorted(answer["n"] for answer in found) == wanted
    assert len({answer["id"] for answer in found}) == len(wanted)
    of_keys = defaultdict(list)
    for answer in found:
        of_keys[answer["n"] % KEYS].append(answer["n"])
    assert all(numbers == sorted(numbers) for numbers in of_keys.values()), "each key keeps its order"
    letters = [json.loads(stored.letter.payload)["n"] for stored in dead_letters(setup.state)[1]]
    assert sorted(letters) == list(range(0, RECORDS, 10))
