"""A flow between Kafka topics under `flow.test()`: tombstones go in and come out as None, without a broker."""

from __future__ import annotations

from typing import Any

import pytest

import streamflow as sf
from streamflow_kafka import Kafka


async def test_tombstones_pass_through_a_test(tmp_path: Any) -> None:
    kafka = Kafka()
    flow = sf.Flow("tombs", state=tmp_path / "tombs.db")
    words = flow.source(kafka.topic("words", value=str, nulls=True))
    kept = words.map(lambda word: word, name="kept")
    kept.to(kafka.topic("out", value=str, nulls=True))
    async with flow.test() as trial:
        await trial.send(words, "a", None, "")
        assert trial.out(kept) == ["a", None, ""]


async def test_without_nulls_none_is_refused(tmp_path: Any) -> None:
    flow = sf.Flow("tombs", state=tmp_path / "tombs.db")
    words = flow.source(Kafka().topic("words", value=str))
    words.map(str.upper, name="kept").to(sf.MemoryTopic("out", value=str))
    nothing: Any = None
    async with flow.test() as trial:
        with pytest.raises(ValueError, match="expected str, got NoneType"):
            await trial.send(words, nothing)
