"""Windows that tell with every record, against their definitions: all rows in order, and every kind of window."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import streamflow as sf
from streamflow.runtime.settings import Settings
from tests.property_runs import examples
from tests.unit.operators.arrivals import TICK
from tests.unit.operators.test_window_properties import (
    EVENTS,
    GAP,
    LATENESS,
    PARTITIONS,
    run_through_silences,
    source_of,
    window_of,
)
from tests.unit.operators.window_reference import Record, Telling, before_silences, counted, session_updates, told

TELLINGS = [
    Telling(10, 10, records=1, final=False),
    Telling(7, 7, 3, records=1, allowed=4, final=False),
    Telling(10, 4, records=1, final=False),
    Telling(9, 3, 1, records=1, allowed=30, final=False),
]
COUNTS: list[tuple[int | None, int | None]] = [(3, 3), (4, 1), (6, 4), (None, None)]
"""The last is the window that never ends."""
ALLOWED = (0, 4, 30)
"""For how many seconds sessions take late records."""


def steps_of(source: Any) -> dict[str, Any]:
    """A step of every kind of window, each of which tells with every record."""
    mixed = source.key_by(lambda record: record.key, name="mixed")
    apart = source.key_by(lambda record: record.partition + record.key, name="apart")
    found = {}

    def add(keyed: Any, name: str, kind: Any, allowed: int = 0) -> None:
        late = {"allowed_lateness": f"{allowed}s"} if allowed else {}
        numbers: sf.Aggregator[Record, list[int], list[int]] = sf.collect(lambda record: record.number)
        found[name] = keyed.window(kind, emit="updates", **late).agg(numbers, name=name)

    for at, how in enumerate(TELLINGS):
        add(mixed, f"aligned-{at}", window_of(how.size, how.every, how.offset), how.allowed)
    for allowed in ALLOWED:
        add(apart, f"session-{allowed}", sf.session(f"{GAP}s"), allowed)
    for size, every in COUNTS:
        add(apart, f"count-{size}", sf.global_window() if size is None else sf.count_window(size, every))
    return found


def in_order(rows: Sequence[tuple[str, int, int, Any]]) -> list[tuple[str, int, int, Any]]:
    """Rows with the numbers of their records in order: within a window they are in the order of its panes."""
    return [(key, start, end, numbers and sorted(numbers)) for key, start, end, numbers in rows]


@pytest.mark.parametrize("plain", [False, True], ids=["loop", "plain"])
@given(events=EVENTS)
@examples(12)
def test_windows_tell_with_every_record_what_they_hold_by_then(plain: bool, events: list[Any]) -> None:
    flow = sf.Flow("updates")
    source = source_of(flow, LATENESS)
    gave = asyncio.run(run_through_silences(flow, source, steps_of(source), events, Settings(plain=plain)))
    records = [event for event in events if isinstance(event, Record)]
    for at, how in enumerate(TELLINGS):
        rows, late = told(events, LATENESS, PARTITIONS, how)
        found = gave[f"aligned-{at}"]
        assert (in_order(found.rows), found.late, found.left) == (rows, late, {}), how
    named = [Record(record.partition, record.partition + record.key, record.at, record.number) for record in records]
    for allowed in ALLOWED:

        def closes(at: float, allowed: int = allowed) -> float:
            return at + GAP + TICK + allowed

        marks = before_silences(events, LATENESS, PARTITIONS, closes)
        found = gave[f"session-{allowed}"]
        assert in_order(found.rows) == session_updates(named, GAP, allowed, marks), allowed
        assert found.left == {}
    for size, every in COUNTS:
        so_far = [(key, numbers) for key, _, _, numbers in gave[f"count-{size}"].rows]
        assert so_far == counted(named, size, every, early=1), size


@given(keys=st.lists(st.integers(0, 2), max_size=30), size=st.integers(1, 6), data=st.data())
@examples(12)
def test_windows_of_records_need_no_event_time(keys: list[int], size: int, data: st.DataObject) -> None:
    """Whatever crashes: so many records of a key, or all of them, told of with each, or with some, or when full."""
    every = data.draw(st.integers(1, size))
    n = data.draw(st.integers(1, 4))
    records = [Record("", str(key), 0, number) for number, key in enumerate(keys)]
    cuts = data.draw(st.sets(st.integers(0, 30), max_size=3))
    kinds: dict[str, tuple[Any, dict[str, Any], int | None, int | None, int | None]] = {
        "full": (sf.count_window(size, every), {}, size, every, None),
        "full-early": (sf.count_window(size, every), {"early": n}, size, every, n),
        "full-updates": (sf.count_window(size, every), {"emit": "updates"}, size, every, 1),
        "all-early": (sf.global_window(), {"early": n}, None, None, n),
        "all-updates": (sf.global_window(), {"emit": "updates"}, None, None, 1),
    }
    flow = sf.Flow("records")
    source = flow.source(sf.MemoryTopic[Record]("in"))
    keyed = source.key_by(lambda record: record.key)
    steps = {
        name: keyed.window(kind, **how).agg(sf.collect(lambda record: record.number), name=name)
        for name, (kind, how, *_) in kinds.items()
    }

    async def run() -> None:
        async with flow.test() as t:
            for at, record in enumerate(records):
                await t.send(source, record, settle=False)
                if at in cuts:
                    for _ in range(at % 20):
                        await asyncio.sleep(0)
                    await t.crash()
            await t.settle()
            assert t.crashes == len([cut for cut in cuts if cut < len(records)])
            for name, (_, _, full, slide, early) in kinds.items():
                found = [(row.key, row.value) for row in t.out(steps[name])]
                assert found == counted(records, full, slide, early), name

    asyncio.run(run())
