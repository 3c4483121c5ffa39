"""A cell of order="time": two sources of two partitions each, in one joint order, whatever order they arrive in."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import streamflow as sf
from streamflow.flow import Flow
from tests.simulation.cell import Inputs, Outputs, key, topic
from tests.unit.operators.window_reference import Record, aligned, in_joint_order

PARTITIONS = ("p", "q")
LATENESS = 6


def second(value: int) -> int:
    """When a record happened: partitions are out of order within the lateness, but for some that are late."""
    index = value % 1000
    return 100 + index + (index // 2 * 3) % 7 - (30 if index % 11 == 7 else 0)


def ordered() -> Flow:
    """A running list of what came last per key, which only the one right order gives, and windows behind it."""
    flow = Flow("ordered")
    sources = [
        flow.source(
            topic(name, partitions=PARTITIONS),
            time=lambda value: second(value) * 1000,
            lateness=f"{LATENESS}s",
            idle=None,
            order="time" if name == "a" else None,
            max_drift="20s" if name == "a" else None,
        )
        for name in "ab"
    ]
    keyed = sf.merge(*sources, order="time").key_by(key)

    @keyed.process(state=list[int])
    def lasts(ctx: sf.Context[str, list[int]], value: int) -> Iterator[Any]:
        ctx.state = [*ctx.state[-2:], value]
        yield ctx.state

    lasts.to(topic("lasts", list[int]))
    counts = keyed.window(sf.tumbling("10s")).count(name="counts")
    counts.map(lambda row: [row.key, round(row.start.timestamp()), row.value], name="a-count").to(
        topic("counts", list[Any])
    )
    counts.late.to(topic("late"))
    return flow


def check_ordered(inputs: Inputs, outputs: Outputs) -> None:
    records = [
        Record(f"{name}{PARTITIONS[value % 1000 % len(PARTITIONS)]}", key(value), second(value), value)
        for name, values in inputs.items()
        for value in values
    ]
    lasts: dict[str, list[int]] = defaultdict(list)
    rows = []
    in_order = in_joint_order(records, LATENESS)
    for record in in_order:
        lasts[record.key] = [*lasts[record.key][-2:], record.number]
        rows.append(lasts[record.key])
    assert outputs["lasts"] == rows
    found, late = aligned(records, LATENESS, 10, 10, 0)
    assert outputs["counts"] == [[k, start, len(numbers)] for k, start, _, numbers in found]
    assert outputs["late"] == [record.number for record in in_order if record.number in set(late)]
