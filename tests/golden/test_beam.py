"""Windows against the transcripts of Apache Beam's trigger tests, clean and through crashes."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import pytest

import streamflow as sf
from streamflow.testing.harness import FlowTest
from tests.golden.playing import CRASHES, die, played

TRANSCRIPTS = json.loads((Path(__file__).parent / "data" / "beam" / "transcripts.json").read_text())
LATENESS = 1000
"""Seconds; a watermark is a record of another key, so far ahead that the lateness takes it back."""


def told(ctx: sf.Context[Any, Any], row: Any) -> list[Any]:
    """A window's start, values and timestamp: Beam's is the last moment of the window, too, but in whole seconds."""
    assert ctx.event_time is not None
    assert ctx.event_time == row.end - datetime.timedelta(microseconds=1)
    return [round(row.start.timestamp()), sorted(row.value), int(ctx.event_time.timestamp())]


@CRASHES
@pytest.mark.parametrize("case", TRANSCRIPTS, ids=[case["name"] for case in TRANSCRIPTS])
async def test_transcript(case: Any, crashes: int) -> None:
    flow = sf.Flow("beam")
    time = lambda second: abs(second) * 1000  # noqa: E731
    source = flow.source(sf.MemoryTopic[int]("in"), time=time, lateness=f"{LATENESS}s", idle=None)
    windows = source.key_by(lambda second: "mark" if second < 0 else "k").window(
        sf.tumbling(f"{case['size']}s"), allowed_lateness=f"{case['allowed_lateness']}s"
    )
    rows = windows.agg(sf.collect(), name="windows").filter(lambda row: row.key == "k").map(told, name="told")
    actions = case["transcript"]

    async def feed(t: FlowTest, crashes: int) -> None:
        seen = 0
        for at, action in enumerate(actions):
            if "expect" in action:
                await die(t, at, len(actions), crashes)
                found = t.out(rows)[seen:]
                # some transcripts do not say the timestamp
                assert [row[: len(wanted)] for row, wanted in zip(found, action["expect"], strict=True)] == action[
                    "expect"
                ]
                seen += len(found)
                continue
            records = action["input"] if "input" in action else [-(action["watermark"] + LATENESS)]
            await t.send(source, *records, settle=False)
            await die(t, at, len(actions), crashes)
            await t.settle()
        assert len(t.out(rows)) == seen

    await played(flow, feed, crashes, rows)
