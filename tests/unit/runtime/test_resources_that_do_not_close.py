"""A resource that fails to close is named; all others are closed, and what ended the flow is told before it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import streamflow as sf
from streamflow.errors import StepError, StreamflowError


class Pool:
    """Notes that it was closed; may fail at it."""

    def __init__(self, name: str, closed: list[str], error: Exception | None = None) -> None:
        self.name, self.closed, self.error = name, closed, error

    async def aclose(self) -> None:
        self.closed.append(self.name)
        if self.error is not None:
            raise self.error


class Plain(Pool):
    def close(self) -> None:
        self.closed.append(self.name)
        if self.error is not None:
            raise self.error

    aclose = None  # type: ignore[assignment]


def managed(name: str, closed: list[str], error: Exception | None = None) -> Any:
    @asynccontextmanager
    async def pool() -> AsyncIterator[str]:
        try:
            yield name
        finally:
            closed.append(name)
            if error is not None:
                raise error

    return pool()


def flow_of(folder: Path, closed: list[str], broken: Callable[..., Any], error: Exception) -> tuple[sf.Flow, Any]:
    flow = sf.Flow("closing", state=folder / "closing.db")
    flow.resource(lambda: Pool("first", closed), name="first")
    flow.resource(lambda: broken("broken", closed, error), name="broken")
    flow.resource(lambda: Pool("last", closed), name="last")
    topic: sf.MemoryTopic[int] = sf.MemoryTopic("in", value=int)
    flow.source(topic).map(lambda n: 1 // n, name="inverse").to(sf.MemoryTopic("out", value=int))
    return flow, topic


@pytest.mark.parametrize("broken", [Pool, Plain, managed])
async def test_it_is_named_and_all_others_are_closed(tmp_path: Path, broken: Callable[..., Any]) -> None:
    closed: list[str] = []
    error = OSError("the pool is stuck")
    flow, topic = flow_of(tmp_path, closed, broken, error)
    with pytest.raises(StreamflowError, match="resource 'broken' cannot be closed: OSError: the pool is stuck") as told:
        async with flow.running():
            topic.send(1)
    assert told.value.__cause__ is error
    assert told.value.hint
    assert closed == ["last", "broken", "first"]


@pytest.mark.parametrize("broken", [Pool, Plain, managed])
async def test_what_ended_the_flow_is_told_before_it(
    tmp_path: Path, broken: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    closed: list[str] = []
    flow, topic = flow_of(tmp_path, closed, broken, OSError("the pool is stuck"))
    with pytest.raises(StepError, match="step 'inverse' raised ZeroDivisionError") as told:  # noqa: PT012
        async with flow.running() as run:
            topic.send(0)
            await run.wait()
    assert closed == ["last", "broken", "first"]
    assert any("resource 'broken' cannot be closed" in note for note in told.value.__notes__)
    assert "resource 'broken' cannot be closed: OSError" in caplog.text


async def test_of_two_that_fail_the_first_to_be_closed_is_told_with_the_other(tmp_path: Path) -> None:
    closed: list[str] = []
    flow, _ = flow_of(tmp_path, closed, Pool, OSError("stuck"))
    flow.resource(lambda: Pool("worse", closed, ValueError("gone")), name="worse")
    with pytest.raises(StreamflowError, match="resource 'worse' cannot be closed: ValueError: gone") as told:
        async with flow.running():
            pass
    assert any("resource 'broken' cannot be closed" in note for note in told.value.__notes__)
    assert closed == ["worse", "last", "broken", "first"]
