"""Loops that pause by time, wherever they are: nothing but the cuts of fragments may change."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from streamflow.operators.bind import BoundStage
from streamflow.plan import loop as plan_loop
from tests.unit.plan.driving import drive
from tests.unit.plan.random_flows import flows, records


@settings(
    max_examples=150,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(flows(), records, st.sampled_from([1, 7, 512]), st.sampled_from([1, 2, 64]), st.sampled_from([1, 3]))
def test_a_loop_that_is_always_late_gives_the_same(both, rows, size, capacity, look):
    flow, fused = both
    expected = asyncio.run(drive(fused, rows, size=512))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(plan_loop, "LOOK_ROWS", look)
        patched.setattr(BoundStage, "late", lambda stage: True)
        run = asyncio.run(drive(flow, rows, size=size, capacity=capacity))
    assert run.sinks == expected.sinks
    assert run.state == expected.state
    # fragments are as small as that allows, so that the pauses were there
    assert run.fragments_max <= max(3 * look * 10, 40)
