"""A client library that swallows a cancellation: a flow that dies ends all the same."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import streamflow as sf
from streamflow.batch import Chunk, Progress
from streamflow.errors import StepError
from streamflow.runtime import tasks


async def test_a_task_that_did_not_hear_of_its_end_is_told_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "CANCEL_AGAIN_SECONDS", 0.05)
    swallowed = 0

    def deaf(options: Any) -> Any:
        sink: Any = real(options)
        recover = sink.recover

        async def deaf_recover(stored: Progress | None, pending: Sequence[Chunk]) -> Progress:
            nonlocal swallowed
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                swallowed += 1
            return await recover(stored, pending)  # type: ignore[no-any-return]

        sink.recover = deaf_recover
        return sink

    words, out = sf.MemoryTopic("words", value=str), sf.MemoryTopic("out", value=str)
    real = out.sink
    out.sink = deaf  # type: ignore[method-assign]
    words.send("poison")
    flow = sf.Flow("deaf", state=tmp_path / "deaf.db")
    flow.source(words).map(lambda word: word[99], name="step").to(out)
    async with asyncio.timeout(10):
        with pytest.raises(StepError, match="step 'step' raised IndexError"):
            await flow.run()
    assert swallowed == 1
