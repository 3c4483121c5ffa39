"""The pump: records without a payload, positions that move on without records, partitions that turn up later."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import streamflow as sf
from streamflow.batch import Partition, Position, SourceBatch, Taken
from streamflow.codecs import Codec, codec_for
from streamflow.connect.contracts import Guarantee, Level, Probe, Source, SourceContext
from streamflow.errors import DecodeError

_GUARANTEE = Guarantee(Level.EXACTLY_ONCE, "a script")


@dataclass
class Script:
    """A source spec that plays batches; it notes where it is told to resume, and what ``found`` pins at the start."""

    batches: Sequence[SourceBatch]
    nulls: bool = False
    found: Mapping[Partition, Position] = field(default_factory=dict)
    end: int = 0
    fails: bool = False
    resumed: list[dict[Partition, Position]] = field(default_factory=list)
    name: str = "script"
    guarantee: Guarantee = _GUARANTEE
    codec: Codec[Any] = field(default_factory=lambda: codec_for(str))

    def describe(self) -> str:
        return "a script"

    def source(self) -> Source:
        return ScriptedSource(self)


class ScriptedSource:
    """One reading of a script, from the position it is told."""

    guarantee = _GUARANTEE

    def __init__(self, script: Script) -> None:
        self._script = script
        self._batches: list[SourceBatch] = []

    async def probe(self) -> Probe:
        return Probe(True)

    async def open(self, ctx: SourceContext, resume: Mapping[Partition, Position]) -> Mapping[Partition, Position]:
        self._script.resumed.append(dict(resume))
        self._ctx = ctx
        self._batches = [
            batch
            for batch in self._script.batches
            if batch.partition not in resume or batch.end > resume[batch.partition].at
        ]
        return {"p": resume.get("p", Position(0, "i"))}

    async def read(self) -> SourceBatch | None:
        if self._script.found:
            await self._ctx.pin(self._script.found)
        if self._script.fails:
            raise ZeroDivisionError("dies before it hands out a record")
        return self._batches.pop(0) if self._batches else None

    async def ends(self) -> Mapping[Partition, Position | None]:
        return {"p": Position(self._script.end, "i")}

    def pause(self, partitions: Set[Partition]) -> None: ...

    async def committed(self, epoch: int, taken: Taken) -> None: ...

    async def close(self) -> None: ...


def records(*payloads: bytes | None, start: int = 0, resume: int | None = None) -> SourceBatch:
    positions = range(start + 1, start + len(payloads) + 1)
    return SourceBatch("p", list(payloads), positions, identity="i", resume=resume)


async def run(tmp_path: Path, script: Script, out: sf.MemoryTopic[Any] | None = None, **options: Any) -> list[Any]:
    out = sf.MemoryTopic("out") if out is None else out
    flow = sf.Flow("scripted", state=tmp_path / "scripted.db")
    flow.source(script, **options).to(out)
    await asyncio.wait_for(flow.run(), 20)
    return list(out.values)


async def test_a_missing_payload_is_none_where_nulls_are_taken(tmp_path: Path) -> None:
    assert await run(tmp_path, Script([records(b"a", None, b"", b"b"), records(None, start=4)], nulls=True)) == [
        "a",
        None,
        "",
        "b",
        None,
    ]


async def test_a_missing_payload_is_refused_elsewhere_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(DecodeError, match=r"'script'.*partition 'p', before position 2: it has no value") as refused:
        await run(tmp_path, Script([records(b"a", None, b"b")]))
    assert "nulls=True" in refused.value.hint


async def test_a_missing_payload_is_left_out_on_demand(tmp_path: Path) -> None:
    assert await run(tmp_path, Script([records(b"a", None, b"b")]), on_error=sf.skip) == ["a", "b"]


async def test_an_undecodable_payload_among_nulls_is_found(tmp_path: Path) -> None:
    with pytest.raises(DecodeError, match=r"before position 3.*bytes b'\\xff'"):
        await run(tmp_path, Script([records(b"a", None, b"\xff")], nulls=True))


async def test_a_position_moves_on_without_records(tmp_path: Path) -> None:
    first = Script([records(b"a", b"b", resume=3), SourceBatch("p", [], [], identity="i", resume=7)])
    out: sf.MemoryTopic[Any] = sf.MemoryTopic("out")
    assert await run(tmp_path, first, out) == ["a", "b"]
    then = Script([records(b"c", start=7)])
    assert await run(tmp_path, then, out) == ["a", "b", "c"]
    assert then.resumed == [{"p": Position(7, "i")}]


async def test_a_cut_batch_moves_on_with_its_last_part_only() -> None:
    batch = records(b"a", b"b", resume=5)
    assert [batch.end, batch.cut(0, 1).end, batch.cut(1, 2).end] == [5, 1, 5]


async def test_timers_wait_no_longer_than_for_the_end_without_records(tmp_path: Path) -> None:
    fired = asyncio.Event()

    class Watching(ScriptedSource):
        async def read(self) -> SourceBatch | None:
            if self._batches:
                return self._batches.pop(0)
            await fired.wait()
            return None

    class Watched(Script):
        def source(self) -> Source:
            return Watching(self)

    script = Watched([records(b"a"), SourceBatch("p", [], [], identity="i", resume=4)], end=4)
    flow = sf.Flow("timed", state=tmp_path / "timed.db")

    @flow.source(script).key_by(str).process(state=dict)
    def quiet(ctx: sf.Context[str, dict[str, int]], word: str) -> None:
        ctx.timer("quiet", after="1ms")

    @quiet.on_timer("quiet")
    def note(ctx: sf.Context[str, dict[str, int]]) -> None:
        fired.set()

    await asyncio.wait_for(flow.run(), 20)
    assert fired.is_set()


async def test_a_partition_found_later_is_stored_before_its_first_record(tmp_path: Path) -> None:
    dying = Script([], found={"q": Position(0, "j")}, fails=True)
    with pytest.raises(ZeroDivisionError):
        await run(tmp_path, dying)
    then = Script([SourceBatch("q", [b"x"], [1], identity="j")])
    assert await run(tmp_path, then) == ["x"]
    assert then.resumed == [{"p": Position(0, "i"), "q": Position(0, "j")}]


async def test_a_pin_never_moves_what_was_taken(tmp_path: Path) -> None:
    again = Script([records(b"a", b"b")], found={"p": Position(0, "i")})
    out: sf.MemoryTopic[Any] = sf.MemoryTopic("out")
    assert await run(tmp_path, again, out) == ["a", "b"]
    then = Script([])
    await run(tmp_path, then, out)
    assert then.resumed == [{"p": Position(2, "i")}]


async def test_a_position_moves_on_without_records_and_without_event_times(tmp_path: Path) -> None:
    first = Script([SourceBatch("p", [], [], identity="i", resume=2), records(b"7", b"8", start=2, resume=6)], end=6)
    out: sf.MemoryTopic[Any] = sf.MemoryTopic("out")
    assert await run(tmp_path, first, out, time=int, lateness="1s") == ["7", "8"]
    then = Script([SourceBatch("p", [], [], identity="i", resume=9)], end=9)
    await run(tmp_path, then, out, time=int, lateness="1s")
    assert then.resumed == [{"p": Position(6, "i")}]
    last = Script([], end=9)
    await run(tmp_path, last, out, time=int, lateness="1s")
    assert last.resumed == [{"p": Position(9, "i")}]
