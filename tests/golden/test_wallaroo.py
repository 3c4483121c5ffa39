"""Windows against what Wallaroo's own tests say of them, clean and through crashes."""

from __future__ import annotations

from typing import Any

import pytest

import streamflow as sf
from tests.golden.playing import CRASHES, fed, played, records_of


@CRASHES
async def test_chained_windows(crashes: int) -> None:
    records = [(5000, 1), (5100, 3), (5200, 5), (5300, 1), (6050, 11), (6051, 13)]
    flow = sf.Flow("chained")
    source = flow.source(sf.MemoryTopic[Any]("in"), time=lambda record: record[0])
    sums = source.key_by(lambda r: "all").window(sf.tumbling("1s")).agg(sf.sum(lambda r: r[1]), name="sums")
    assert [row.value for row in await fed(flow, source, records, crashes, sums)] == [10, 24]


@CRASHES
@pytest.mark.parametrize(
    ("allowed", "windows", "late"),
    [
        pytest.param("0s", [[2, 3, 4, 5]], [1], id="drop, and a side output"),
        # There a late message fires alone, whatever its window held; here it fires its own window, of which it is the
        # first. What both give, one after the other, is 1, 2, 3, 4, 5.
        pytest.param("10s", [[1], [2, 3, 4, 5]], [], id="fire again"),
    ],
)
async def test_late_data(allowed: str, windows: list[list[int]], late: list[int], crashes: int) -> None:
    # milliseconds; 50 ns are less than a microsecond, so 0
    records = [(1000, 2), (1001, 3), (1002, 4), (0, 1), (1003, 5)]
    flow = sf.Flow("late")
    source = flow.source(sf.MemoryTopic[Any]("in"), time=lambda record: record[0])
    keyed = source.key_by(lambda r: "all").window(sf.tumbling("1s"), allowed_lateness=allowed)
    result = keyed.agg(sf.collect(lambda r: r[1]), name="windows")
    feed = records_of(*((source, record) for record in records))
    found, found_late = await played(flow, feed, crashes, result, result.late)
    assert [row.value for row in found] == windows
    assert [record[1] for record in found_late] == late
    assert late + [value for row in found for value in row.value] == [1, 2, 3, 4, 5]
