"""Endless keys: `max_keys` and `max_items` refuse by name, count what they refuse, and never lose what is there."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import streamflow as sf
from streamflow.errors import DefinitionError, StateFull
from streamflow.flow import Flow
from tests.unit.plan.driving import drive

plains = pytest.mark.parametrize("plain", [False, True])
KEYS = ["a", "b", "a", "c", "b", "d", "a"]
"""With room for two keys, the records of c and d are one too many."""


def remember(ctx: sf.Context[str, int], word: str) -> Iterator[tuple[str, int]]:
    ctx.state += 1
    yield ctx.key, ctx.state


def by_process(words: Any, **bound: Any) -> Any:
    return words.process(state=int, name="step", **bound)(remember)


STEPS = {
    "count": lambda words, **bound: words.count(name="step", **bound),
    "reduce": lambda words, **bound: words.map(lambda word: 1, name="one").reduce(
        lambda one, other: one + other, name="step", of=int, **bound
    ),
    "aggregate": lambda words, **bound: words.aggregate(int, lambda n, word: n + 1, name="step", **bound),
    "process": by_process,
}


def identity(word: str) -> str:
    return word


def keyed() -> tuple[Flow, Any]:
    flow = Flow("bounded")
    return flow, flow.source(sf.MemoryTopic("in")).key_by(identity)


def run(flow: Flow, values: list[Any], plain: bool) -> Any:
    return asyncio.run(drive(flow, [(at, 0, value) for at, value in enumerate(values, start=1)], plain=plain))


@plains
@pytest.mark.parametrize("step", STEPS)
def test_one_key_too_many_stops_by_name(step: str, plain: bool) -> None:
    flow, words = keyed()
    STEPS[step](words, max_keys=2).to(sf.MemoryTopic("out"))
    with pytest.raises(ExceptionGroup) as caught:
        run(flow, KEYS, plain)
    error = caught.value.exceptions[0]
    assert isinstance(error, StateFull)
    assert "step 'step' holds 2 keys, as many as max_keys= allows, and 'c' would be one more" in str(error)
    assert "source 'in', partition 'p', the record before position 4" in str(error)
    assert "max_keys=" in error.hint


@plains
@pytest.mark.parametrize("step", STEPS)
def test_under_skip_such_records_are_left_out_and_counted(step: str, plain: bool) -> None:
    flow, words = keyed()
    STEPS[step](words, max_keys=2, on_error=sf.skip).to(sf.MemoryTopic("out"))
    got = run(flow, KEYS, plain)
    assert got.sinks["out"] == [("a", 1), ("b", 1), ("a", 2), ("b", 2), ("a", 3)]
    assert [(name, place.rpartition(" ")[2]) for name, place, _ in got.lost] == [("step", "'c'"), ("step", "'d'")]
    assert all("max_keys" in reason for *_, reason in got.lost)
    assert got.state == {"step": {"a": 3, "b": 2}}


@plains
def test_identities(plain: bool) -> None:
    flow, words = keyed()
    words.dedup(identity, name="step", max_keys=2, on_error=sf.skip).to(sf.MemoryTopic("out"))
    got = run(flow, KEYS, plain)
    assert got.sinks["out"] == ["a", "b"]
    assert len(got.lost) == 2
    flow, words = keyed()
    words.dedup(identity, name="step", max_keys=2).to(sf.MemoryTopic("out"))
    with pytest.raises(ExceptionGroup) as caught:
        run(flow, KEYS, plain)
    assert isinstance(caught.value.exceptions[0], StateFull)


async def test_the_bound_holds_after_a_crash_and_keys_that_are_there_go_on() -> None:
    flow, source = unkeyed()
    STEPS["count"](source.key_by(identity), max_keys=2, on_error=sf.skip).to(pairs("out"))
    async with flow.test() as t:
        await t.send(source, "a", "b", "c")
        await t.crash()
        await t.send(source, "d", "a", "b")
        assert t.sink("out") == [("a", 1), ("b", 1), ("a", 2), ("b", 2)]
        assert t.engine.bound[0].skipped["step"] == 1, "d, since the crash"


def unkeyed() -> tuple[Flow, sf.Stream[str]]:
    flow = Flow("bounded")
    return flow, flow.source(sf.MemoryTopic("in", value=str))


def pairs(name: str) -> sf.MemoryTopic[tuple[str, int]]:
    return sf.MemoryTopic(name, value=tuple[str, int])


@plains
def test_a_key_that_was_cleared_makes_room(plain: bool) -> None:
    flow, words = keyed()

    @words.process(state=int, name="step", max_keys=1, on_error=sf.skip)
    def step(ctx: sf.Context[str, int], word: str) -> Iterator[str]:
        yield word
        ctx.clear()

    step.to(sf.MemoryTopic("out"))
    got = run(flow, KEYS, plain)
    assert got.sinks["out"] == KEYS
    assert got.lost == []


@plains
def test_a_call_that_fails_gives_the_place_back(plain: bool) -> None:
    flow, words = keyed()

    @words.process(state=int, name="step", max_keys=1, on_error=sf.skip)
    def step(ctx: sf.Context[str, int], word: str) -> Iterator[str]:
        ctx.state += 1
        yield word
        if word == "a":
            raise ValueError("no a")

    step.to(sf.MemoryTopic("out"))
    got = run(flow, ["a", "b", "c", "b"], plain)
    assert got.sinks["out"] == ["b", "b"]
    assert [reason.partition(" ")[0] for *_, reason in got.lost] == ["no", "step"]


async def test_keys_whose_time_is_over_do_not_count() -> None:
    flow, source = unkeyed()
    by_process(source.key_by(identity), ttl="10s", max_keys=2, on_error=sf.skip).to(pairs("out"))
    source.dedup(identity, name="seen", within="10s", max_keys=2, on_error=sf.skip).to(
        sf.MemoryTopic("first", value=str)
    )
    async with flow.test() as t:
        await t.send(source, "a", "b", "c")
        await t.advance("6s")
        await t.send(source, "a", "d")
        await t.advance("5s")
        await t.send(source, "e", "f")
        assert t.sink("out") == [("a", 1), ("b", 1), ("a", 2), ("e", 1)], "b is over, a is not"
        assert t.sink("first") == ["a", "b", "e", "f"], "identities count from their first record"
        await t.crash()
        await t.send(source, "a", "g")
        assert t.sink("out")[4:] == [("a", 3)], "what is over does not depend on a restart"


async def test_a_lowered_bound_keeps_what_is_there(tmp_path: Path) -> None:
    words, out = sf.MemoryTopic("in", value=str), pairs("out")
    for bound, sent, expected in (
        (None, ["a", "b"], [("a", 1), ("b", 1)]),
        (1, ["a", "c", "b"], [("a", 2), ("b", 2)]),
    ):
        flow = Flow("lowered", state=tmp_path / "lowered.db")
        STEPS["count"](flow.source(words).key_by(identity), max_keys=bound, on_error=sf.skip).to(out)
        before = len(out.values)
        async with flow.running():
            words.send_all(sent)
            async with asyncio.timeout(10):
                while out.values[before:] != expected:
                    await asyncio.sleep(0.01)


@plains
def test_items_of_a_map_or_list(plain: bool) -> None:
    flow, words = keyed()

    @words.process(state=sf.map_state(str, int, max_items=2), name="map", on_error=sf.skip)
    def in_map(ctx: sf.Context[str, sf.MapState[str, int]], word: str) -> None:
        ctx.state[f"item {len(ctx.state)}"] = 1
        ctx.state["item 0"] = 2

    @words.process(state=sf.list_state(str, max_items=2), name="list", on_error=sf.skip)
    def in_list(ctx: sf.Context[str, sf.ListState[str]], word: str) -> None:
        ctx.state.append(word)

    in_map.to(sf.MemoryTopic("out"))
    in_list.to(sf.MemoryTopic("other"))
    got = run(flow, ["a"] * 4 + ["b"], plain)
    assert got.state["map"] == {"a": {"item 0": 2, "item 1": 1}, "b": {"item 0": 2}}
    assert got.state["list"] == {"a": {0: "a", 1: "a"}, "b": {0: "b"}}
    assert [name for name, *_ in got.lost] == ["map", "list"] * 2
    assert all("max_items=" in reason for *_, reason in got.lost)


@plains
def test_keys_of_a_map_or_list(plain: bool) -> None:
    flow, words = keyed()

    @words.process(state=sf.list_state(str), name="list", max_keys=2, on_error=sf.skip)
    def in_list(ctx: sf.Context[str, sf.ListState[str]], word: str) -> None:
        if len(ctx.state) == 2:
            ctx.state.clear()
        else:
            ctx.state.append(word)

    in_list.to(sf.MemoryTopic("out"))
    got = run(flow, [*KEYS, "e"], plain)
    assert got.state["list"] == {"b": {0: "b", 1: "b"}, "e": {0: "e"}}, "a made room"
    assert [place.rpartition(" ")[2] for _, place, _ in got.lost] == ["'c'", "'d'"]


@pytest.mark.parametrize("most", [0, -1, 1.5, "many", True])
def test_bounds_are_whole_numbers_above_zero(most: Any) -> None:
    _, words = keyed()
    for make in (
        lambda: words.count(name="c", max_keys=most),
        lambda: words.dedup(identity, name="d", max_keys=most),
        lambda: sf.map_state(str, int, max_items=most),
        lambda: sf.list_state(int, max_items=most),
    ):
        with pytest.raises(DefinitionError, match="is no bound"):
            make()


async def test_a_flood_of_keys_is_bounded_in_memory_and_told_to_the_instrument(tmp_path: Any) -> None:
    """Three thousand keys into a step with room for a hundred."""

    class Seen(sf.Instrument):
        left_out = 0

        def skipped(self, step: str, place: str, error: Exception) -> None:
            assert step == "step" and isinstance(error, StateFull)
            self.left_out += 1

    words, out = sf.MemoryTopic("in", value=str), sf.MemoryTopic("out", value=tuple[str, int])
    words.send_all([f"key {at}" for at in range(3000)])
    words.close_input()
    flow = Flow("flood", state=tmp_path / "flood.db")
    flow.source(words).key_by(identity).count(name="step", max_keys=100, on_error=sf.skip).to(out)
    seen = Seen()
    await flow.run(seen)
    assert len(out.values) == 100
    assert seen.left_out == 2900
