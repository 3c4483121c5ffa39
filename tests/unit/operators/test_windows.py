"""Windows, case by case: what they give, when, and what stays in the state."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import streamflow as sf
from streamflow.errors import DefinitionError, EncodeError, StepError, StreamflowError
from streamflow.runtime.settings import Settings
from streamflow.testing.harness import FlowTest

BASE = 1_767_225_600
"""2026-01-01 00:00 UTC, where the virtual clock begins."""

BOTH = pytest.mark.parametrize("plain", [False, True], ids=["loop", "plain"])


def flow_of(make: Callable[[Any], Any], lateness: str = "0s", **source: Any) -> tuple[sf.Flow, Any, Any]:
    """A flow of one keyed source, records (key, seconds), and what ``make`` builds on it."""
    flow = sf.Flow("windows")
    records = flow.source(
        sf.MemoryTopic[Any]("in"), time=lambda record: (BASE + record[1]) * 1000, lateness=lateness, **source
    )
    return flow, records, make(records.key_by(lambda record: record[0]))


def short(rows: list[Any]) -> list[Any]:
    return [(row.key, int(row.start.timestamp()) - BASE, int(row.end.timestamp()) - BASE, row.value) for row in rows]


@BOTH
async def test_a_window_holds_its_start_and_not_its_end_and_fires_when_the_watermark_is_there(plain: bool) -> None:
    flow, records, counts = flow_of(lambda keyed: keyed.window(sf.tumbling("10s")).count(name="counts"))
    async with FlowTest(flow, Settings(plain=plain)) as t:
        await t.send(records, ("k", 0), ("k", 9))
        assert t.out(counts) == []
        await t.send(records, ("k", 10))
        assert short(t.out(counts)) == [("k", 0, 10, 2)]
        await t.send(records, ("k", 9), ("k", 19), ("k", 20))
        assert short(t.out(counts)) == [("k", 0, 10, 2), ("k", 10, 20, 2)]
        assert t.out(counts.late) == [("k", 9)]
        assert t.state(counts) == {"k": {(BASE + 20) * 1_000_000: 1}}


@BOTH
async def test_windows_close_when_input_stops_and_a_record_that_returns_is_late(plain: bool) -> None:
    flow, records, counts = flow_of(lambda keyed: keyed.window(sf.tumbling("10s")).count(name="counts"), idle="30s")
    async with FlowTest(flow, Settings(plain=plain)) as t:
        await t.send(records, ("k", 3))
        await t.advance("31s")
        assert short(t.out(counts)) == [("k", 0, 10, 1)]
        await t.crash()
        await t.send(records, ("k", 5), ("k", 11))
        assert t.out(counts.late) == [("k", 5)]
        await t.advance("31s")
        assert short(t.out(counts)) == [("k", 0, 10, 1), ("k", 10, 20, 1)]


async def test_without_idleness_windows_wait() -> None:
    flow, records, counts = flow_of(lambda keyed: keyed.window(sf.tumbling("10s")).count(name="counts"), idle=None)
    async with FlowTest(flow) as t:
        await t.send(records, ("k", 3))
        await t.advance("10d")
        assert t.out(counts) == []


async def test_the_end_of_all_input_closes_windows_and_the_next_run_goes_on() -> None:
    flow, records, counts = flow_of(lambda keyed: keyed.window(sf.tumbling("10s")).count(name="counts"), idle=None)
    async with FlowTest(flow) as t:
        await t.send(records, ("k", 3), ("k", 13))
        t.topic(records).close_input()
        with pytest.raises(StreamflowError, match="the flow has ended"):
            await t.settle()
        assert short(t.out(counts)) == [("k", 0, 10, 1), ("k", 10, 20, 1)]


@BOTH
async def test_allowed_lateness_fires_again_with_each_record_until_it_is_over(plain: bool) -> None:
    flow, records, counts = flow_of(
        lambda keyed: keyed.window(sf.tumbling("10s"), allowed_lateness="5s").count(name="counts")
    )
    async with FlowTest(flow, Settings(plain=plain)) as t:
        for second in (1, 12, 4, 14, 5, 15, 6):
            await t.send(records, ("k", second))
        assert short(t.out(counts)) == [("k", 0, 10, 1), ("k", 0, 10, 2), ("k", 0, 10, 3)]
        assert t.out(counts.late) == [("k", 6)]
        await t.crash()
        await t.send(records, ("k", 25))
        assert short(t.out(counts))[3:] == [("k", 10, 20, 3)]


@BOTH
async def test_a_window_that_only_late_records_open_fires_with_each_of_them(plain: bool) -> None:
    flow, records, counts = flow_of(
        lambda keyed: keyed.window(sf.sliding("10s", "5s"), allowed_lateness="20s").count(name="counts")
    )
    async with FlowTest(flow, Settings(plain=plain)) as t:
        for record in (("k", 30), ("l", 11), ("l", 12)):
            await t.send(records, record)
        assert short(t.out(counts))[:2] == [("l", 5, 15, 1), ("l", 10, 20, 1)]
        assert short(t.out(counts))[2:] == [("l", 5, 15, 2), ("l", 10, 20, 2)]
        await t.send(records, ("k", 90))
        assert t.state(counts).keys() == {"k"}


@BOTH
@pytest.mark.parametrize("kind", [sf.sliding("10s", "4s"), sf.tumbling("10s")], ids=["sliding", "tumbling"])
async def test_a_record_behind_its_partition_finds_what_others_put_there_just_before(kind: Any, plain: bool) -> None:
    """One way into a window is short, for records that are ahead of all marks; both ways must find the same."""
    lateness = "10s" if kind == sf.tumbling("10s") else "0s"
    flow = sf.Flow("behind")
    topic = sf.MemoryTopic[Any]("in", partitions=("a", "b"))
    records = flow.source(topic, time=lambda record: (BASE + record[1]) * 1000)
    windows = records.key_by(lambda record: record[0]).window(kind, allowed_lateness=lateness)
    found = windows.agg(sf.collect(lambda record: record[1]), name="found")
    async with FlowTest(flow, Settings(plain=plain, commit_min="1s")) as t:
        await t.send(records, ("k", 2), partition="a", settle=False)
        behind = 12 if lateness == "10s" else 5
        await t.send(records, ("k", behind), ("k", 3), partition="b", settle=False)
        await t.send(records, ("k", 40), partition="a", settle=False)
        await t.send(records, ("k", 40), partition="b")
        assert ("k", 0, 10, [2, 3] if lateness == "10s" else [2, 3, 5]) in short(t.out(found))
        assert t.out(found.late) == []


@BOTH
async def test_updates_tell_of_every_record_and_say_nothing_at_the_close(plain: bool) -> None:
    flow, records, counts = flow_of(lambda keyed: keyed.window(sf.tumbling("10s"), emit="updates").count(name="counts"))
    async with FlowTest(flow, Settings(plain=plain)) as t:
        await t.send(records, ("k", 1), ("k", 2), ("k", 12))
        assert short(t.out(counts)) == [("k", 0, 10, 1), ("k", 0, 10, 2), ("k", 10, 20, 1)]
        assert list(t.state(counts)["k"]) == [(BASE + 10) * 1_000_000]


@BOTH
async def test_sliding_updates_tell_of_every_window_that_holds_the_record(plain: bool) -> None:
    flow, records, counts = flow_of(
        lambda keyed: keyed.window(sf.sliding("10s", "5s"), emit="updates").count(name="counts")
    )
    async with FlowTest(flow, Settings(plain=plain)) as t:
        await t.send(records, ("k", 1), ("k", 6))
        assert short(t.out(counts)) == [("k", -5, 5, 1), ("k", 0, 10, 1), ("k", 0, 10, 2), ("k", 5, 15, 1)]


@BOTH
async def test_early_results_come_at_every_so_many_records(plain: bool) -> None:
    flow, records, counts = flow_of(lambda keyed: keyed.window(sf.tumbling("10s"), early=2).count(name="counts"))
    async with FlowTest(flow, Settings(plain=plain)) as t:
        await t.send(records, *[("k", second) for second in range(5)], ("k", 10))
        assert [row[3] for row in short(t.out(counts))] == [2, 4, 5]


@BOTH
async def test_early_results_come_as_event_time_goes_on_if_records_came(plain: bool) -> None:
    flow, records, counts = flow_of(lambda keyed: keyed.window(sf.tumbling("10s"), early="3s").count(name="counts"))
    async with FlowTest(flow, Settings(plain=plain)) as t:
        await t.send(records, ("k", 0), ("k", 1))
        await t.send(records, ("l", 2))
        assert t.out(counts) == []
        await t.send(records, ("l", 3))  # the watermark is at 3
        assert short(t.out(counts)) == [("k", 0, 10, 2), ("l", 0, 10, 2)]
        await t.crash()
        await t.send(records, ("l", 7))  # behind 6: of k no record came
        await t.send(records, ("l", 8))
        await t.send(records, ("l", 9))
        assert short(t.out(counts))[2:] == [("l", 0, 10, 3), ("l", 0, 10, 5)]
        await t.send(records, ("k", 20))  # no early result of a window that is over
        assert short(t.out(counts))[4:] == [("k", 0, 10, 2), ("l", 0, 10, 5)]
        assert t.state(counts).keys() == {"k"}


@BOTH
async def test_sessions_tell_early_by_records_and_by_time(plain: bool) -> None:
    def both(keyed: Any) -> Any:
        by_time = keyed.window(sf.session("5s"), early="4s").count(name="by-time")
        return keyed.window(sf.session("5s"), early=2).count(name="by-records"), by_time

    flow, records, (by_records, by_time) = flow_of(both)
    async with FlowTest(flow, Settings(plain=plain)) as t:
        for second in (0, 2, 3, 5, 7, 8, 9):
            await t.send(records, ("k", second))
            await t.crash()
        await t.send(records, ("l", 40))
        assert short(t.out(by_records)) == [
            *[("k", 0, 7, 2), ("k", 0, 10, 4), ("k", 0, 13, 6)],
            ("k", 0, 14, 7),
        ]
        assert short(t.out(by_time)) == [("k", 0, 10, 4), ("k", 0, 13, 6), ("k", 0, 14, 7)]
        assert t.state(by_time).keys() == t.state(by_records).keys() == {"l"}


@BOTH
async def test_late_records_take_sessions_back_that_have_told(plain: bool) -> None:
    flow, records, counts = flow_of(
        lambda keyed: keyed.window(sf.session("5s"), allowed_lateness="20s").count(name="counts")
    )
    async with FlowTest(flow, Settings(plain=plain)) as t:
        await t.send(records, ("k", 0), ("k", 9), ("x", 20))
        assert short(t.out(counts)) == [("k", 0, 5, 1), ("k", 9, 14, 1)]
        await t.crash()
        await t.send(records, ("k", 4))  # late: both sessions become one
        told = [("k", 0, 5, None), ("k", 9, 14, None), ("k", 0, 14, 3)]
        assert short(t.out(counts))[2:] == told
        await t.send(records, ("k", 2))  # late, and inside: told again
        assert short(t.out(counts))[5:] == [("k", 0, 14, 4)]
        await t.send(records, ("k", 13), ("k", 17))  # the second is on time: the session is open again
        assert short(t.out(counts))[6:] == [("k", 0, 14, None), ("k", 0, 18, 5), ("k", 0, 18, None)]
        await t.crash()
        await t.send(records, ("x", 23))
        assert short(t.out(counts))[9:] == [("k", 0, 22, 6)]
        await t.send(records, ("x", 42))
        await t.send(records, ("k", 17))  # still held: 22 + 20 is not behind 42
        assert short(t.out(counts))[10:] == [("x", 20, 28, 2), ("k", 0, 22, 7)]
        await t.send(records, ("x", 43), ("k", 17))
        assert t.out(counts.late) == [("k", 17)]
        assert t.state(counts).keys() == {"x"}


@BOTH
@pytest.mark.parametrize("crash", [False, True])
async def test_a_record_that_is_late_joins_no_open_session_whatever_is_at_hand(plain: bool, crash: bool) -> None:
    flow, records, sums = flow_of(lambda keyed: keyed.window(sf.session("5s")).count(name="counts"), lateness="2s")
    async with FlowTest(flow, Settings(plain=plain)) as t:
        await t.send(records, ("k", 25), ("k", 30), ("k", 33), settle=crash)
        if crash:
            await t.crash()
        await t.send(records, ("k", 25), ("k", 26))  # the watermark is at 31: what is alone at 25 is over
        assert t.out(sums.late) == [("k", 25)]
        await t.advance("31s")
        assert short(t.out(sums)) == [("k", 25, 38, 4)]


@BOTH
async def test_a_session_that_a_late_record_begins_is_told_at_once(plain: bool) -> None:
    flow, records, counts = flow_of(
        lambda keyed: keyed.window(sf.session("5s"), allowed_lateness="20s").count(name="counts")
    )
    async with FlowTest(flow, Settings(plain=plain)) as t:
        await t.send(records, ("x", 30))
        await t.send(records, ("k", 10), ("k", 20))
        assert short(t.out(counts)) == [("k", 10, 15, 1), ("k", 20, 25, 1)]
        await t.send(records, ("x", 35))
        await t.crash()
        await t.send(records, ("x", 100))
        assert short(t.out(counts))[2:] == [("x", 30, 40, 2)]
        assert t.state(counts).keys() == {"x"}


@BOTH
async def test_sessions_that_meet_become_one_and_updates_take_the_old_ones_back(plain: bool) -> None:
    flow, records, told = flow_of(
        lambda keyed: keyed.window(sf.session("5s"), emit="updates").agg(sf.count(), name="told"), "100s"
    )
    async with FlowTest(flow, Settings(plain=plain)) as t:
        await t.send(records, ("k", 0), ("k", 8), ("k", 5))
        assert short(t.out(told)) == [
            ("k", 0, 5, 1),
            ("k", 8, 13, 1),
            ("k", 0, 5, None),
            ("k", 8, 13, None),
            ("k", 0, 13, 3),
        ]


@BOTH
async def test_a_session_takes_a_record_exactly_a_gap_later_and_closes_only_behind_that(plain: bool) -> None:
    flow, records, told = flow_of(lambda keyed: keyed.window(sf.session("5s")).count(name="told"))
    async with FlowTest(flow, Settings(plain=plain)) as t:
        await t.send(records, ("k", 0), ("x", 5))
        assert t.out(told) == []
        await t.send(records, ("k", 5), ("x", 11))
        assert short(t.out(told)) == [("k", 0, 10, 2), ("x", 5, 10, 1)]


DAYS, WEEKS = sf.tumbling("1d", tz="Europe/Berlin"), sf.tumbling("7d", tz="Europe/Berlin")


async def test_calendar_days_follow_the_clocks_of_their_zone() -> None:
    flow = sf.Flow("days")
    records = flow.source(sf.MemoryTopic[Any]("in"), time=datetime.datetime.fromisoformat, future_max="365d")
    keyed = records.key_by(lambda _: "k")
    days = keyed.window(DAYS).count(name="days")
    weeks = keyed.window(WEEKS).count(name="weeks")
    async with FlowTest(flow) as t:
        await t.send(records, "2026-03-28T22:59:59+00:00", "2026-03-28T23:00:00+00:00", "2026-03-29T21:59:59+00:00")
        await t.send(records, "2026-03-29T22:00:00+00:00", "2026-10-25T12:00:00+00:00")
        await t.advance("31s")
        rows = [(row.start.isoformat(), (row.end - row.start).total_seconds() / 3600, row.value) for row in t.out(days)]
        assert rows == [
            ("2026-03-27T23:00:00+00:00", 24, 1),
            ("2026-03-28T23:00:00+00:00", 23, 2),
            ("2026-03-29T22:00:00+00:00", 24, 1),
            ("2026-10-24T22:00:00+00:00", 25, 1),
        ]
        assert [row.value for row in t.out(weeks)] == [4, 1]


@BOTH
async def test_a_global_window_gives_at_its_trigger(plain: bool) -> None:
    flow = sf.Flow("global")
    records = flow.source(sf.MemoryTopic[Any]("in"))
    told = records.key_by(lambda _: "k").window(sf.global_window(), early=3).agg(sf.sum(lambda r: r), name="told")
    async with FlowTest(flow, Settings(plain=plain)) as t:
        await t.send(records, *range(1, 8))
        await t.crash()
        await t.send(records, 8, 9)
        assert [row.value for row in t.out(told)] == [6, 21, 45]


async def test_windows_of_windows_are_not_late_and_close_with_them() -> None:
    flow, records, counts = flow_of(lambda keyed: keyed.window(sf.tumbling("10s")).count(name="counts"))
    totals = counts.window(sf.tumbling("20s")).agg(sf.sum(lambda row: row.value), name="totals")
    async with FlowTest(flow) as t:
        await t.send(records, ("k", 1), ("k", 12), ("k", 13), ("k", 95))
        assert short(t.out(totals)) == [("k", 0, 20, 3)]
        await t.advance("31s")
        assert short(t.out(totals)) == [("k", 0, 20, 3), ("k", 80, 100, 1)]
        assert t.out(totals.late) == []


async def test_the_watermark_of_a_step_is_that_of_the_sources_upstream_of_it_alone() -> None:
    flow = sf.Flow("two")
    fast = flow.source(sf.MemoryTopic[Any]("fast"), time=lambda at: (BASE + at) * 1000, idle=None)
    slow = flow.source(sf.MemoryTopic[Any]("slow"), time=lambda at: (BASE + at) * 1000, idle=None)
    alone = fast.key_by(lambda _: "k", name="a").window(sf.tumbling("10s")).count(name="alone")
    both = fast.merge(slow).key_by(lambda _: "k", name="b").window(sf.tumbling("10s")).count(name="both")
    async with FlowTest(flow) as t:
        await t.send(fast, 1, 12)
        assert (short(t.out(alone)), t.out(both)) == ([("k", 0, 10, 1)], [])
        await t.send(slow, 2, 11)
        assert short(t.out(both)) == [("k", 0, 10, 2)]


@BOTH
async def test_ids_of_what_windows_give_are_stable_and_unique(plain: bool) -> None:
    def build(keyed: Any) -> Any:
        windows = keyed.window(sf.tumbling("10s"), allowed_lateness="5s").count(name="counts")

        @windows.map
        def ids(ctx: sf.Context[Any, Any], row: Any) -> Any:
            assert ctx.event_time == row.end - datetime.timedelta(microseconds=1)
            return ctx.id

        return ids

    found = []
    for size in (1, 512):
        flow, records, ids = flow_of(build)
        async with FlowTest(flow, Settings(plain=plain, fragment_rows_max=size)) as t:
            for second in (1, 3, 11, 4, 26):
                await t.send(records, ("k", second), ("l", second))
            found.append(sorted(t.out(ids)))
    assert found[0] == found[1]
    assert len(set(found[0])) == len(found[0]) == 6


@BOTH
async def test_a_function_that_raises_is_told_with_its_place_or_left_out_whole(plain: bool) -> None:
    def amount(record: Any) -> Any:
        return 10 // record[2]

    def build(keyed: Any) -> Any:
        return keyed.window(sf.tumbling("10s")).agg(name="sums", n=sf.count(), total=sf.sum(amount))

    flow, records, sums = flow_of(build)
    with pytest.raises(StepError, match=r"step 'sums' raised ZeroDivisionError.*before position 2, key 'k'"):
        async with FlowTest(flow, Settings(plain=plain)) as t:
            await t.send(records, ("k", 1, 5), ("k", 2, 0))

    flow, records, sums = flow_of(
        lambda keyed: keyed.window(sf.tumbling("10s")).agg(
            name="sums", on_error=sf.skip, n=sf.count(), total=sf.sum(amount)
        )
    )
    async with FlowTest(flow, Settings(plain=plain)) as t:
        await t.send(records, ("k", 1, 5), ("k", 2, 0), ("k", 3, 2), ("k", 11, 1))
        assert short(t.out(sums)) == [("k", 0, 10, {"n": 2, "total": 7})]


@BOTH
async def test_a_result_that_raises_is_left_out_and_its_state_is_freed(plain: bool) -> None:
    def result(kept: list[Any]) -> float:
        return 1 / (len(kept) - 1)

    def build(keyed: Any) -> Any:
        kept: sf.Aggregator[Any, list[Any], float] = sf.aggregator(
            list, lambda kept, record: [*kept, record[1]], lambda a, b: a + b, result
        )
        return keyed.window(sf.tumbling("10s")).agg(kept, name="odd", on_error=sf.skip)

    flow, records, odd = flow_of(build)
    async with FlowTest(flow, Settings(plain=plain)) as t:
        await t.send(records, ("a", 1), ("b", 1), ("b", 2), ("c", 30))
        assert short(t.out(odd)) == [("b", 0, 10, 1.0)]
        assert t.state(odd).keys() == {"c"}


@BOTH
async def test_max_keys_counts_keys_with_open_windows(plain: bool) -> None:
    flow, records, counts = flow_of(
        lambda keyed: keyed.window(sf.tumbling("10s")).count(name="counts", max_keys=2, on_error=sf.skip)
    )
    async with FlowTest(flow, Settings(plain=plain)) as t:
        await t.send(records, ("a", 1), ("b", 1), ("c", 1), ("a", 11))
        assert short(t.out(counts)) == [("a", 0, 10, 1), ("b", 0, 10, 1)]
        await t.send(records, ("c", 12), ("b", 13), ("c", 40))
        assert short(t.out(counts))[2:] == [("a", 10, 20, 1), ("c", 10, 20, 1)]


async def test_state_that_cannot_be_stored_names_the_step() -> None:
    flow, records, _ = flow_of(
        lambda keyed: keyed.window(sf.tumbling("10s")).agg(sf.collect(lambda record: object()), name="bad")
    )
    t = FlowTest(flow)
    await t.__aenter__()
    with pytest.raises((EncodeError, StepError), match="bad"):
        await t.send(records, ("k", 1))


class Told(sf.Instrument):
    """Notes late records and watermarks."""

    def __init__(self) -> None:
        self.missed: list[tuple[str, int]] = []
        self.marks: list[tuple[str, int]] = []

    def late(self, step: str, records: int) -> None:
        self.missed.append((step, records))

    def watermark(self, sources: str, at_us: int) -> None:
        self.marks.append((sources, at_us))


async def test_instruments_hear_of_late_records_and_of_watermarks(tmp_path: Path) -> None:
    flow = sf.Flow("told", state=tmp_path / "told.db")
    topic = sf.MemoryTopic[Any]("in")
    records = flow.source(topic, time=lambda second: second * 1000)
    records.key_by(lambda _: "k").window(sf.tumbling("10s")).count(name="counts").to(sf.MemoryTopic("out"))
    topic.send_all([1, 25, 2, 3, 40])
    topic.close_input()
    told = Told()
    await flow.run(told)
    assert told.missed == [("counts", 2)]
    assert told.marks[-1] == ("in", 40_000_000)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda keyed: sf.tumbling("0s"), "size of a tumbling window"),
        (lambda keyed: sf.sliding("5s", "10s"), "leave out what lies between"),
        (lambda keyed: sf.tumbling("36h", tz="Europe/Berlin"), "whole days"),
        (lambda keyed: sf.tumbling("1d", tz="Europe/Nowhere"), "no time zone"),
        (lambda keyed: sf.count_window(2, 3), "is no window"),
        (lambda keyed: keyed.window(sf.global_window()), "never ends"),
        (lambda keyed: keyed.window(sf.count_window(5), allowed_lateness="1s"), "windows that go by event time"),
        (lambda keyed: keyed.window(sf.global_window(), early="5s"), "global window does not"),
        (lambda keyed: keyed.window(sf.tumbling("5s"), early="0s"), "duration above 0"),
        (lambda keyed: keyed.window(sf.tumbling("5s"), early=0), "no bound"),
        (lambda keyed: keyed.window(sf.count_window(5), early="5s"), "5 records every 5 does not"),
        (lambda keyed: keyed.window(sf.sliding("5s", "1s"), early=3, emit="updates"), "which tells of every record"),
        (lambda keyed: keyed.window(sf.tumbling("5s"), emit="often"), "emit="),
        (lambda keyed: keyed.window(sf.tumbling("5s")).agg(name="a"), "one aggregator, or several"),
        (lambda keyed: keyed.window(sf.tumbling("5s")).agg(name="a", n=3), "no aggregator"),
        (lambda keyed: sf.top_k(0, by=len), "keeps nothing"),
    ],
)
def test_what_makes_no_sense_is_refused_when_the_flow_is_built(build: Callable[[Any], Any], words: str) -> None:
    with pytest.raises(DefinitionError, match=words):
        flow_of(build)


def test_windows_on_records_without_event_time_are_refused() -> None:
    flow = sf.Flow("untimed")
    timed = flow.source(sf.MemoryTopic[Any]("timed"), time=lambda record: record)
    other = flow.source(sf.MemoryTopic[Any]("other"))
    timed.merge(other).key_by(lambda _: "k").window(sf.tumbling("1m")).count(name="counts")
    with pytest.raises(DefinitionError, match="'counts' goes by event time, and source 'other' has none"):
        flow.plan()
