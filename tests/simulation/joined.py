"""The cell of joins: two sources in disorder, by intervals, in windows and in sessions, late records of both sides."""

from __future__ import annotations

from typing import Any

import streamflow as sf
from streamflow.flow import Flow
from tests.simulation.cell import Inputs, Outputs, key, topic
from tests.simulation.windowed import LATENESS, second
from tests.unit.operators.join_reference import Record, in_sessions, in_windows, interval

WITHIN = (2, 4)
BEFORE = (5, -1)
WINDOW = (10, 5, 0)
GAP = 3


def joins() -> Flow:
    flow = Flow("joins")
    left, right = (
        flow.source(topic(name), time=lambda value: second(value) * 1000, lateness=f"{LATENESS}s", idle=None).key_by(
            key, name=f"{name}-key"
        )
        for name in ("a", "b")
    )
    before, after = WITHIN
    near = left.join(right, within=(f"{before}s", f"{after}s"), how="outer", name="near")
    near.map(_pair, name="a-pair").to(topic("near", list[Any]))
    near.late.left.to(topic("late-left"))
    near.late.right.to(topic("late-right"))
    before, after = BEFORE
    earlier = left.join(right, within=(f"{before}s", f"{after}s"), how="outer", name="earlier")
    earlier.map(_pair, name="an-earlier-pair").to(topic("earlier", list[Any]))
    visits = left.join(right, window=sf.session(f"{GAP}s"), how="right", name="visits")
    visits.map(_row, name="a-visit").to(topic("visits", list[Any]))
    size, every, _ = WINDOW
    together = left.map_batch(lambda values: values, name="batch").key_by(key, name="batch-key")
    together_in = together.join(
        right, window=sf.sliding(f"{size}s", f"{every}s"), how="left", name="together", types=(int, int)
    )
    together_in.map(_row, name="a-row").to(topic("together", list[Any]))
    return flow


def _pair(ctx: sf.Context[str, Any], pair: tuple[int | None, int | None]) -> list[Any]:
    assert ctx.event_time is not None
    return [ctx.key, *pair, round(ctx.event_time.timestamp())]


def _row(row: sf.Windowed[str, tuple[int | None, int | None]]) -> list[Any]:
    return [row.key, round(row.start.timestamp()), round(row.end.timestamp()), *row.value]


PLACES = [(0, ""), (1, "")]
"""Sides and their partitions."""


def check_joins(inputs: Inputs, outputs: Outputs) -> None:
    records = [
        Record(side, "", key(value), second(value), value)
        for side, name in enumerate(("a", "b"))
        for value in inputs[name]
    ]
    pairs, late = interval(records, PLACES, LATENESS, WITHIN, "outer")
    _same(outputs["near"], pairs)
    assert [list(outputs["late-left"]), list(outputs["late-right"])] == late
    _same(outputs["earlier"], interval(records, PLACES, LATENESS, BEFORE, "outer")[0])
    _same(outputs["visits"], in_sessions(records, PLACES, LATENESS, GAP, "right")[0])
    _same(outputs["together"], in_windows(records, PLACES, LATENESS, WINDOW, "left")[0])


def _same(found: Any, wanted: Any) -> None:
    assert sorted(found, key=repr) == sorted(map(list, wanted), key=repr)
