"""Many outputs go into the store by statements of a bounded size: no one keeps the interpreter for long."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from streamflow.state.commit import STATEMENT_BYTES_MAX
from tests.unit.state.given import MANIFEST, chunk, epoch, new_store


async def test_large_chunks_go_in_one_by_one_and_small_ones_together(tmp_path: Path) -> None:
    large = [replace(chunk(1 + n, 1, index=n), payload=bytes(STATEMENT_BYTES_MAX * 2 // 3)) for n in range(3)]
    small = [chunk(4 + n, 1, index=3 + n) for n in range(100)]
    store = new_store(tmp_path / "flow.db")
    await store.open(MANIFEST)
    said: list[str] = []
    connection = store._connection
    assert connection is not None
    connection.set_trace_callback(lambda statement: said.append(statement[:20]))
    await store.commit(epoch(1, chunks=[*large, *small]))
    connection.set_trace_callback(None)
    assert said.count("INSERT INTO outbox(s") == 3, "two alone, and one with what is small behind it"
    await store.close()
    store = new_store(tmp_path / "flow.db")
    checkpoint = await store.open(MANIFEST)
    assert list(checkpoint.pending["alerts"]) == [*large, *small]
    await store.close()
