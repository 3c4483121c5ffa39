"""What the log says of records that a policy leaves out: some of many."""

from __future__ import annotations

import logging

import streamflow as sf


async def test_a_flood_of_bad_records_does_not_drown_the_log(caplog):
    flow = sf.Flow("numbers")
    lines = flow.source(sf.MemoryTopic("lines", value=str))
    numbers = lines.map(int, on_error=sf.skip, name="number")
    numbers.to(sf.MemoryTopic("numbers", value=int))
    with caplog.at_level(logging.WARNING, "streamflow"):
        async with flow.test() as t:
            for _ in range(100):
                await t.send(lines, "bad")
            await t.send(lines, "7")
            assert t.out(numbers) == [7]
    told = [record.getMessage() for record in caplog.records if "left out a record" in record.getMessage()]
    assert len(told) == 7
    assert "64 so far" in told[-1]
