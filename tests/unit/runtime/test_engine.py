"""The engine on memory connectors: failing sinks and sources, restarts, stops, back-pressure, errors."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

import streamflow as sf
from streamflow.errors import (
    DecodeError,
    EncodeError,
    Fenced,
    IncompatibleStateError,
    SinkAhead,
    StateLockedError,
    StepError,
    Unavailable,
)
from streamflow.state.fold import Folder


class Seen(sf.Instrument):
    """Keeps what the engine tells."""

    def __init__(self) -> None:
        self.failed: list[tuple[str, str]] = []
        self.restarts: list[Exception] = []
        self.epochs: list[int] = []
        self.left_out: list[str] = []
        self.stalls: list[str] = []

    def connector_failed(self, kind: str, name: str, error: Exception, retry_in_seconds: float) -> None:
        self.failed.append((kind, name))

    def restarting(self, error: Exception, retry_in_seconds: float) -> None:
        self.restarts.append(error)

    def committed(self, epoch: int, records: int, size_bytes: int, seconds: float) -> None:
        self.epochs.append(epoch)

    def stalled(self, reason: str) -> None:
        self.stalls.append(reason)

    def skipped(self, step: str, place: str, error: Exception) -> None:
        self.left_out.append(f"{step}: {place}")


async def until(condition: Callable[[], object], seconds: float = 10) -> None:
    """Waits for something that other tasks do."""
    for _ in range(int(seconds * 200)):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it did not happen")


def counts_are(topic: sf.MemoryTopic[tuple[str, int]], number: int) -> bool:
    return len(topic) == number


def counting(folder: Path, source: sf.MemoryTopic[str], sink: sf.MemoryTopic[tuple[str, int]]) -> sf.Flow:
    flow = sf.Flow("counting", state=folder / "counting.db")
    flow.source(source).key_by(lambda word: word).count(name="counted").to(sink)
    return flow


def topics() -> tuple[sf.MemoryTopic[str], sf.MemoryTopic[tuple[str, int]]]:
    return sf.MemoryTopic("words", value=str), sf.MemoryTopic("counts", value=tuple[str, int])


async def test_a_bounded_flow_ends_by_itself(tmp_path: Path) -> None:
    words, counts = topics()
    words.send_all(["a", "b", "a"])
    words.close_input()
    await counting(tmp_path, words, counts).run()
    assert counts.values == [("a", 1), ("b", 1), ("a", 2)]


async def test_the_next_run_goes_on(tmp_path: Path) -> None:
    words, counts = topics()
    for number in range(1, 4):
        words.send("a")
        async with counting(tmp_path, words, counts).running():
            await until(partial(counts_are, counts, number))
    assert counts.values == [("a", 1), ("a", 2), ("a", 3)]


async def test_a_sink_that_is_away_stops_nobody(tmp_path: Path) -> None:
    words, counts = topics()
    other: sf.MemoryTopic[str] = sf.MemoryTopic("other", value=str)
    flow = counting(tmp_path, words, counts)
    flow.source(sf.MemoryTopic("unused", value=str))
    words_again = flow.source(words, name="words-again")
    words_again.to(other)
    seen = Seen()
    counts.unreachable = True
    async with flow.running(seen):
        words.send_all(["a", "b"])
        await until(lambda: other.values == ["a", "b"])
        assert counts.values == []
        await until(lambda: ("sink", "counts") in seen.failed)
        counts.unreachable = False
        await until(lambda: counts.values == [("a", 1), ("b", 1)])
    assert not seen.restarts


@pytest.mark.parametrize("stored", [0, 1, 2, None])
async def test_an_unknown_outcome_is_looked_up(tmp_path: Path, stored: int | None) -> None:
    words, counts = topics()
    counts.fail_next_publish(Unavailable("the acknowledgement was lost"), after=stored)
    words.send_all(["a", "b", "c", "a"])
    words.close_input()
    await counting(tmp_path, words, counts).run()
    assert counts.values == [("a", 1), ("b", 1), ("c", 1), ("a", 2)]


async def test_a_source_that_comes_back_goes_on(tmp_path: Path) -> None:
    words, counts = topics()
    seen = Seen()
    async with counting(tmp_path, words, counts).running(seen):
        words.send("a")
        await until(lambda: len(counts.values) == 1)
        words.unreachable = True
        await until(lambda: ("source", "words") in seen.failed)
        words.unreachable = False
        words.send("a")
        await until(lambda: counts.values == [("a", 1), ("a", 2)])
    assert not seen.restarts


async def test_a_queue_that_comes_back_restarts_the_shard(tmp_path: Path) -> None:
    words: sf.MemoryTopic[str] = sf.MemoryTopic("words", value=str, ids=True)
    counts = topics()[1]
    seen = Seen()
    async with counting(tmp_path, words, counts).running(seen):
        words.send("a")
        await until(lambda: len(counts.values) == 1)
        words.unreachable = True
        await until(lambda: seen.restarts)
        words.unreachable = False
        words.send("a")
        await until(lambda: counts.values == [("a", 1), ("a", 2)])


async def test_fenced_once_restarts_and_twice_stops(tmp_path: Path) -> None:
    words, counts = topics()
    seen = Seen()
    counts.fail_next_publish(Fenced("somebody else"), after=0)

    async def fenced_twice() -> None:
        async with counting(tmp_path, words, counts).running(seen):
            words.send("a")
            await until(lambda: counts.values == [("a", 1)])
            assert len(seen.restarts) == 1
            counts.fail_next_publish(Fenced("somebody else"), after=0)
            words.send("a")
            await asyncio.sleep(5)

    with pytest.raises(Fenced):
        await fenced_twice()
    assert len(seen.restarts) == 1


async def test_the_body_is_cancelled_and_the_error_raised_when_the_flow_dies(tmp_path: Path) -> None:
    words: sf.MemoryTopic[str] = sf.MemoryTopic("words", value=str)
    flow = sf.Flow("dying", state=tmp_path / "dying.db")
    flow.source(words).map(lambda word: 1 / len(word), name="inverse")

    async def host() -> None:
        async with flow.running():
            words.send("")
            await asyncio.sleep(5)

    with pytest.raises(StepError, match=r"step 'inverse' raised ZeroDivisionError.*source 'words'.*position 1"):
        await host()


async def test_an_old_store_is_refused(tmp_path: Path) -> None:
    words, counts = topics()
    words.send("a")
    async with counting(tmp_path, words, counts).running():
        await until(lambda: len(counts.values) == 1)
    saved = {path: path.read_bytes() for path in tmp_path.iterdir()}
    words.send("b")
    async with counting(tmp_path, words, counts).running():
        await until(lambda: len(counts.values) == 2)
    for path in tmp_path.iterdir():
        path.unlink()
    for path, content in saved.items():
        path.write_bytes(content)
    with pytest.raises(SinkAhead):
        await asyncio.wait_for(counting(tmp_path, words, counts).run(), 5)
    assert counts.values == [("a", 1), ("b", 1)]


async def test_two_flows_on_one_state_file(tmp_path: Path) -> None:
    words, counts = topics()
    other = sf.Flow("other", state=tmp_path / "counting.db")
    other.source(words).map(lambda word: (word, 1), name="pairs").to(counts)
    async with counting(tmp_path, words, counts).running():
        with pytest.raises(StateLockedError) as refused:
            await other.run()
    assert refused.value.hint


async def test_a_changed_graph_is_refused(tmp_path: Path) -> None:
    words, counts = topics()
    words.send("a")
    async with counting(tmp_path, words, counts).running():
        await until(lambda: len(counts.values) == 1)
    flow = sf.Flow("counting", state=tmp_path / "counting.db")
    flow.source(words).key_by(lambda word: word).count(name="renamed").to(counts)
    with pytest.raises(IncompatibleStateError, match="counted") as refused:
        await flow.run()
    assert "drop" in refused.value.hint


async def test_undecodable_bytes_stop_or_are_left_out(tmp_path: Path) -> None:
    words, counts = topics()
    words.send("a")
    words.send_bytes(b"\xff\xfe")
    words.send("b")
    words.close_input()
    with pytest.raises(DecodeError, match=r"source 'words'.*before position 2"):
        await counting(tmp_path, words, counts).run()
    flow = sf.Flow("skipping", state=tmp_path / "skipping.db")
    flow.source(words, on_error=sf.skip).key_by(lambda word: word).count(name="counted").to(counts)
    await flow.run()
    assert counts.values == [("a", 1), ("b", 1)]


async def test_what_a_sink_cannot_encode_stops_or_is_left_out(tmp_path: Path) -> None:
    values: sf.MemoryTopic[object] = sf.MemoryTopic("values")
    out: sf.MemoryTopic[str] = sf.MemoryTopic("out", value=str)
    for value in ("a", 5, "b"):
        values.send(value)
    values.close_input()
    flow = sf.Flow("strict", state=tmp_path / "strict.db")
    flow.source(values).to(out)  # type: ignore[arg-type]
    with pytest.raises(EncodeError, match="sink 'out' cannot encode 5"):
        await flow.run()
    flow = sf.Flow("lax", state=tmp_path / "lax.db")
    flow.source(values).to(out, on_error=sf.skip)  # type: ignore[arg-type]
    await flow.run()
    assert out.values == ["a", "b"]


@pytest.mark.parametrize("plain", [False, True])
async def test_a_value_that_the_loop_cannot_encode_is_told_with_its_place(tmp_path: Path, plain: bool) -> None:
    values: sf.MemoryTopic[object] = sf.MemoryTopic("values")
    out: sf.MemoryTopic[object] = sf.MemoryTopic("out")
    for value in (1, {"two": 2}, {3: {4, object}}):
        values.send(value)
    values.close_input()
    flow = sf.Flow("inline", state=tmp_path / "inline.db", settings=sf.Settings(plain=plain))
    flow.source(values).to(out)
    with pytest.raises(EncodeError, match=r"sink 'out' cannot encode \{3: .*source 'values'.*before position 3"):
        await flow.run()
    values.truncate_from(2)
    await flow.run()
    assert out.values == [1, {"two": 2}]


async def test_a_full_outbox_stops_intake_and_nothing_else(tmp_path: Path) -> None:
    words, counts = topics()
    settings = sf.Settings(outbox_bytes_max=2000, commit_min="1ms")
    flow = sf.Flow("full", state=tmp_path / "full.db", settings=settings)
    flow.source(words).key_by(lambda word: word).count(name="counted").to(counts)
    counts.unreachable = True
    seen = Seen()
    async with flow.running(seen) as run:
        for _ in range(100):
            words.send_all(["a"] * 20)
            await asyncio.sleep(0.003)
        await until(lambda: run.engine.intake.stall)
        taken = run.engine.intake.pumps[0].buffered
        assert taken > 0
        assert "counts" in run.engine.intake.stall
        assert len(seen.stalls) == 1
        assert "counts" in seen.stalls[0]
        counts.unreachable = False
        await until(lambda: len(counts.values) == 2000)


async def test_changes_that_are_not_folded_stop_intake_before_they_are_too_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words, counts = topics()
    limit, block = 200_000, 1_000
    settings = sf.Settings(fold_debt_bytes_max=limit, commit_min="0ms")
    flow = sf.Flow("debts", state=tmp_path / "debts.db", settings=settings)
    flow.source(words).key_by(lambda word: word).count(name="counted").to(counts)
    seen, folds, sent = Seen(), Folder.slice, 0
    monkeypatch.setattr(Folder, "slice", lambda folder, connection, idle: False)
    async with flow.running(seen) as run:
        while not seen.stalls:
            words.send_all(f"word-{at}" for at in range(sent, sent + block))
            sent += block
            await until(lambda: len(counts) == len(words) or seen.stalls)
            assert sent < 50 * block, "nothing stops it"
        assert "not folded into rows" in seen.stalls[0]
        await asyncio.sleep(0.05)
        held = len(counts)
        words.send_all(f"word-{at}" for at in range(sent, sent + 20 * block))
        sent += 20 * block
        await asyncio.sleep(0.1)
        assert len(counts) == held, "intake takes nothing while too much waits to be folded"
        # what one block changes more than the limit is all that came on top
        assert limit <= run.engine.job.store.fold_debt_bytes < limit + 100 * block
        monkeypatch.setattr(Folder, "slice", folds)
        await until(lambda: len(counts) == sent, seconds=30)


async def test_a_full_epoch_does_not_wait(tmp_path: Path) -> None:
    words, counts = topics()
    settings = sf.Settings(commit_min="5s", commit_max="60s", epoch_records_max=500)
    flow = sf.Flow("records", state=tmp_path / "records.db", settings=settings)
    flow.source(words).key_by(lambda word: word).count(name="counted").to(counts)
    seen = Seen()
    async with flow.running(seen):
        words.send("first")
        await until(lambda: len(counts) == 1)
        words.send_all(["a"] * 400)
        await asyncio.sleep(0.1)
        assert len(counts) == 1
        words.send_all(["a"] * 200)
        await until(lambda: len(counts) == 601, seconds=2)


async def test_push_table_and_subscribe(tmp_path: Path) -> None:
    words, counts = topics()
    flow = sf.Flow("host", state=tmp_path / "host.db")
    source = flow.source(words)
    counted = source.key_by(lambda word: word).count(name="counted")
    counted.to(counts)
    async with flow.running() as run:
        heard: list[tuple[str, int]] = []

        async def listen() -> None:
            async for item in run.subscribe(counted):
                heard.append(item)  # noqa: PERF401 - looked at while it grows

        listening = asyncio.create_task(listen())
        await asyncio.sleep(0)
        epochs = [await run.push(source, word) for word in ("a", "a", "b")]
        assert epochs == sorted(epochs)
        assert await run.table(counted).get("a") == 2
        assert await run.table(counted).get("nobody") is None
        await until(lambda: heard == [("a", 1), ("a", 2), ("b", 1)])
        assert counts.values[:2] == [("a", 1), ("a", 2)]
        listening.cancel()
    async with flow.running() as run:
        assert await run.table(counted).get("a") == 2
        await run.push(source, "a")
        assert await run.table(counted).get("a") == 3


async def test_cancelling_run_drains_and_commits(tmp_path: Path) -> None:
    words, counts = topics()
    words.send_all(["a"] * 100)
    task = asyncio.create_task(counting(tmp_path, words, counts).run())
    await until(lambda: counts.values)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    words.close_input()
    await counting(tmp_path, words, counts).run()
    assert counts.values == [("a", number) for number in range(1, 101)]


async def test_nothing_is_left_behind(tmp_path: Path) -> None:
    for life in range(5):
        words, counts = topics()
        words.send("a")
        folder = tmp_path / str(life)
        folder.mkdir()
        async with counting(folder, words, counts).running():
            pass
    assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []
