"""Poison: a record that no attempt gets past is told with its place, and never makes the flow restart for ever."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import streamflow as sf
from streamflow.errors import DecodeError, EncodeError, Fenced, StepError, Unavailable
from streamflow.flow import Flow
from tests.faults.traps.lives import BRISK, Lives


class Restarts(sf.Instrument):
    def __init__(self) -> None:
        self.errors: list[Exception] = []

    def restarting(self, error: Exception, retry_in_seconds: float) -> None:
        self.errors.append(error)


def topics(bad: int = 7) -> tuple[sf.MemoryTopic[int], sf.MemoryTopic[Any]]:
    numbers: sf.MemoryTopic[int] = sf.MemoryTopic("numbers", value=int, partitions=("p",))
    for n in range(10):
        numbers.send(n, "p")
    return numbers, sf.MemoryTopic("out")


async def stopped_by(flow: Flow, folder: Path, restarts: Restarts, kind: type[Exception]) -> str:
    """Runs a flow that must die of its poison; returns what it says."""
    lives = Lives(lambda: flow, folder / "flow.db", BRISK, instrument=restarts)
    with pytest.raises(kind) as died:
        async with lives.life() as life:
            await life.until(lambda: False)
    assert getattr(died.value, "hint", "")
    return str(died.value)


POISONS: dict[str, Callable[[], Any]] = {
    "a lambda": lambda: lambda: 0,
    "NaN": lambda: math.nan,
    "a tuple in a dict": lambda: {"t": (1, 2)},
    "an object": object,
}


@pytest.mark.parametrize("poison", POISONS)
async def test_state_that_cannot_be_stored_is_told_with_the_record(tmp_path: Path, poison: str) -> None:
    numbers, out = topics()
    flow = Flow("unencodable")

    @flow.source(numbers).key_by(lambda n: f"k{n % 2}").process(state=dict)
    def keeps(ctx: sf.Context[str, dict[str, Any]], n: int) -> Iterator[int]:
        ctx.state["n"] = n
        if n == 7:
            ctx.state["bad"] = POISONS[poison]()
        yield n

    keeps.to(out)
    restarts = Restarts()
    told = await stopped_by(flow, tmp_path, restarts, EncodeError)
    assert "source 'numbers', partition 'p', the record before position 8, key 'k1'" in told
    assert "step 'keeps'" in told
    assert len(restarts.errors) == 1, "it looked once, with encoding after every call"
    assert "key 'k1'" in str(restarts.errors[0])
    assert out.values in ([], list(range(7)))
    # what was committed before it stands; without the poison the flow goes on
    numbers.truncate_from(7, "p")
    async with Lives(lambda: flow, tmp_path / "flow.db", BRISK).life() as life:
        await life.until(lambda: len(out) == 7)
    assert out.values == list(range(7))


@pytest.mark.parametrize("verb", ["map_state", "list_state", "aggregate", "timer"])
async def test_it_is_found_in_every_kind_of_state(tmp_path: Path, verb: str) -> None:
    numbers, _ = topics()
    flow = Flow("kinds")
    keyed = flow.source(numbers).key_by(lambda n: "k")
    bad: Any = math.nan
    if verb == "map_state":
        keyed.process(state=sf.map_state(str, float), name="keeps")(
            lambda ctx, n: ctx.state.__setitem__(str(n), bad if n == 7 else float(n))
        )
    elif verb == "list_state":
        keyed.process(state=sf.list_state(float), name="keeps")(
            lambda ctx, n: ctx.state.append(bad if n == 7 else float(n))
        )
    elif verb == "aggregate":
        keyed.aggregate(float, lambda total, n: bad if n == 7 else total + n, name="keeps")
    else:
        step: Any = keyed.process(state=float, name="keeps")(
            lambda ctx, n: ctx.timer("t", after="1ms") if n == 7 else None
        )

        @step.on_timer("t")
        def fires(ctx: sf.Context[str, float]) -> None:
            ctx.state = bad

    restarts = Restarts()
    told = await stopped_by(flow, tmp_path, restarts, EncodeError)
    assert "step 'keeps'" in told
    assert "key 'k'" in told
    place = "a timer" if verb == "timer" else "source 'numbers', partition 'p', the record before position 8"
    assert place in told
    assert len(restarts.errors) == 1


async def test_a_key_that_cannot_be_stored_is_told_too(tmp_path: Path) -> None:
    numbers, _ = topics()
    flow = Flow("keys")
    flow.source(numbers).key_by(lambda n: "\ud800" if n == 7 else "k").count(name="counted")
    restarts = Restarts()
    told = await stopped_by(flow, tmp_path, restarts, StepError)
    assert "the record before position 8" in told
    assert len(restarts.errors) <= 1


async def test_what_only_changes_behind_the_call_stops_at_the_second_time(tmp_path: Path) -> None:
    """A state that somebody else changes after the call has no record to blame; it must not restart for ever."""
    numbers, _ = topics()
    flow, kept = Flow("behind"), [[0.0]]
    source = flow.source(numbers)

    @source.key_by(lambda n: "k").process(state=dict)
    def keeps(ctx: sf.Context[str, dict[str, Any]], n: int) -> None:
        kept[0] = ctx.state["n"] = [float(n)]

    source.map(lambda n: kept[0].append(math.nan) if n == 9 else None, name="spoils")
    restarts = Restarts()
    told = await stopped_by(flow, tmp_path, restarts, EncodeError)
    assert "key 'k'" in told
    assert len(restarts.errors) == 1


async def test_a_step_that_raises_stops_at_once(tmp_path: Path) -> None:
    numbers, out = topics()
    flow = Flow("raises")
    flow.source(numbers).map(lambda n: 1 // (7 - n), name="inverse").to(out)
    restarts = Restarts()
    told = await stopped_by(flow, tmp_path, restarts, StepError)
    assert "step 'inverse' raised ZeroDivisionError" in told
    assert "the record before position 8" in told
    assert restarts.errors == []


@pytest.mark.parametrize("error", [Unavailable("down"), Fenced("newer")])
async def test_a_step_that_raises_a_connectors_error_stops_at_once_too(tmp_path: Path, error: Exception) -> None:
    """It would otherwise open everything again, do the records before it again, and die of it again."""
    numbers, out = topics()

    def calls(n: int) -> int:
        if n == 7:
            raise error
        return n

    flow = Flow("calls")
    flow.source(numbers).map(calls).to(out)
    restarts = Restarts()
    told = await stopped_by(flow, tmp_path, restarts, StepError)
    assert "step 'calls' raised" in told
    assert "the record before position 8" in told
    assert restarts.errors == []


async def test_bytes_that_cannot_be_decoded_stop_at_once(tmp_path: Path) -> None:
    numbers, out = topics()
    numbers.send_bytes(b"\xff", "p")
    flow = Flow("bytes")
    flow.source(numbers).to(out)
    restarts = Restarts()
    assert "before position 11" in await stopped_by(flow, tmp_path, restarts, DecodeError)
    assert restarts.errors == []


async def test_skip_gets_past_each_of_them(tmp_path: Path) -> None:
    numbers, out = topics()
    numbers.send_bytes(b"\xff", "p")
    numbers.send(11, "p")
    flow = Flow("skips")
    keyed = flow.source(numbers, on_error=sf.skip).key_by(lambda n: "k")

    @keyed.process(state=dict, on_error=sf.skip)
    def keeps(ctx: sf.Context[str, dict[str, Any]], n: int) -> Iterator[Any]:
        ctx.state["sum"] = ctx.state.get("sum", 0) + n
        if n == 3:
            ctx.state["bad"] = math.nan
        if n == 5:
            raise ValueError("five")
        yield ctx.state["sum"]

    keeps.to(out)
    restarts = Restarts()
    async with Lives(lambda: flow, tmp_path / "flow.db", BRISK, instrument=restarts).life() as life:
        await life.until(lambda: len(out) == 9)
    assert out.values == [0, 1, 3, 7, 13, 20, 28, 37, 48]
    assert restarts.errors == []
