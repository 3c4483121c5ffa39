"""Poison on a real NATS, under kills: each record once, each dead letter once; under stop nothing behind it."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.brokers import NatsServer
from tests.faults.flow import Trap
from tests.faults.nats.outside import Outsider, make_stream
from tests.faults.poison import WHERE, PoisonSetup, Policy, mixture, payload
from tests.faults.poison_trial import PoisonTrial
from tests.faults.process import FlowProcess

SIZE_MAX = 2_500
"""Of a message of the results, with its headers."""


@pytest.mark.long
@pytest.mark.parametrize("policy", ["skip", "dead_letter", "retry"])
async def test_poison_under_kills(server: NatsServer, tmp_path: Path, policy: Policy) -> None:
    async with trial_on(server, tmp_path, policy) as trial:
        await trial.run(records=420, kills=6, seed=3)


@pytest.mark.long
async def test_death_where_a_record_is_buried(server: NatsServer, tmp_path: Path) -> None:
    """A stream takes less than it did when the sink was opened: only the server refuses what is too large then."""
    kinds = ["good"] * 5 + mixture(100, 3, list(WHERE))
    payloads = [payload(n, kind) for n, kind in enumerate(kinds, 1)]
    async with trial_on(server, tmp_path, "dead_letter", max_msg_size=-1) as trial, Outsider(server) as outsider:
        flow, trap = FlowProcess(trial.setup, tmp_path), Trap("record.buried")
        try:
            await trial.publish(payloads[:5])
            flow.start(trap)
            await flow.until(lambda: flow.said("published") or not flow.alive, "a publish")
            config = (await outsider.api(f"STREAM.INFO.{trial.setup.sink}"))["config"]
            answer = await outsider.api(f"STREAM.UPDATE.{trial.setup.sink}", {**config, "max_msg_size": SIZE_MAX})
            assert "error" not in answer, answer
            await trial.publish(payloads[5:])
            await flow.killed(trap)
            # it is stored that the record is given up; those behind it that the first life had encoded are refused, too
            await trial.finish(flow, kinds)
        finally:
            flow.stop()
        assert flow.kills == 1


@pytest.mark.long
@pytest.mark.parametrize("kind", ["undecodable", "state"])
async def test_poison_that_stops_the_flow_under_kills(server: NatsServer, tmp_path: Path, kind: str) -> None:
    async with trial_on(server, tmp_path, "stop") as trial:
        await trial.run_to_stop(kind, kills=4, seed=3)


@asynccontextmanager
async def trial_on(
    server: NatsServer, folder: Path, policy: Policy, max_msg_size: int = SIZE_MAX
) -> AsyncIterator[PoisonTrial]:
    name = secrets.token_hex(3)
    source, sink = f"PIN{name}", f"POUT{name}"
    await make_stream(server, source)
    await make_stream(server, sink, max_msg_size=max_msg_size)
    setup = PoisonSetup(
        state=folder / "flow.db", url=server.url, broker="nats", source=source, sink=sink, policy=policy
    )
    async with Outsider(server) as outsider:

        async def publish(payloads: Sequence[bytes]) -> None:
            for payload in payloads:
                await outsider.js.publish(source.lower(), payload)

        yield PoisonTrial(setup, folder, publish, lambda: outsider.count(sink), lambda: outsider.results(sink))
