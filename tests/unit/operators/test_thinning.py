"""dedup by event time, sample and rate_limit: what passes, when, and what is kept."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import streamflow as sf
from streamflow.errors import DefinitionError, StepError
from streamflow.runtime.settings import Settings
from streamflow.testing.harness import FlowTest

WAYS = pytest.mark.parametrize("how", [Settings(), Settings(plain=True)], ids=["loop", "plain"])
Event = tuple[str, int]
BASE = 1_767_225_600


def at(event: Event) -> int:
    return (BASE + event[1]) * 1000


def who(event: Event) -> str:
    return event[0]


def events(name: str, lateness: str = "5s") -> tuple[sf.Flow, sf.Stream[Event]]:
    flow = sf.Flow(name)
    return flow, flow.source(sf.MemoryTopic[Event]("in", value=tuple[str, int]), time=at, lateness=lateness)


# -- dedup -------------------------------------------------------------------------------------------------------------


@WAYS
async def test_an_identity_is_remembered_by_the_time_of_its_first_record(how: Settings) -> None:
    flow, source = events("once")
    once = source.dedup(who, within="10s", time="event", name="once")
    async with FlowTest(flow, how) as t:
        # within, also before the first; another identity; exactly the span later it is new
        await t.send(source, ("a", 10), ("a", 12), ("a", 8), ("b", 19), ("a", 19), ("a", 20), ("a", 25))
        await t.crash()
        assert t.state(once) == {"a": (BASE + 20) * 1_000_000, "b": (BASE + 19) * 1_000_000}
        await t.advance("1h")  # silence: processing time alone brings nothing back, what is over is forgotten
        assert t.state(once) == {}
        await t.send(source, ("a", 31), ("a", 33))
        assert t.out(once) == [("a", 10), ("b", 19), ("a", 20), ("a", 31)]


async def test_state_of_dedup_is_that_of_one_span() -> None:
    flow, source = events("moving", "0s")
    once = source.dedup(who, within="10s", time="event", name="once")
    async with flow.test() as t:
        most = 0
        for second in range(0, 400, 5):
            await t.send(source, *((f"{second}-{n}", second) for n in range(4)))
            most = max(most, len(t.state(once)))
        assert most <= 12
        assert len(t.out(once)) == 320


@WAYS
async def test_more_identities_than_allowed_are_an_error(how: Settings) -> None:
    flow, source = events("bound")
    once = source.dedup(who, within="10s", time="event", name="once", max_keys=2)
    async with FlowTest(flow, how) as t:
        await t.send(source, ("a", 1), ("b", 2), ("a", 3))
        with pytest.raises(StepError, match="as many as max_keys= allows"):
            await t.send(source, ("c", 3))
    assert t.out(once) == [("a", 1), ("b", 2)]


@pytest.mark.parametrize("options", [{"time": "event"}, {"time": "wall", "within": "1s"}])
def test_dedup_by_event_time_needs_a_span(options: dict[str, Any]) -> None:
    _, source = events("wrong")
    with pytest.raises(DefinitionError, match="goes by time="):
        source.dedup(who, name="once", **options)


def test_dedup_by_event_time_needs_event_time() -> None:
    flow = sf.Flow("untimed")
    flow.source(sf.MemoryTopic[Event]("in")).dedup(who, within="1s", time="event", name="once")
    with pytest.raises(DefinitionError, match="dedup step 'once' goes by event time"):
        flow.plan()


# -- sample ------------------------------------------------------------------------------------------------------------


@WAYS
async def test_a_fraction_is_the_same_after_a_crash_and_in_any_grouping(how: Settings) -> None:
    found = []
    for rows_max in (1, 64):
        flow, source = events("fraction")
        tenth = source.sample(fraction=0.1)
        third = source.sample(fraction=0.3, name="third")
        both = tenth.sample(fraction=0.3, name="third-of-tenth")
        none, every = source.sample(fraction=0, name="none"), source.sample(fraction=1, name="all")
        settings = Settings(plain=how.plain, fragment_rows_max=rows_max)
        async with FlowTest(flow, settings) as t:
            for start in range(0, 1000, 250):
                for n in range(start, start + 250):
                    await t.send(source, (f"{n}", n), settle=False)
                await asyncio.sleep(0)
                await t.crash()
            await t.settle()
            assert (len(t.out(none)), len(t.out(every))) == (0, 1000)
            found.append([t.out(stream) for stream in (tenth, third, both)])
    assert found[0] == found[1]
    assert [len(rows) for rows in found[0]] == [pytest.approx(n, rel=0.35) for n in (100, 300, 30)]
    assert not set(found[0][0]) <= set(found[0][1])  # by different names they choose independently


@WAYS
async def test_every_so_many_is_counted_per_key_through_crashes(how: Settings) -> None:
    flow, source = events("every")
    third = source.sample(every=3, name="third")
    per_key = source.key_by(who).sample(every=2, name="per-key")
    async with FlowTest(flow, how) as t:
        await t.send(source, *(("ab"[n % 3 == 0], n) for n in range(4)))
        await t.crash()
        await t.send(source, *(("ab"[n % 3 == 0], n) for n in range(4, 10)))
        assert [n for _, n in t.out(third)] == [0, 3, 6, 9]
        assert [n for _, n in t.out(per_key)] == [0, 1, 4, 6, 7]
        assert not isinstance(third, sf.KeyedStream)
        assert isinstance(per_key, sf.KeyedStream)


@pytest.mark.parametrize(
    "options",
    [{}, {"fraction": 0.1, "every": 2}, {"fraction": 2}, {"fraction": "x"}, {"every": 0, "name": "n"}, {"every": 2}],
)
def test_what_is_no_sample_is_refused(options: dict[str, Any]) -> None:
    _, source = events("wrong")
    with pytest.raises(DefinitionError, match="sample"):
        source.sample(**options)


# -- rate_limit --------------------------------------------------------------------------------------------------------


async def test_no_more_is_taken_than_the_rate_allows_and_nothing_is_lost() -> None:
    flow, source = events("slow")
    source.rate_limit(10, per="1s")
    async with flow.test() as t:
        await t.send(source, *((f"{n}", n) for n in range(60)))
        seen = [len(t.out(source))]
        for second in range(6):
            await t.advance("1s")
            seen.append(len(t.out(source)))
            if second == 3:
                await t.crash()
        gone = [after - before for before, after in pairwise(seen)]
        assert seen[0] == 1
        assert all(8 <= count <= 11 for count in gone[:-1])
        await t.advance("3s")
        assert t.out(source) == [(f"{n}", n) for n in range(60)]


async def test_an_ordered_source_keeps_to_its_rate() -> None:
    flow = sf.Flow("ordered")
    source = flow.source(sf.MemoryTopic[Event]("in", value=tuple[str, int]), time=at, lateness="5s", order="time")
    source.rate_limit(10, per="1s")
    async with flow.test() as t:
        await t.send(source, *((f"{n}", n - 2 * (n % 2)) for n in range(40)))
        assert len(t.out(source)) <= 1
        await t.advance("2s")
        assert 5 <= len(t.out(source)) <= 21
        await t.crash()
        await t.advance("40s")
        assert [event[1] for event in t.out(source)] == sorted(n - 2 * (n % 2) for n in range(40))


async def test_a_commit_does_not_wait_for_what_the_rate_keeps_back() -> None:
    flow, source = events("commits")
    source.rate_limit(1, per="1h")
    other = flow.source(sf.MemoryTopic[int]("other", value=int))
    async with flow.test() as t:
        await t.send(source, ("a", 1), ("b", 2), ("c", 3))
        await t.send(other, 1, 2, 3)
        # committed though two records wait, and will for two hours
        assert (t.out(source), t.out(other)) == ([("a", 1)], [1, 2, 3])
        await t.advance("59m")
        assert len(t.out(source)) == 1
        await t.advance("2m")
        assert len(t.out(source)) == 2


async def test_a_large_rate_lets_bursts_of_a_hundredth_of_a_second_through() -> None:
    flow, source = events("fast")
    source.rate_limit(10_000, per="1s")
    async with flow.test() as t:
        await t.send(source, *((f"{n}", n) for n in range(500)))
        assert len(t.out(source)) == 100
        await t.advance("10ms")
        assert 198 <= len(t.out(source)) <= 200
        await t.advance("1s")
        assert len(t.out(source)) == 500


async def test_a_flow_that_ends_and_one_that_is_stopped_do_not_wait_longer(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text("".join(f"{n}\n" for n in range(6)))
    flow = sf.Flow("whole", state=tmp_path / "state.db")
    numbers = flow.source(sf.jsonl(tmp_path / "in.jsonl", value=int)).rate_limit(100, per="1s")
    numbers.to(sf.jsonl(tmp_path / "out.jsonl", value=int))
    await flow.run()
    assert (tmp_path / "out.jsonl").read_text().split() == [f"{n}" for n in range(6)]

    slow = sf.Flow("stopped", state=tmp_path / "stopped.db")
    slow.source(sf.jsonl(tmp_path / "in.jsonl", value=int)).rate_limit(1, per="1h").to(
        sf.jsonl(tmp_path / "slow.jsonl", value=int)
    )
    async with asyncio.timeout(10), slow.running():
        pass
    assert (tmp_path / "slow.jsonl").read_text() in ("", "0\n")


def test_a_rate_belongs_to_a_source() -> None:
    _, source = events("where")
    with pytest.raises(DefinitionError, match="rate_limit stands behind a source"):
        source.map(who).rate_limit(1, per="1s")
    with pytest.raises(DefinitionError, match="lets nothing through"):
        source.rate_limit(0, per="1s")
