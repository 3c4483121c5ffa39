"""Windows against the tables of Kafka Streams' unit tests: every update and the final results, through crashes."""

from __future__ import annotations

import itertools
from collections import defaultdict
from typing import Any

import pytest

import streamflow as sf
from tests.golden.kafka_streams import CASES, milliseconds
from tests.golden.playing import CRASHES, fed

TIME = ("shouldSupportFinalResultsForTimeWindows", "shouldSupportFinalResultsForTimeWindowsWithLargeJump")
SESSIONS = "shouldSupportFinalResultsForSessionWindows"
SLIDING = "shouldSupportFinalResultsForSlidingWindows"
SLIDING_TEXTS = ("testAggregateSmallInput", "testReduceSmallInput")
JOINS = ("testInner", "testLeft", "testOuter")
"""These are played by test_join_cases.py."""


def test_every_table_is_played() -> None:
    assert sorted(CASES) == sorted([*TIME, SESSIONS, SLIDING, *SLIDING_TEXTS, *JOINS])


def windowed(case: Any, kind: Any, emit: Any) -> tuple[sf.Flow, Any, Any]:
    """A flow with one window step; ``time`` is the last field of a record, and nothing but records moves it."""
    flow = sf.Flow("kafka")
    grace = f"{case['grace']}ms"
    source = flow.source(sf.MemoryTopic[Any]("in"), time=lambda record: record[-1], lateness=grace, idle=None)
    return flow, source, source.key_by(lambda r: r[0]).window(kind, emit=emit)


def named(row: sf.Windowed[str, int], end_ms: int) -> list[Any]:
    """A row as the tables have it."""
    return [f"[{row.key}@{milliseconds(row.start)}/{end_ms}]", row.value]


@CRASHES
@pytest.mark.parametrize("name", TIME)
async def test_time_windows(name: str, crashes: int) -> None:
    case = CASES[name]
    for emit in ("updates", "final"):
        flow, source, windows = windowed(case, sf.tumbling(f"{case['size']}ms"), emit)
        rows = await fed(flow, source, case["input"], crashes, windows.count(name="counts"))
        assert [named(row, milliseconds(row.end)) for row in rows] == [row[:2] for row in case[emit]]


@CRASHES
async def test_sessions(crashes: int) -> None:
    case = CASES[SESSIONS]
    gap = case["size"]
    for emit in ("updates", "final"):
        flow, source, windows = windowed(case, sf.session(f"{gap}ms"), emit)
        rows = await fed(flow, source, case["input"], crashes, windows.count(name="counts"))
        # there a session ends with its last record, here a gap behind it
        found = [named(row, milliseconds(row.end) - gap) for row in rows]
        wanted = [row[:2] for row in case[emit]]
        # there a session is taken back with every record, here only when its bounds change
        same_bounds = [
            at for at, (row, after) in enumerate(itertools.pairwise(wanted)) if row[1] is None and row[0] == after[0]
        ]
        assert len(same_bounds) == (1 if emit == "updates" else 0)
        assert found == [row for at, row in enumerate(wanted) if at not in same_bounds]


# -- sliding windows --------------------------------------------------------------------------------------------------
# There a window begins where a record enters or leaves, and its end is part of it; here windows begin at every
# millisecond. So each of theirs is one of ours, of one millisecond more, and the others of ours hold nothing else.


def every_millisecond(case: Any) -> Any:
    return sf.sliding(f"{case['size'] + 1}ms", "1ms")


@CRASHES
async def test_counts_in_sliding_windows(crashes: int) -> None:
    case = CASES[SLIDING]
    flow, source, windows = windowed(case, every_millisecond(case), "final")
    rows = await fed(flow, source, case["input"], crashes, windows.count(name="counts"))
    found = [named(row, milliseconds(row.end) - 1) for row in rows]
    theirs = {row[0] for row in case["final"]}
    assert [row for row in found if row[0] in theirs] == [row[:2] for row in case["final"]]

    flow, source, windows = windowed(case, every_millisecond(case), "updates")
    rows = await fed(flow, source, case["input"], crashes, windows.count(name="counts"))
    updates = [named(row, milliseconds(row.end) - 1) for row in rows]
    check_updates(updates, case["updates"])


@CRASHES
@pytest.mark.parametrize("name", SLIDING_TEXTS)
async def test_texts_in_sliding_windows(name: str, crashes: int) -> None:
    case = CASES[name]

    async def texts(emit: str) -> list[list[Any]]:
        flow, source, windows = windowed(case, every_millisecond(case), emit)
        collected = windows.agg(sf.collect(lambda record: record[1]), name="texts")
        rows = await fed(flow, source, case["input"], crashes, collected)
        return [[str(milliseconds(row.start)), case["init"] + "+".join(row.value)] for row in rows]

    found = await texts("final")
    theirs = [[start, text] for start, final in case["final"].items() for text in final]
    assert [row for row in found if row[0] in case["final"]] == theirs
    assert {text for _, text in found} == {text for _, text in theirs}
    check_updates(await texts("updates"), [[start, text] for start, all in case["updates"].items() for text in all])


def check_updates(found: list[list[Any]], wanted: list[list[Any]]) -> None:
    """There a window is told of when it is made, which may be when it holds several records; here with the first."""
    ours, theirs = grouped(found), grouped(wanted)
    assert len(theirs) > 5
    assert {window: ours[window][-len(values) :] for window, values in theirs.items()} == theirs


def grouped(rows: list[list[Any]]) -> dict[str, list[Any]]:
    groups = defaultdict(list)
    for row in rows:
        groups[row[0]].append(row[1])
    return groups
