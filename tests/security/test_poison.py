"""Poison (S2, S3, S5): records that cannot be taken stop the flow at their exact place, or are left out and counted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import msgspec
import pytest

import streamflow as sf
from streamflow.errors import DecodeError, Fenced, StepError, Unavailable
from tests.brokers import NatsServer


@dataclass
class Order:
    user: str
    amount: int


class Point(msgspec.Struct):
    user: str
    amount: int


class Row(TypedDict):
    user: str
    amount: int


KINDS: dict[str, Any] = {
    "dataclass": Order, "struct": Point, "typeddict": Row, "dict": dict[str, Any], "tuple": tuple[str, int], "any": Any,
    "str": str,
}  # fmt: skip

BAD_JSON = {
    "deep lists": b"[" * 100_000, "deep objects": b'{"a":' * 100_000, "nan": b'{"user":"a","amount":NaN}',
    "infinity": b"-Infinity", "huge float": b'{"user":"a","amount":1e400}', "empty": b"", "bom": b"\xef\xbb\xbf{}",
    "utf-8": b'"\xff\xfe"', "surrogate": b'{"user":"\\ud800","amount":1}', "half": b'{"user":', "two": b"{} {}",
    "control": b'"\x01"', "digits": b"9" * 10_000, "utf-16": '{"a":1}'.encode("utf-16"), "single": b"{'a':1}",
}  # fmt: skip


class Seen(sf.Instrument):
    """Counts what is left out, and restarts."""

    def __init__(self) -> None:
        self.left_out: list[tuple[str, str]] = []
        self.restarts = 0
        self.failed: list[float] = []

    def skipped(self, step: str, place: str, error: Exception) -> None:
        self.left_out.append((step, str(error)))

    def restarting(self, error: Exception, retry_in_seconds: float) -> None:
        self.restarts += 1

    def connector_failed(self, kind: str, name: str, error: Exception, retry_in_seconds: float) -> None:
        self.failed.append(retry_in_seconds)


def topic(kind: Any, *payloads: bytes) -> sf.MemoryTopic[Any]:
    made: sf.MemoryTopic[Any] = sf.MemoryTopic("orders", value=kind)
    for payload in payloads:
        made.send_bytes(payload)
    made.close_input()
    return made


def bad_for(name: str) -> dict[str, bytes]:
    return {"utf-8": b"\xff\xfe", "surrogate": b"\xed\xa0\x80"} if name == "str" else BAD_JSON


GOOD = b'{"user":"ann","amount":1}'


@pytest.mark.parametrize("name", KINDS)
async def test_every_kind_of_bad_record_stops_the_flow_at_its_place(name: str, tmp_path: Path, long_run: bool) -> None:
    good = {"tuple": b'["ann",1]'}.get(name, GOOD)
    bad = bad_for(name)
    some = bad if long_run or name == "dataclass" else dict(list(bad.items())[:3])
    for at, (what, payload) in enumerate(some.items()):
        flow = sf.Flow("stops", state=tmp_path / f"{at}.db")
        flow.source(topic(KINDS[name], good, payload, good)).to(sf.MemoryTopic("out"))
        seen = Seen()
        with pytest.raises(DecodeError, match=r"source 'orders' cannot decode the record before position 2: ") as error:
            await flow.run(seen)
        assert error.value.hint and len(str(error.value)) < 600, what
        assert seen.restarts == 0


@pytest.mark.parametrize("name", KINDS)
async def test_every_kind_of_bad_record_is_left_out_and_counted(name: str, tmp_path: Path) -> None:
    good = {"tuple": b'["ann",1]'}.get(name, GOOD)
    bad = bad_for(name)
    out: sf.MemoryTopic[Any] = sf.MemoryTopic("out")
    flow = sf.Flow("skips", state=tmp_path / "skips.db")
    flow.source(topic(KINDS[name], good, *bad.values(), good), on_error=sf.skip).to(out)
    seen = Seen()
    await flow.run(seen)
    assert len(out.values) == 2
    assert [step for step, _ in seen.left_out] == ["orders"] * len(bad)
    for at, (_, told) in enumerate(seen.left_out):
        assert f"before position {at + 2}: " in told


async def test_integers_above_64_bits_stay_exact(tmp_path: Path) -> None:
    big = 2**64 + 1
    out: sf.MemoryTopic[Any] = sf.MemoryTopic("out")
    flow = sf.Flow("big", state=tmp_path / "big.db")
    orders = flow.source(topic(Order, b'{"user":"ann","amount":%d}' % big))
    orders.key_by(lambda order: order.user).aggregate(int, lambda total, order: total + order.amount, name="sum").to(
        out
    )
    await flow.run()
    assert out.values == [["ann", big]]
    async with flow.running() as run:
        assert run.engine.tables["sum"].peek("ann") == big


async def test_of_duplicate_names_the_last_counts(tmp_path: Path) -> None:
    out: sf.MemoryTopic[Any] = sf.MemoryTopic("out")
    flow = sf.Flow("twice", state=tmp_path / "twice.db")
    flow.source(topic(Order, b'{"user":"a","amount":1,"user":"b"}')).map(lambda order: order.user).to(out)
    await flow.run()
    assert out.values == ["b"]


@pytest.mark.parametrize("lie", [Unavailable("like a lost connection"), Fenced("like a rival")])
@pytest.mark.parametrize("plain", [False, True])
async def test_a_step_that_raises_a_connectors_error_restarts_nothing(
    tmp_path: Path, plain: bool, lie: Exception
) -> None:
    """While another source lets epochs commit, such a restart would never count as one without progress."""

    def step(word: str) -> str:
        if word == "poison":
            raise lie
        return word

    poisoned, other = sf.MemoryTopic("poisoned", value=str), sf.MemoryTopic("other", value=str)
    out = sf.MemoryTopic("out", value=str)
    poisoned.send("poison")
    flow = sf.Flow("lies", state=tmp_path / "lies.db", settings=sf.Settings(commit_min="0ms", plain=plain))
    flow.source(poisoned).merge(flow.source(other)).map(step).to(out)

    async def keep_committing() -> None:
        while True:
            other.send("fine")
            await asyncio.sleep(0.002)

    feeding = asyncio.create_task(keep_committing())
    seen = Seen()
    try:
        with pytest.raises(StepError, match=r"step 'step' raised .*like a.*source 'poisoned', the record before pos"):
            async with asyncio.timeout(10):
                await flow.run(seen)
    finally:
        feeding.cancel()
    assert seen.restarts == 0


async def test_the_place_is_the_same_at_each_start(tmp_path: Path) -> None:
    def step(word: str) -> str:
        if word == "poison":
            raise ValueError("no")
        return word

    words, out = sf.MemoryTopic("words", value=str), sf.MemoryTopic("out", value=str)
    words.send_all([*("fine" for _ in range(1000)), "poison", "behind"])
    words.close_input()
    flow = sf.Flow("again", state=tmp_path / "again.db")
    flow.source(words).map(step).to(out)
    told = set()
    for _ in range(3):
        with pytest.raises(StepError) as caught:
            await flow.run()
        told.add(str(caught.value))
    assert len(told) == 1
    assert "step 'step' raised ValueError: no at test_poison.py:" in told.pop()
    assert set(out.values) <= {"fine"}
    assert len(out.values) <= 1000


# -- too large --


async def test_what_is_too_large_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    class Watching:
        name = "watching"
        largest = 0

        def decode(self, data: bytes) -> str:
            self.largest = max(self.largest, len(data))
            return data.decode()

        def encode(self, value: str) -> bytes:
            return value.encode()

    codec, out = Watching(), sf.MemoryTopic("out", value=str)
    settings = sf.Settings(message_bytes_max=1000)
    flow = sf.Flow("large", state=tmp_path / "large.db", settings=settings)
    flow.source(topic(codec, b"a", b"x" * 1001, b"y" * 1000), on_error=sf.skip).to(out)
    seen = Seen()
    await flow.run(seen)
    assert out.values == ["a", "y" * 1000]
    assert codec.largest == 1000
    assert "larger than message_bytes_max = 1000 bytes" in seen.left_out[0][1]
    flow = sf.Flow("refuses", state=tmp_path / "refuses.db", settings=settings)
    flow.source(topic(codec, b"a", b"x" * 1001)).to(sf.MemoryTopic("out"))
    with pytest.raises(DecodeError, match=r"before position 2: it is larger than message_bytes_max = 1000 bytes"):
        await flow.run()
    assert codec.largest == 1000


async def run_file(
    folder: Path, policy: sf.OnError, limit: int, out: sf.MemoryTopic[str], seen: Seen | None = None
) -> list[str]:
    flow = sf.Flow(f"file-{policy}", state=folder / f"{policy}.db", settings=sf.Settings(message_bytes_max=limit))
    flow.source(sf.lines(folder / "in.txt"), on_error=policy).to(out)
    await flow.run(seen)
    return out.values


@pytest.mark.parametrize("end", [b"", b"\n", b"\nlast"])
@pytest.mark.parametrize("long", [101, 5000, 300_000, 3_000_000])
async def test_a_long_line_of_a_file_is_left_out_and_not_held(tmp_path: Path, long: int, end: bytes) -> None:
    content = b"first\n" + b"x" * long + b"\nmiddle\n" + b"y" * long + end
    (tmp_path / "in.txt").write_bytes(content)
    seen, out = Seen(), sf.MemoryTopic("out", value=str)
    expected = ["first", "middle", *([] if end != b"\nlast" else ["last"])]
    assert await run_file(tmp_path, sf.skip, 100, out, seen) == expected
    assert len(seen.left_out) == 2
    assert f"before position {7 + long}: it is larger" in seen.left_out[0][1]
    assert await run_file(tmp_path, sf.skip, 100, out) == expected, "the position is behind the end"
    with pytest.raises(DecodeError, match="the line that starts at byte 6 is longer than 100 bytes") as caught:
        await run_file(tmp_path, sf.stop, 100, sf.MemoryTopic("out", value=str))
    assert "sf.skip" in caught.value.hint


async def test_of_a_line_without_end_only_so_much_is_held(tmp_path: Path) -> None:
    from streamflow.connect.file_source import SLICE_BYTES, FileSource
    from tests.connectors.nats.kit import source_context

    (tmp_path / "in.txt").write_bytes(b"x" * (SLICE_BYTES * 20 + 17) + b"\nend\n")
    source: Any = sf.lines(tmp_path / "in.txt").source()
    assert isinstance(source, FileSource)
    await source.open(source_context(message_bytes_max=1000, leaves_out=True), {})
    held = []
    take = source._take

    def watched(part: Any) -> bool:
        answer = take(part)
        held.append(len(source._rest) + sum(map(len, source._lines)))
        return answer

    source._take = watched  # type: ignore[method-assign]
    batch = await source.read()
    assert batch is not None
    assert [len(line) for line in batch.payloads] == [1001, 3]
    assert list(batch.positions or ()) == [SLICE_BYTES * 20 + 18, SLICE_BYTES * 20 + 22]
    assert len(held) > 20
    assert max(held) < 2 * SLICE_BYTES
    await source.close()


@pytest.mark.parametrize("retention", ["limits", "workqueue"])
async def test_a_large_nats_message_is_refused_or_left_out(tmp_path: Path, retention: str) -> None:
    import nats
    from nats.js.api import RetentionPolicy, StreamConfig

    from streamflow.errors import ConnectorError
    from streamflow_nats import Nats

    async with NatsServer() as server:
        client = await nats.connect(server.url)
        stream = client.jetstream()
        config = StreamConfig(name="S", subjects=["s"], retention=RetentionPolicy(retention))
        await stream.add_stream(config)
        for payload in (b"a", b"x" * 5000, b"b"):
            await stream.publish("s", payload)
        spec = Nats(server.url).stream("S", value=str)
        settings = sf.Settings(message_bytes_max=1000)
        flow = sf.Flow("stops", state=tmp_path / "stops.db", settings=settings)
        flow.source(spec).to(sf.MemoryTopic("out"))
        async with asyncio.timeout(20):
            with pytest.raises(ConnectorError, match="message 2 has 5000 bytes; the limit is 1000"):
                await flow.run()
        out, seen = sf.MemoryTopic("out", value=str), Seen()
        flow = sf.Flow("stops", state=tmp_path / "skips.db", settings=settings)
        flow.source(spec, on_error=sf.skip).to(out)
        async with flow.running(seen):
            await until(lambda: "b" in out.values)
        assert out.values[-1] == "b"
        assert len(seen.left_out) == 1
        assert "larger than message_bytes_max" in seen.left_out[0][1]
        await client.close()


async def until(condition: Callable[[], object], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


# -- bounded bytes --


async def test_what_is_read_ahead_is_bounded_in_bytes(tmp_path: Path) -> None:
    """Nothing is taken while the sink is away: what waits stays within the bound and one read more."""
    record, count, bound = 64 << 10, 200, 2 << 20
    (tmp_path / "in.txt").write_bytes((b"x" * record + b"\n") * count)
    settings = sf.Settings(intake_bytes_max=bound, outbox_bytes_max=1, commit_min="0ms")
    flow = sf.Flow("ahead", state=tmp_path / "ahead.db", settings=settings)
    out = sf.MemoryTopic("out", value=int)
    out.unreachable = True
    flow.source(sf.lines(tmp_path / "in.txt")).map(len).to(out)
    async with flow.running() as run:
        pump = run.engine.intake.pumps[0]
        await until(lambda: run.engine.intake.stall and pump._bytes >= bound)
        await asyncio.sleep(0.3)
        assert bound <= pump._bytes <= bound + (256 << 10) + record
        assert pump._bytes == sum(len(payload) for batch, _ in pump._buffer for payload in batch.payloads)
        out.unreachable = False
        await until(lambda: len(out.values) == count)


# -- connectors that are lost again and again --


async def test_a_source_that_breaks_before_it_gives_anything_is_asked_less_and_less(tmp_path: Path) -> None:
    words, out = sf.MemoryTopic("words", value=str), sf.MemoryTopic("out", value=str)
    seen = Seen()
    flow = sf.Flow("flapping", state=tmp_path / "flapping.db")
    source = words.source

    def broken() -> Any:
        made = source()
        if len(seen.failed) < 4:
            made.read = unavailable  # type: ignore[method-assign]
        return made

    words.source = broken  # type: ignore[method-assign]
    flow.source(words).to(out)
    async with flow.running(seen):
        await until(lambda: len(seen.failed) == 4)
        words.send("through")
        await until(lambda: out.values)
    assert seen.failed == [0.1, 0.2, 0.4, 0.8]


async def unavailable() -> Any:
    raise Unavailable("it went away before it gave anything")
