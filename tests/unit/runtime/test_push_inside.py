"""A push from inside a step of the same flow would wait for a commit that waits for the step: it is refused."""

from __future__ import annotations

from typing import Any

import pytest

import streamflow as sf
from streamflow.errors import DefinitionError
from tests.unit.operators.test_async_map import flow_in, send, topics
from tests.unit.runtime.test_engine import until


async def test_a_push_from_inside_a_step_is_refused_and_to_another_flow_is_not(tmp_path):
    source, sink = topics()
    other_source, other_sink = topics()
    other = sf.Flow("other", state=tmp_path / "other.db")
    there = other.source(other_source)
    there.to(other_sink)
    flow = flow_in(tmp_path)
    stream = flow.source(source)
    runs: list[Any] = []
    refused: list[str] = []

    @stream.map(concurrency=2)
    async def forwarded(v: int) -> int:
        with pytest.raises(DefinitionError) as caught:
            await runs[0].push(stream, v)
        refused.append(str(caught.value))
        await runs[1].push(there, v)
        return v

    forwarded.to(sink)
    async with flow.running() as run, other.running() as second:
        runs += [run, second]
        send(source, 1, 2)
        await until(lambda: sink.values == [1, 2])
        assert sorted(other_sink.values) == [1, 2]
        await run.push(stream, 3)
        await until(lambda: sink.values == [1, 2, 3])
    assert len(refused) == 3
    assert "would wait for a commit that waits for the step" in refused[0]
