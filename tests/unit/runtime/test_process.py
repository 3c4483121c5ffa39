"""The collector rests while state is loaded, and is as it was afterwards."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

import streamflow as sf
from streamflow.runtime.process import paused_collector
from streamflow.state.keyed import Table


@pytest.mark.parametrize("enabled", [True, False])
def test_it_is_left_as_it_was(enabled: bool) -> None:
    (gc.enable if enabled else gc.disable)()
    try:
        with paused_collector():
            assert not gc.isenabled()
        assert gc.isenabled() == enabled
    finally:
        gc.enable()


async def test_a_flow_loads_without_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[bool] = []
    install = Table.install

    def watched(self: Table[int], *arguments: object) -> None:
        loads.append(gc.isenabled())
        install(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Table, "install", watched)
    words: sf.MemoryTopic[str] = sf.MemoryTopic("words", value=str)
    words.send_all(["a", "b"])
    words.close_input()
    flow = sf.Flow("counting", state=tmp_path / "counting.db")
    flow.source(words).key_by(lambda word: word).count(name="counted").to(
        sf.MemoryTopic("counts", value=tuple[str, int])
    )
    await flow.run()
    await flow.run()
    assert loads
    assert not any(loads)
    assert gc.isenabled()
