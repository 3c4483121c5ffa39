"""Early results of sliding windows: which of the overlapping windows tell, when, as whom, and at which cost."""

from __future__ import annotations

from typing import Any

import pytest

import streamflow as sf
from streamflow.errors import StepError
from streamflow.runtime.settings import Settings
from streamflow.testing.harness import FlowTest

BASE = 1_767_225_600
BOTH = pytest.mark.parametrize("plain", [False, True], ids=["loop", "plain"])


def flow_of(kind: Any, aggregator: Any = None, lateness: str = "0s", **options: Any) -> tuple[sf.Flow, Any, Any]:
    """A flow of records (key, seconds) and one windowed step."""
    flow = sf.Flow("windows")
    on_error = options.pop("on_error", sf.stop)
    records = flow.source(sf.MemoryTopic[Any]("in"), time=lambda r: (BASE + r[1]) * 1000, lateness=lateness)
    windows = records.key_by(lambda record: record[0]).window(kind, **options)
    return flow, records, windows.agg(aggregator or sf.count(), name="told", on_error=on_error)


def short(rows: list[Any]) -> list[Any]:
    return [(row.key, int(row.start.timestamp()) - BASE, int(row.end.timestamp()) - BASE, row.value) for row in rows]


@BOTH
async def test_by_number_each_window_counts_its_own_records(plain: bool) -> None:
    flow, records, told = flow_of(sf.sliding("10s", "5s"), early=2)
    async with FlowTest(flow, Settings(plain=plain)) as t:
        await t.send(records, ("k", 1), ("k", 6))  # the second of [0, 10), the first of [5, 15)
        assert short(t.out(told)) == [("k", 0, 10, 2), ("k", -5, 5, 1)]
        await t.crash()
        await t.send(records, ("k", 7), ("k", 8))  # the second of [5, 15); the fourth of [0, 10)
        assert short(t.out(told))[2:] == [("k", 5, 15, 2), ("k", 0, 10, 4)]
        await t.send(records, ("k", 40))
        assert short(t.out(told))[4:] == [("k", 0, 10, 4), ("k", 5, 15, 3)]


@BOTH
async def test_by_event_time_each_window_counts_from_its_own_start(plain: bool) -> None:
    flow, records, told = flow_of(sf.sliding("10s", "5s"), early="4s")
    async with FlowTest(flow, Settings(plain=plain)) as t:
        await t.send(records, ("k", 0), ("k", 2))  # [-5, 5) tells at -1 and 3, [0, 10) at 4 and 8
        assert short(t.out(told)) == [("k", -5, 5, 2)]
        await t.send(records, ("l", 3))  # of k no record came
        assert short(t.out(told))[1:] == [("l", -5, 5, 1)]
        await t.crash()
        await t.send(records, ("l", 4))
        assert short(t.out(told))[2:] == [("k", 0, 10, 2), ("l", 0, 10, 2)]
        await t.send(records, ("l", 6))
        assert short(t.out(told))[4:] == [("k", -5, 5, 2), ("l", -5, 5, 2)]  # over at 5
        await t.send(records, ("l", 9))  # at 8 [0, 10) of l, at 9 [5, 15) of l
        assert short(t.out(told))[6:] == [("l", 0, 10, 4), ("l", 5, 15, 2)]
        await t.send(records, ("l", 30))  # what is over gives its result only; [25, 35) tells at 29
        assert short(t.out(told))[8:] == [("k", 0, 10, 2), ("l", 0, 10, 4), ("l", 5, 15, 2), ("l", 25, 35, 1)]
        assert t.state(told).keys() == {"l"}


@BOTH
async def test_what_one_watermark_brings_about_comes_by_time_key_and_end(plain: bool) -> None:
    flow, records, told = flow_of(sf.sliding("12s", "4s"), early="4s", lateness="6s")
    async with FlowTest(flow, Settings(plain=plain)) as t:
        await t.send(records, ("k", 1), ("a", 3), ("k", 5), ("x", 14))  # the watermark is at 8
        at_4 = [("a", -8, 4, 1), ("a", 0, 12, 1), ("k", -8, 4, 1), ("k", 0, 12, 2)]
        at_8 = [("a", -4, 8, 1), ("k", -4, 8, 2), ("k", 4, 16, 1), ("x", 4, 16, 1)]
        assert short(t.out(told)) == at_4 + at_8


@BOTH
async def test_late_records_that_are_allowed_tell_of_windows_that_are_over_and_count_in_open_ones(plain: bool) -> None:
    flow, records, told = flow_of(sf.sliding("10s", "5s"), early=2, allowed_lateness="10s")
    async with FlowTest(flow, Settings(plain=plain)) as t:
        await t.send(records, ("k", 7), ("x", 11))
        assert short(t.out(told)) == [("k", 0, 10, 1)]
        await t.send(records, ("k", 8))  # late: [0, 10) tells again, of [5, 15) it is the second
        assert short(t.out(told))[1:] == [("k", 0, 10, 2), ("k", 5, 15, 2)]
        await t.crash()
        await t.send(records, ("x", 21), ("k", 8))  # [0, 10) is gone for good; [5, 15) is over, by then with three
        assert short(t.out(told))[3:] == [("k", 5, 15, 3), ("x", 5, 15, 1), ("x", 10, 20, 1)]
        await t.send(records, ("k", 8), ("k", 4))
        assert short(t.out(told))[6:] == [("k", 5, 15, 4)]
        assert t.out(told.late) == [("k", 4)]
        await t.send(records, ("x", 60))
        assert t.state(told).keys() == {"x"}


def identity(ctx: sf.Context[Any, Any], row: Any) -> Any:
    return row.start, row.value, ctx.id


@BOTH
async def test_ids_of_early_results_are_unique_and_the_same_after_a_crash(plain: bool) -> None:
    found = []
    for crashes in (False, True):
        flow, records, told = flow_of(sf.sliding("10s", "2s"), early="3s")
        named = told.map(identity, name="ids")
        async with FlowTest(flow, Settings(plain=plain)) as t:
            for second in range(30):
                await t.send(records, ("k", second))
                if crashes and second % 4 == 3:
                    await t.crash()
            found.append(t.out(named))
    assert found[0] == found[1]
    assert len({row[2] for row in found[0]}) == len(found[0]) > 50


@BOTH
async def test_a_result_that_raises_is_left_out_alone(plain: bool) -> None:
    def result(total: int) -> int:
        if total == 2:
            raise ValueError("two")
        return total

    aggregator: sf.Aggregator[Any, int, int] = sf.aggregator(
        int, lambda so_far, record: so_far + 1, lambda a, b: a + b, result
    )
    for early in (2, "4s"):
        flow, records, told = flow_of(sf.sliding("10s", "5s"), aggregator, early=early)
        with pytest.raises(StepError, match="two"):
            async with FlowTest(flow, Settings(plain=plain)) as t:
                await t.send(records, ("k", 1), ("k", 6))
    flow, records, told = flow_of(sf.sliding("10s", "5s"), aggregator, early="4s", on_error=sf.skip)
    async with FlowTest(flow, Settings(plain=plain)) as t:
        await t.send(records, ("k", 1), ("k", 6))  # [0, 10) would tell at 4
        assert short(t.out(told)) == [("k", -5, 5, 1)]
        await t.send(records, ("k", 9), ("k", 9), ("k", 9))
        assert short(t.out(told))[1:] == [("k", 0, 10, 5), ("k", 5, 15, 4)]
        await t.send(records, ("k", 40))
        assert short(t.out(told))[3:] == [("k", 0, 10, 5), ("k", 5, 15, 4), ("k", 35, 45, 1)]


async def test_windows_that_tell_together_share_the_merges_of_their_panes() -> None:
    merges = 0

    def merge(a: int, b: int) -> int:
        nonlocal merges
        merges += 1
        return a + b

    aggregator: sf.Aggregator[Any, int, int] = sf.aggregator(int, lambda so_far, record: so_far + 1, merge)
    flow, records, told = flow_of(sf.sliding("60s", "1s"), aggregator, lateness="50s", early="1s")
    async with FlowTest(flow) as t:
        await t.send(records, *(("k", second) for second in range(100)))  # the watermark is at 49
        rows, before = len(t.out(told)), merges
        await t.send(records, *(("k", second) for second in range(50, 101)))  # one more second: all of them tell
        told_now = len(t.out(told)) - rows
        assert told_now > 50
        # one by one it were the windows times the panes of each: some 3,000
        assert merges - before < 8 * told_now


async def test_a_record_that_fills_no_window_merges_nothing() -> None:
    def merge(a: int, b: int) -> int:
        raise AssertionError("nobody tells")

    aggregator: sf.Aggregator[Any, int, int] = sf.aggregator(int, lambda so_far, record: so_far + 1, merge)
    flow, records, told = flow_of(sf.sliding("60s", "1s"), aggregator, lateness="1h", early=1000)
    async with FlowTest(flow) as t:
        await t.send(records, *(("k", second) for second in range(120)))
        assert t.out(told) == []
        assert len(t.state(told)["k"]) == 120
