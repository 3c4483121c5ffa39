"""Outputs that are encoded as lines, many by one call: the same records and digests however they come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

import streamflow as sf
from streamflow.batch import LINES, Chunk, Progress
from streamflow.connect.memory_sink import MemorySink
from streamflow.errors import EncodeError, FoundLate
from streamflow.plan import make_plan
from streamflow.runtime.engine import Engine, Job
from streamflow.state.sqlite import SqliteStore

CALM = sf.Settings(commit_min="1m", commit_max="1m")
SETTINGS = {
    "whole": CALM,
    "row by row": replace(CALM, plain=True),
    "in small chunks": replace(CALM, plain=True, chunk_bytes=50),
    "spilled": replace(CALM, epoch_bytes_max=400, chunk_bytes=30),
}
ON_TWO_LINES = msgspec.Raw(b'{"n":\n1}')


def flow_of(values: Sequence[Any], path: Path, settings: sf.Settings) -> tuple[sf.Flow, sf.MemoryTopic[Any]]:
    source: sf.MemoryTopic[Any] = sf.MemoryTopic("values")
    out: sf.MemoryTopic[Any] = sf.MemoryTopic("out")
    source.send_all(values)
    source.close_input()
    flow = sf.Flow("lines", state=path, settings=settings)
    flow.source(source).map(lambda value: value, name="same").to(out)
    return flow, out


async def digest_of(flow: sf.Flow, path: Path) -> bytes:
    job = Job(make_plan(flow.graph()), SqliteStore(path))
    checkpoint = await job.store.open(job.manifest(Engine(job).bound))
    await job.store.close()
    return checkpoint.digest


@pytest.fixture
def packed(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Per chunk that is published, whether it holds lines."""
    found: list[bool] = []
    publish = MemorySink.publish

    async def watched(self: MemorySink, chunks: Sequence[Chunk], at: Progress) -> Progress:
        found.extend(bool(int.from_bytes(chunk.payload[:4], "little") & LINES) for chunk in chunks)
        return await publish(self, chunks, at)

    monkeypatch.setattr(MemorySink, "publish", watched)
    return found


async def test_many_rows_are_lines_and_come_back(tmp_path: Path, packed: list[bool]) -> None:
    values = [{"n": n, "text": "a\nb"} for n in range(5_000)]
    flow, out = flow_of(values, tmp_path / "flow.db", sf.Settings(chunk_bytes=10_000))
    await flow.run()
    assert out.values == values
    assert packed, "nothing was published"
    assert all(packed)


@pytest.mark.parametrize("special", [(), (0,), (7, 8, 20, 59)], ids=["none", "first", "some"])
async def test_the_digest_is_the_same_however_rows_come(
    tmp_path: Path, packed: list[bool], special: Sequence[int]
) -> None:
    values: list[Any] = [ON_TWO_LINES if n in special else {"n": n} for n in range(60)]
    digests = set()
    for name, settings in SETTINGS.items():
        path = tmp_path / f"{name}.db"
        flow, out = flow_of(values, path, settings)
        await flow.run()
        assert out.values == [{"n": 1} if n in special else {"n": n} for n in range(60)]
        digests.add(await digest_of(flow, path))
    assert len(digests) == 1
    assert set(packed) == ({True, False} if special else {True})


class Restarts(sf.Instrument):
    """Keeps why the flow went back to its checkpoint."""

    def __init__(self) -> None:
        self.errors: list[Exception] = []

    def restarting(self, error: Exception, retry_in_seconds: float) -> None:
        self.errors.append(error)


async def test_a_row_that_cannot_be_a_line_is_found_by_a_careful_life(tmp_path: Path) -> None:
    flow, out = flow_of([{"n": n} for n in range(100)] + [{"n": object}], tmp_path / "flow.db", sf.Settings())
    seen = Restarts()
    with pytest.raises(EncodeError, match=r"sink 'out' cannot encode .*source 'values'.*before position 101") as told:
        await flow.run(seen)
    assert not isinstance(told.value, FoundLate)
    assert [type(error) for error in seen.errors] == [FoundLate]
    assert "cannot encode {'n': <class 'object'>}" in str(seen.errors[0])
    assert out.values in ([], [{"n": n} for n in range(100)]), "what the careful life commits is whole"
