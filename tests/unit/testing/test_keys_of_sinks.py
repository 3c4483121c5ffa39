"""In a test, a sink keeps the key that a broker's would write: the stream's own, unless ``key=`` gives another."""

from __future__ import annotations

from typing import Any

import pytest

import streamflow as sf
from streamflow.errors import EncodeError


@pytest.mark.parametrize("typed", [False, True])
@pytest.mark.parametrize("on_error", [sf.stop, sf.skip])
async def test_the_default_key_is_the_streams(typed: bool, on_error: Any) -> None:
    flow = sf.Flow("keys")
    words = flow.source(sf.MemoryTopic("in", value=str), time=lambda word: 1000)
    keyed = words.key_by(lambda word: word[0])

    def topic(name: str) -> sf.MemoryTopic[Any]:
        return sf.MemoryTopic(name, value=str) if typed else sf.MemoryTopic(name)

    keyed.map(str.upper, name="upper").to(topic("keyed"), on_error=on_error)
    keyed.to(topic("given"), key=lambda word: word[-1], on_error=on_error)
    words.to(topic("without"), on_error=on_error)
    words.key_by(lambda word: (word, 1), name="pairs").to(topic("pairs"), on_error=on_error)
    keyed.window(sf.tumbling("1m")).count(name="counts").map(str, name="text").to(topic("windows"), on_error=on_error)

    async with flow.test() as t:
        await t.send(words, "ant", "bee")
        await t.crash()
        await t.send(words, "cow", headers={"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"})
        await t.advance("31s")

        def keys(name: str) -> list[Any]:
            return [record.key for record in t.topic(name).records]

        assert t.sink("keyed") == ["ANT", "BEE", "COW"]
        assert keys("keyed") == [b"a", b"b", b"c"]
        assert keys("given") == [b"t", b"e", b"w"]
        assert keys("without") == [None, None, None]
        assert keys("pairs") == [b'["ant",1]', b'["bee",1]', b'["cow",1]']
        assert keys("windows") == [b"a", b"b", b"c"]
        assert "traceparent" in (t.topic("keyed").records[2].headers or {})


async def test_a_value_that_a_keyed_sink_cannot_encode_is_told_with_its_place() -> None:
    flow = sf.Flow("refused")
    words = flow.source(sf.MemoryTopic("in", value=str))
    words.key_by(lambda word: word[0]).map(lambda word: {1, word}.add, name="odd").to(sf.MemoryTopic[Any]("out"))
    async with flow.test() as t:
        with pytest.raises(EncodeError, match=r"sink 'out' cannot encode .*source 'in', the record before position 1"):
            await t.send(words, "ant")
