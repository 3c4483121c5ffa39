"""A trial of poison on a real broker: the flow is killed again and again while records come that something refuses."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streamflow.state.reader import dead_letters
from tests.faults.flow import Trap
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

    async def run(self, *, records: int, kills: int, seed: int, point: str = "") -> None:
        """Kills the flow by SIGKILL; then every result must be there once, in order, and every letter once.

        Args:
            records: How many there are.
            kills: How often it dies.
            seed: Of the order of records, and of the instants.
            point: The crash point at which it dies; by default it is killed at random instants.
        """
        kinds = mixture(records, seed, KINDS)
        payloads = [payload(n, kind) for n, kind in enumerate(kinds, 1)]
        rng, share = random.Random(seed), records // (kills + 1)
        flow = FlowProcess(self.setup, self.folder)
        try:
            for life in range(kills):
                await self.publish(payloads[share * life : share * (life + 1)])
                if point:
                    # what was given up the first time was not stored, and is given up once more
                    trap = Trap(point, 1 + life % 2)
                    flow.start(trap)
                    await flow.killed(trap)
                    continue
                flow.start()
                await flow.until(lambda: flow.said("started") or not flow.alive, "the start")
                await asyncio.sleep(rng.uniform(0.0, 0.25))
                flow.kill()
            await self.publish(payloads[share * kills :])
            await self.finish(flow, kinds)
        finally:
            flow.stop()
        assert flow.kills == kills

    async def finish(self, flow: FlowProcess, kinds: Sequence[str]) -> None:
        """A last life to the end; then every result must be there once, in order, and every letter once."""
        flow.start()
        await self._until_all_are_there(flow, len(wanted(kinds)))
        await flow.stop_cleanly()
        found = [(result["n"], result["count"]) for result in await self.results()]
        assert found == wanted(kinds), f"{self.setup.broker}: {flow.log}"
        letters = [stored.letter for stored in dead_letters(self.setup.state)[1]]
        assert told_letters(letters) == (wanted_letters(kinds) if self.setup.policy != "skip" else [])
        assert {event["step"] for event in flow.events("skipped")} == {WHERE[kind][1] for kind in KINDS}

    async def run_to_stop(self, kind: str, *, kills: int, seed: int) -> None:
        """Under stop each life ends at the poison, or before it by SIGKILL; what stands behind it is never taken."""
        kinds = ["good"] * 30 + [kind] + ["good"] * 10
        await self.publish([payload(n, each) for n, each in enumerate(kinds, 1)])
        rng, told = random.Random(seed), set[str]()
        flow = FlowProcess(self.setup, self.folder)
        try:
            while flow.kills < kills or len(flow.events("ended")) < 3:
                flow.start()
                if flow.kills < kills:
                    await asyncio.sleep(rng.uniform(0.0, 0.1))
                    if flow.alive:
                        flow.kill()
                        continue
                words = await flow.ended()
                told.add(re.sub(r"\(number \d+\)", "", words["message"]))
                assert words["hint"]
        finally:
            flow.stop()
        assert len(told) == 1, f"at each start the same: {told}"
        where, name = WHERE[kind]
        assert f"{where} {name!r}" in told.pop()
        found = [(result["n"], result["count"]) for result in await self.results()]
        assert found == wanted(kinds[:30])[: len(found)]
        assert dead_letters(self.setup.state)[1] == []

    async def _until_all_are_there(self, flow: FlowProcess, wanted: int) -> None:
        for _ in range(600):
            if await self.count() >= wanted or not flow.alive:
                break
            await asyncio.sleep(0.05)
        assert flow.alive, f"the flow ended by itself: {flow.account()}"
        await asyncio.sleep(0.5)  # a moment for what should not come
