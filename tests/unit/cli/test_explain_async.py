"""What explain says of async steps: their bounds, and how long a commit can wait for them, and for which."""

from __future__ import annotations

import json

ASYNC = """
import streamflow as sf

flow = sf.Flow("shop", state="shop.db")
orders = flow.source(sf.MemoryTopic("orders", value=int), name="orders")


@orders.map(concurrency=64, timeout="2s", deadline="7s", on_error=sf.retry(3, backoff="50ms").then(sf.skip))
async def scored(order: int) -> int:
    return order


@orders.filter
async def allowed(order: int) -> bool:
    return order > 0


@scored.merge(allowed, name="both").map(deadline="1500ms", ordered=False)
async def stored(order: int) -> int:
    return order


stored.to(sf.MemoryTopic("out", value=int), name="out")
"""


def test_the_longest_time_that_a_commit_is_held_and_by_which_steps(project):
    result = project("explain", project.write(ASYNC), "--plan")
    assert result.exit_code == 0, result.output
    assert "a commit waits for the calls before it, for up to 31.5 s: allowed (30 s) and then stored (1.5 s)" in (
        result.stdout
    )
    assert "64 calls at a time, 2s each, deadline 7s; 4 attempts; errors are left out" in result.stdout
    assert "16 calls at a time, in any order, deadline 1500ms" in result.stdout
    assert "one async step for scored" in result.stdout


def test_the_same_as_data(project):
    data = json.loads(project("explain", project.write(ASYNC), "--json", "--plan").stdout)
    assert data["barrier_hold"] == [{"step": "allowed", "seconds": 30.0}, {"step": "stored", "seconds": 1.5}]
    assert {step["name"]: step["kind"] for step in data["steps"]}["stored"] == "map"
    assert [stage["awaits"] for stage in data["plan"]].count(True) == 3


def test_a_flow_that_awaits_nothing_has_nothing_to_say(project):
    result = project("explain", project.words())
    assert "a commit waits" not in result.stdout
    assert json.loads(project("explain", project.words(), "--json").stdout)["barrier_hold"] == []
