"""What a flow died of is told at once: by the call of a test that brought it about, and by a stop that comes first."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import streamflow as sf
from streamflow.errors import EncodeError
from streamflow.testing.harness import FlowTest

PLACE = r"source 'in', the record before position 1, key 'k'"


def _process(numbers: sf.Stream[int]) -> sf.Stream[Any]:
    @numbers.key_by(lambda n: "k").process(state=dict)
    def keeps(ctx: sf.Context[str, dict[str, Any]], n: int) -> list[int]:
        ctx.state["n"] = (n,)
        return [n]

    return keeps


def _aggregate(numbers: sf.Stream[int]) -> sf.Stream[Any]:
    return numbers.key_by(lambda n: "k").agg(sf.last(lambda n: [(n,)]), name="keeps")


def _window(numbers: sf.Stream[int]) -> sf.Stream[Any]:
    return numbers.key_by(lambda n: "k").window(sf.tumbling("1m")).agg(sf.last(lambda n: [(n,)]), name="keeps")


def _join(numbers: sf.Stream[int]) -> sf.Stream[Any]:
    keyed = numbers.key_by(lambda n: "k")
    return keyed.join(keyed.map(lambda n: (n,)), within="5s", name="keeps")


@pytest.mark.parametrize("keeps", [_process, _aggregate, _window, _join])
async def test_state_that_cannot_be_stored_is_told_by_the_send(keeps: Callable[[sf.Stream[int]], Any]) -> None:
    flow = sf.Flow("hidden")
    numbers = flow.source(sf.MemoryTopic("in", value=int), time=lambda n: n * 1000)
    keeps(numbers)
    sent = False
    with pytest.raises(EncodeError, match=rf"state of step 'keeps' cannot be stored.*\({PLACE}\)"):  # noqa: PT012
        async with flow.test() as t:
            with pytest.raises(EncodeError) as told:
                await t.send(numbers, 1)
            sent = True
            raise told.value
    assert sent


async def test_it_is_told_by_the_end_of_a_test_wherever_the_flow_is_by_then() -> None:
    silent = 0
    for turns in range(50):
        flow = sf.Flow("unsettled")
        numbers = flow.source(sf.MemoryTopic("in", value=int))
        _process(numbers)
        test = FlowTest(flow)
        await test.__aenter__()
        await test.send(numbers, 1, settle=False)
        for _ in range(turns):
            await asyncio.sleep(0)
        (ended,) = await asyncio.gather(test.__aexit__(None, None, None), return_exceptions=True)
        if ended is None:
            assert (test.engine.intake.records, test.engine.careful) == (0, 0)
            silent += 1
        else:
            assert isinstance(ended, EncodeError)
            assert "state of step 'keeps' cannot be stored" in ended.message
    assert 0 < silent < 25  # the record was not taken yet; then it is told


async def test_a_stop_before_the_record_is_found_tells_what_is_known(tmp_path: Path) -> None:
    """The life that looks for the record takes none any more; ending well would say that all is well."""
    topic: sf.MemoryTopic[int] = sf.MemoryTopic("in", value=int)
    flow = sf.Flow("stopped", state=tmp_path / "stopped.db")
    _process(flow.source(topic))
    running: list[sf.Running] = []

    class Stops(sf.Instrument):
        def restarting(self, error: Exception, retry_in_seconds: float) -> None:
            running[0].stop()

    with pytest.raises(EncodeError, match="state of step 'keeps' cannot be stored for key 'k'"):  # noqa: PT012
        async with flow.running(Stops()) as run:
            running.append(run)
            topic.send(1)
            await run.wait()
