"""After a start, processing-time timers wait for the backlog, unless the settings say that they need not."""

from __future__ import annotations

import pytest

import streamflow as sf
from streamflow.runtime.settings import Settings
from streamflow.testing.harness import FlowTest


@pytest.mark.parametrize("waits", [True, False])
@pytest.mark.parametrize("plain", [True, False])
async def test_timers_wait_for_the_backlog_or_do_not(waits: bool, plain: bool) -> None:
    flow = sf.Flow("backlog")
    source = flow.source(sf.MemoryTopic("in", value=int))

    @source.key_by(lambda n: "k").process(state=int)
    def quiet(ctx: sf.Context[str, int], n: int) -> list[int]:
        ctx.state += 1
        ctx.timer("hour", after="1h")
        return []

    @quiet.on_timer("hour")
    def hour(ctx: sf.Context[str, int]) -> list[int]:
        return [ctx.state]

    async with FlowTest(flow, Settings(timers_after_backlog=waits, plain=plain)) as t:
        await t.send(source, 1)
        t.topic(source).send(2)
        t.clock.advance_to(t.clock.now_ms() + 2 * 3_600_000)
        await t.crash()
        assert t.state(quiet) == {"k": 2}
        assert t.out(quiet) == ([] if waits else [1])
        await t.advance("59m")
        assert t.out(quiet) == ([] if waits else [1])
        await t.advance("1m")
        assert t.out(quiet) == ([2] if waits else [1, 2])
