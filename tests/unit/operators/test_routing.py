"""Merge: rows of several edges in the order of their origins, whatever the fragments."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamflow.batch import END, Fragment, MicroBatch
from streamflow.operators.routing import Merge
from streamflow.runtime.channel import Channel

origins = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=3).map(tuple), unique=True, max_size=12).map(sorted)


@settings(deadline=None)
@given(st.data(), st.integers(1, 3), st.integers(1, 3))
def test_rows_come_in_the_order_of_origins(data, edges, numbers):
    everything: list[list[Any]] = []
    channels = [Channel(100, 0) for _ in range(edges)]
    puts: list[tuple[int, Fragment]] = []
    for number in range(1, numbers + 1):
        batch = MicroBatch(number, 0)
        rows: list[tuple[Any, int]] = [(origin, data.draw(st.integers(0, edges - 1))) for origin in data.draw(origins)]
        everything.append([origin for origin, _ in rows])
        for edge in range(edges):
            mine = [origin for origin, to in rows if to == edge]
            cut = data.draw(st.integers(1, 4))
            while len(mine) > cut:
                puts.append((edge, _part(batch, mine[:cut], False)))
                mine = mine[cut:]
            puts.append((edge, _part(batch, mine, True)))

    async def run() -> list[list[Any]]:
        for edge, part in puts:
            await channels[edge].put(part)
        merge, found = Merge(channels), []
        for _ in range(numbers):
            part, got = await merge.get(), []
            upto: Any = ()
            while True:
                assert part.origins == part.values
                assert all(origin > upto for origin in part.origins or ())
                got += part.values
                if part.last:
                    break
                assert part.upto is not None
                upto = part.upto
                part = await merge.get()
            found.append(got)
        return found

    assert asyncio.run(run()) == everything


def _part(batch: MicroBatch, rows: list[Any], last: bool) -> Fragment:
    return Fragment(batch, rows, last, None, [0] * len(rows), rows, None if last else rows[-1])


async def test_a_broken_promise_is_noticed():
    channels = [Channel(9, 0), Channel(9, 0)]
    batch = MicroBatch(1, 0)
    await channels[0].put(Fragment(batch, ["a"], False, None, [0], [(1,)], (1, END)))
    await channels[0].put(Fragment(batch, ["b"], True, None, [0], [(1, 5)]))
    await channels[1].put(Fragment(batch, [], True, None, [], []))
    merge = Merge(channels)
    await merge.get()
    await merge.get()
    with pytest.raises(AssertionError, match="complete up to"):
        await merge.get()
