"""Random flows with merges and diamonds, on the whole engine: one result at every size of batches and channels."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from streamflow.clock import VirtualClock
from streamflow.connect.memory import MemoryTopic
from streamflow.flow import Flow
from streamflow.graph import SINK, SOURCE
from streamflow.runtime.settings import Settings
from tests.faults.traps.lives import Lives
from tests.unit.plan.driving import Record
from tests.unit.plan.random_flows import flows, records

START_MS = 1_000


def runs(rows: Sequence[Record]) -> list[tuple[int, int, list[Any]]]:
    """Cuts records where their time or source changes: so their order is one, however numbers are cut."""
    found: list[tuple[int, int, list[Any]]] = []
    for now_ms, source, value in rows:
        if not found or found[-1][:2] != (now_ms, source):
            found.append((now_ms, source, []))
        found[-1][2].append(value)
    return found


async def result(flow: Flow, rows: Sequence[Record], how: Settings, kill: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a flow's sinks hold and what its state is at the end, on a real store.

    Args:
        flow: The flow.
        rows: What its sources get.
        how: Sizes.
        kill: After this many runs it dies once; 0 lets it live.
    """
    graph = flow.graph()
    sources: list[MemoryTopic[Any]] = [step.options["spec"] for step in graph.of_kind(SOURCE)]
    clock = VirtualClock(START_MS)
    with tempfile.TemporaryDirectory() as folder:
        lives = Lives(lambda: flow, Path(folder) / "flow.db", how, clock=clock)
        todo, state = runs(rows), {}
        for part in [todo[:kill], todo[kill:]] if kill else [todo]:
            async with lives.life() as life:
                await life.until(life.started)
                for now_ms, source, values in part:
                    clock.advance_to(now_ms)
                    await life.turns(20)
                    sources[source].send_all(values)
                    await life.until(lambda: _idle(life, sources))
                if part is not todo[kill:]:
                    await life.kill()
                state = {name: table.snapshot() for name, table in life.engine.tables.items()}
    sinks = {step.name: step.options["spec"].values for step in graph.of_kind(SINK)}
    return sinks, state


def _idle(life: Any, sources: Sequence[MemoryTopic[Any]]) -> bool:
    engine = life.engine
    taken = sum(at.at for pump in engine.intake.pumps for at in pump._taken.values())
    committed = engine.pacer.idle and not engine.intake.pending
    return bool(taken == sum(map(len, sources)) and committed and not any(o.chunks for o in engine.outboxes.values()))


@pytest.mark.long
@settings(
    max_examples=40,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(flows(), records, st.sampled_from([1, 2, 7, 512]), st.sampled_from([1, 2, 64]), st.integers(0, 9))
def test_every_size_gives_what_one_loop_gives(
    both: tuple[Flow, Flow], rows: list[Record], size: int, capacity: int, kill: int
) -> None:
    flow, fused = both
    quick = {"commit_min": "0ms", "checkpoint_share": 1.0}
    expected = asyncio.run(result(fused, rows, Settings(**quick), 0))  # type: ignore[arg-type]
    sizes = Settings(**quick, fragment_rows_max=size, channel_fragments=capacity)  # type: ignore[arg-type]
    found = asyncio.run(result(flow, rows, sizes, min(kill, len(runs(rows)) - 1)))
    assert found == expected


@pytest.mark.parametrize("capacity", [1, 2, 64])
@pytest.mark.parametrize("size", [1, 7, 512])
async def test_a_diamond_with_expanding_branches(tmp_path: Path, size: int, capacity: int) -> None:
    """Branches of one, none and very many rows per record, one behind a queue, meet in the order of one loop."""

    def make(fused: bool) -> tuple[Flow, MemoryTopic[int], MemoryTopic[Any]]:
        numbers: MemoryTopic[int] = MemoryTopic("in", value=int)
        out: MemoryTopic[Any] = MemoryTopic("out")
        flow = Flow("diamond")
        source = flow.source(numbers)
        queued = source.map(lambda n: ["q", n], name="q") if fused else source.map_batch(_marked, name="q")
        many = source.flat_map(lambda n: [["m", n, j] for j in range(700 if n % 9 == 0 else n % 3)], name="many")
        some = queued.filter(lambda row: int(str(row[1])) % 2, name="odd")
        again = some.map(lambda row: [*row, "again"], name="again")
        if not fused:
            again = again.map_batch(list, name="whole")
        queued.merge(many, again, some, name="meet").to(out)
        return flow, numbers, out

    results = []
    for fused in (True, False):
        flow, numbers, out = make(fused)
        numbers.send_all(range(60))
        sizes = Settings(commit_min="1ms", channel_fragments=capacity, fragment_rows_max=size)
        how = Settings(commit_min="1ms") if fused else sizes
        async with Lives(partial(_same, flow), tmp_path / f"{fused}.db", how).life() as life:
            await life.until(lambda: life.started() and life.engine.intake.records == 60)
            await life.until(lambda: life.engine.pacer.idle and not life.engine.intake.pending)
            await life.until(lambda: not any(outbox.chunks for outbox in life.engine.outboxes.values()))
        results.append(out.values)
    assert len(results[0]) == 60 + 30 + 30 + 7 * 700 + sum(n % 3 for n in range(60) if n % 9)
    assert results[0] == results[1]


def _same(flow: Flow) -> Flow:
    return flow


def _marked(values: list[int]) -> list[list[Any]]:
    return [["q", n] for n in values]
