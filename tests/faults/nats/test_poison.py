"""Poison on a real NATS, under kills: each record once, each dead letter once; under stop nothing behind it."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.brokers import NatsServer
from tests.faults.nats.outside import Outsider, make_stream
from tests.faults.poison import PoisonSetup, Policy
from tests.faults.poison_trial import PoisonTrial


@pytest.mark.long
@pytest.mark.parametrize(
    ("policy", "point"), [("skip", ""), ("dead_letter", ""), ("retry", ""), ("dead_letter", "record.buried")]
)
async def test_poison_under_kills(server: NatsServer, tmp_path: Path, policy: Policy, point: str) -> None:
    async with trial_on(server, tmp_path, policy) as trial:
        await trial.run(records=420, kills=6, seed=3, point=point)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["undecodable", "state"])
async def test_poison_that_stops_the_flow_under_kills(server: NatsServer, tmp_path: Path, kind: str) -> None:
    async with trial_on(server, tmp_path, "stop") as trial:
        await trial.run_to_stop(kind, kills=4, seed=3)


@asynccontextmanager
async def trial_on(server: NatsServer, folder: Path, policy: Policy) -> AsyncIterator[PoisonTrial]:
    name = secrets.token_hex(3)
    source, sink = f"PIN{name}", f"POUT{name}"
    await make_stream(server, source)
    await make_stream(server, sink, max_msg_size=2_500)
    setup = PoisonSetup(
        state=folder / "flow.db", url=server.url, broker="nats", source=source, sink=sink, policy=policy
    )
    async with Outsider(server) as outsider:

        async def publish(payloads: Sequence[bytes]) -> None:
            for payload in payloads:
                await outsider.js.publish(source.lower(), payload)

        yield PoisonTrial(setup, folder, publish, lambda: outsider.count(sink), lambda: outsider.results(sink))
