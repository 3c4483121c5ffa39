"""A trial of poison on a real broker: the flow is killed again and again while records come that something refuses."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streamflow.state.reader import dead_letters
from tests.faults.poison import WHERE, PoisonSetup, mixture, payload, told_letters, wanted, wanted_letters
from tests.faults.process import FlowProcess

KINDS = list(WHERE)


@dataclass(frozen=True)
class PoisonTrial:
    """What a broker's trial has to give.

    Args:
        setup: The flow.
        folder: For diary and log.
        publish: Sends records to the source, in order.
        count: How many results there are now.
        results: The results, in order.
    """

    setup: PoisonSetup
    folder: Path
    publish: Callable[[Sequence[bytes]], Awaitable[None]]
    count: Callable[[], Awaitable[int]]
    results: Callable[[], Awaitable[list[dict[str, Any]]]]

    async def run(self, *, records: int, kills: int, seed: int) -> None:
        """Kills the flow by SIGKILL; then every result must be there once, in order, and every letter once."""
        kinds = mixture(records, seed, KINDS)
        payloads = [payload(n, kind) for n, kind in enumerate(kinds, 1)]
        rng, share = random.Random(seed), records // (kills + 1)
        flow = FlowProcess(self.setup, self.folder)
        try:
            for life in range(kills):
                await self.publish(payloads[share * life : share * (life + 1)])
                flow.start()
                await flow.until(lambda: flow.said("started") or not flow.alive, "the start")
                await asyncio.sleep(rng.uniform(0.0, 0.25))
                flow.kill()
            await self.publish(payloads[share * kills :])
            flow.start()
            await self._until_all_are_there(flow, len(wanted(kinds)))
            await flow.stop_cleanly()
        finally:
            flow.stop()
        assert flow.kills == kills
        found = [(result["n"], result["count"]) for result in await self.results()]
        assert found == wanted(kinds), f"{self.setup.broker}: {flow.log}"
        letters = [stored.letter for stored in dead_letters(self.setup.state)[1]]
        assert told_letters(letters) == (wanted_letters(kinds) if self.setup.policy != "skip" else [])
        assert {event["step"] for event in flow.events("skipped")} == {WHERE[kind][1] for kind in KINDS}

    async def _until_all_are_there(self, flow: FlowProcess, wanted: int) -> None:
        for _ in range(600):
            if await self.count() >= wanted or not flow.alive:
                break
            await asyncio.sleep(0.05)
        assert flow.alive, f"the flow ended by itself: {flow.account()}"
        await asyncio.sleep(0.5)  # a moment for what should not come
