"""W3C Trace Context: which headers travel on, and that they reach the right output through every kind of step."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

import streamflow as sf
from streamflow.connect.contracts import SinkOptions, row_headers
from streamflow.errors import EncodeError, StepError
from streamflow.trace import carried, is_parent, is_state, is_traced

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def parent(number: int) -> str:
    return f"00-{number:032x}-{number:016x}-01"


@pytest.mark.parametrize(
    "text",
    [
        PARENT,
        PARENT[:-2] + "00",
        PARENT[:-2] + "ff",
        "01" + PARENT[2:],
        "cc" + PARENT[2:] + "-what-the-future-will-be-like",
    ],
)
def test_valid_parents(text):
    assert is_parent(text)


@pytest.mark.parametrize(
    "text",
    ["", "00", PARENT.upper(), "ff" + PARENT[2:], PARENT + "-", PARENT + "-more", PARENT[:-1], PARENT + "0",
     " " + PARENT, PARENT + "\n", "00-" + "0" * 32 + PARENT[35:], PARENT[:36] + "0" * 16 + "-01",
     "cc" + PARENT[2:] + "more", PARENT.replace("-", "_"), "0x" + PARENT[2:], PARENT[:-2] + "0g"],
)  # fmt: skip
def test_invalid_parents(text):
    assert not is_parent(text)


@pytest.mark.parametrize(
    "text",
    ["a=1", "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE", "foo=1 ,\t bar=2", "a=1,,b=2", "fw529a3039@dt=FfD,0a@b=1",
     "a/b*c-d_e=x y", "a=" + "v" * 256, "k" * 256 + "=1", ",".join(f"k{n}=1" for n in range(32))],
)  # fmt: skip
def test_valid_states(text):
    assert is_state(text)


@pytest.mark.parametrize(
    "text",
    ["", ",", "a", "a=", "=1", "A=1", "a=1,a=2", "a=b=c", "a=1;b=2,ü=1", "0a=1", "a@=1", "a@b@c=1", "a=" + "v" * 257,
     "k" * 257 + "=1", ",".join(f"k{n}=1" for n in range(33)), "a=\x7f", "a=1\n", "a =1"],
)  # fmt: skip
def test_invalid_states(text):
    assert not is_state(text)


def test_what_travels():
    assert carried({"traceparent": PARENT, "tracestate": "a=1", "other": "x"}) == {
        "traceparent": PARENT,
        "tracestate": "a=1",
    }
    assert carried({"Traceparent": PARENT, "TRACESTATE": "a=1"}) == {"traceparent": PARENT, "tracestate": "a=1"}
    assert carried({"traceparent": PARENT, "tracestate": "A=1"}) == {"traceparent": PARENT}
    assert carried({"traceparent": PARENT + "x", "tracestate": "a=1"}) is None
    assert carried({"tracestate": "a=1"}) is None
    assert carried({}) is None
    assert carried(None) is None
    assert is_traced([None, {"a": "b"}, {"TraceParent": ""}])
    assert not is_traced([None, {"a": "b"}, {}])


# -- in flows --


def outputs(topic: sf.MemoryTopic[Any]) -> list[tuple[Any, Any]]:
    """Value and trace of each record: the number in its traceparent, or None; other headers where it has some."""
    found = []
    for record in topic.records:
        headers = dict(record.headers or {})
        text = headers.pop("traceparent", None)
        found.append((record.value, headers or (text and int(text[3:35], 16))))
    return found


@pytest.fixture(params=["generated", "plain"])
def settings(request: pytest.FixtureRequest) -> sf.Settings:
    return sf.Settings(plain=request.param == "plain", commit_min="0s")


async def sent(t: Any, stream: Any, *records: tuple[Any, int | None]) -> None:
    for value, number in records:
        headers = None if number is None else {"traceparent": parent(number)}
        await t.send(stream, value, headers=headers, settle=False)
    await t.settle()
    await t.advance("1s")


async def test_through_stateless_steps_splits_and_merges(settings):
    flow = sf.Flow("trace", settings=settings)
    words = flow.source(sf.MemoryTopic("words", value=str))
    letters = words.filter(lambda word: word != "none").flat_map(list)
    vowels, rest = letters.branch(lambda letter: letter in "aeiou", sf.otherwise)
    vowels.map(str.upper).merge(rest).to(sf.MemoryTopic("out", value=str))
    letters.to(sf.MemoryTopic("untyped"))
    async with flow.test() as t:
        await sent(t, words, ("ab", 1), ("none", 2), ("ce", None), ("d", 3), ("", 4), ("f", 5))
        expected = [("A", 1), ("b", 1), ("c", None), ("E", None), ("d", 3), ("f", 5)]
        assert outputs(t.topic("out")) == expected
        assert outputs(t.topic("untyped")) == [(value.lower(), number) for value, number in expected]


async def test_through_keyed_steps_and_batches_but_not_timers(settings):
    flow = sf.Flow("trace", settings=settings)
    words = flow.source(sf.MemoryTopic("words", value=str))
    keyed = words.map_batch(lambda batch: [word.strip() for word in batch]).key_by(lambda word: word[0])

    @keyed.process(state=list[str], name="kept")
    def kept(ctx: sf.Context[str, list[str]], word: str) -> Iterator[str]:
        ctx.state.append(word)
        ctx.timer("quiet", after="1m")
        yield f"{ctx.key}{len(ctx.state)}"

    @kept.on_timer("quiet")
    def quiet(ctx: sf.Context[str, list[str]]) -> Iterator[str]:
        assert ctx.headers == {}
        yield f"quiet {ctx.key}"

    kept.to(sf.MemoryTopic("out", value=str))
    kept.key_by(lambda text: text[0], name="again").count(name="n").map_batch(lambda batch: batch).to(
        sf.MemoryTopic("counts")
    )
    async with flow.test() as t:
        await sent(t, words, (" a1", 1), ("b1", None), ("a2 ", 2))
        await t.crash()
        await sent(t, words, ("a3", 3))
        await t.advance("2m")
        assert outputs(t.topic("out")) == [
            ("a1", 1), ("b1", None), ("a2", 2), ("a3", 3), ("quiet b", None), ("quiet a", None),
        ]  # fmt: skip
        assert [number for _, number in outputs(t.topic("counts"))] == [1, None, 2, 3, None, None]


async def test_a_batch_step_that_changes_the_number_of_records_carries_that_of_the_first(settings):
    flow = sf.Flow("trace", settings=settings)
    words = flow.source(sf.MemoryTopic("words", value=str))
    words.map_batch(lambda batch: ["".join(batch)] * 3).to(sf.MemoryTopic("out", value=str))
    async with flow.test() as t:
        await sent(t, words, ("a", 1))
        await sent(t, words, ("b", None))
        assert outputs(t.topic("out")) == [("a", 1)] * 3 + [("b", None)] * 3


async def test_keys_headers_and_states_of_the_user(settings):
    flow = sf.Flow("trace", settings=settings)
    words = flow.source(sf.MemoryTopic("words", value=str))
    out = sf.MemoryTopic("out", value=str)
    words.to(out, key=lambda word: word, headers=lambda word: {"w": word} if word != "own" else {"Traceparent": "mine"})
    words.to(sf.MemoryTopic("keyed", value=str), key=lambda word: word)
    async with flow.test() as t:
        for word in ("a", "own"):
            await t.send(words, word, headers={"traceparent": PARENT, "tracestate": "x=1", "w": "input", "z": "input"})
        await t.send(words, "b")
        await t.advance("1s")
        trace = {"traceparent": PARENT, "tracestate": "x=1"}
        found = [(record.key, record.headers) for record in t.topic("out").records]
        assert found == [(b"a", {**trace, "w": "a"}), (b"own", {"Traceparent": "mine"}), (b"b", {"w": "b"})]
        found = [(record.key, record.headers) for record in t.topic("keyed").records]
        assert found == [(b"a", trace), (b"own", trace), (b"b", None)]


async def test_several_sources_and_partitions(settings):
    flow = sf.Flow("trace", settings=settings)
    one = flow.source(sf.MemoryTopic("one", value=str, partitions=("x", "y")))
    two = flow.source(sf.MemoryTopic("two", value=str))
    one.merge(two).to(sf.MemoryTopic("out", value=str))
    async with flow.test() as t:
        await t.send(one, "a", partition="x", headers={"traceparent": parent(1)}, settle=False)
        await t.send(one, "b", partition="y", headers={"traceparent": parent(2)}, settle=False)
        await t.send(two, "c", settle=False)
        await t.send(two, "d", headers={"traceparent": parent(4)})
        await t.advance("1s")
        assert sorted(outputs(t.topic("out")), key=str) == [("a", 1), ("b", 2), ("c", None), ("d", 4)]


async def test_it_can_be_turned_off(settings):
    flow = sf.Flow("trace", settings=sf.Settings(trace_context=False))
    words = flow.source(sf.MemoryTopic("words", value=str))
    words.to(sf.MemoryTopic("out", value=str))
    async with flow.test() as t:
        await sent(t, words, ("a", 1))
        assert outputs(t.topic("out")) == [("a", None)]


async def test_frames_without_trace_are_what_they_are_in_other_numbers():
    """Else the same record would have other bytes, and its epoch another digest, when it is read with others."""
    for value in (dict[str, Any], str, None):
        log: list[bytes] = []
        for numbers in ((None, None), (None, 7)):
            flow = sf.Flow("trace")
            source = flow.source(sf.MemoryTopic("in"))
            source.to(sf.MemoryTopic("out", value=value) if value else sf.MemoryTopic("out"))
            async with flow.test() as t:
                made = [{"a": 1} if value is not str else "text"] * 2
                staging = t.engine.stagings["out"]
                chunks: list[Any] = []
                cut = staging._close

                def close(epoch: int, cut: Any = cut, chunks: Any = chunks, staging: Any = staging) -> None:
                    cut(epoch)
                    chunks.extend(staging._sealed[epoch].chunks)

                staging._close = close  # type: ignore[method-assign]
                await sent(t, source, *zip(made, numbers, strict=True))
                from streamflow.batch import unpack_frames

                log.append(b"".join(unpack_frames(chunks[0].payload)[:1]))
        assert log[0] == log[1], f"{value}"


async def test_errors_in_numbers_with_and_without_trace_name_step_and_record(settings):
    for numbers in ((1, None), (None, 1), (1, 2)):
        flow = sf.Flow("trace", settings=settings)
        words = flow.source(sf.MemoryTopic("words", value=str))
        words.map(lambda word: word).map(lambda word: 1 // len(word), name="divide").to(
            sf.MemoryTopic("out", value=int)
        )
        with pytest.raises(StepError, match=r"step 'divide' raised ZeroDivisionError.*before position 2"):  # noqa: PT012
            async with flow.test() as t:
                await sent(t, words, ("a", numbers[0]))
                await sent(t, words, ("", numbers[1]))


async def test_values_that_cannot_be_encoded_name_the_sink(settings):
    flow = sf.Flow("trace", settings=settings)
    words = flow.source(sf.MemoryTopic("words", value=str))
    words.map(lambda word: object() if word == "bad" else word).to(sf.MemoryTopic("out"), on_error=sf.skip)
    words.map(lambda word: object() if word == "worse" else word).to(sf.MemoryTopic("strict"))
    with pytest.raises(EncodeError, match="strict"):  # noqa: PT012
        async with flow.test() as t:
            await sent(t, words, ("a", 1), ("bad", 2), ("b", 3))
            assert outputs(t.topic("out")) == [("a", 1), ("b", 3)]
            await sent(t, words, ("worse", 4))


async def test_a_second_loop_is_compiled_only_for_traces():
    from streamflow.operators import fused

    flow = sf.Flow("trace-loops")
    words = flow.source(sf.MemoryTopic("words", value=str))
    words.to(sf.MemoryTopic("out", value=str))

    def kept() -> list[bool]:
        return [key[4] for key in fused._kept if key[0].flow == "trace-loops"]

    async with flow.test() as t:
        await sent(t, words, ("a", None))
        assert not any(kept())
        await t.send(words, "b", headers={"other": "x"})
        assert not any(kept())
        await sent(t, words, ("a", 1))
        assert any(kept())


def test_rows_without_place_have_the_users_headers_alone():
    from streamflow.batch import Fragment, MicroBatch

    rows = Fragment(MicroBatch(1, 0), ["a"], True)
    assert row_headers(SinkOptions(), rows) is None
    assert row_headers(SinkOptions(headers=lambda value: {"v": value}), rows) == [{"v": "a"}]
    assert json.dumps(row_headers(SinkOptions(), rows._replace(origins=[(0,)]))) == "null"
