"""When a chain publishes in atomic batches: learned from what either way takes, and seen on a real server."""

from __future__ import annotations

import pytest

from streamflow.connect.contracts import SinkOptions
from streamflow_nats import Nats
from streamflow_nats.batching import FEW, TRIED, Batching
from tests.brokers import NatsServer
from tests.connectors.nats.kit import chunk, sink_context
from tests.faults.nats.outside import Outsider, make_stream


def learned(message_seconds: float | None, batch_seconds: float = 0.012) -> Batching:
    """As it is after the first piece and some batches."""
    batching = Batching()
    assert batching.piece(50_000) == TRIED
    assert not batching.choose(TRIED), "the first piece is always tried one by one"
    batching.stored(TRIED - 1, None if message_seconds is None else (TRIED - 1) * message_seconds)
    for _ in range(30):
        batching.took(1000, batch_seconds)
    return batching


@pytest.mark.parametrize("size", [1, 20, 300, 1000, 50_000])
@pytest.mark.parametrize("message_seconds", [3e-6, 30e-6, None])
def test_a_server_that_syncs_later_gets_messages_one_by_one(size: int, message_seconds: float | None) -> None:
    assert not learned(message_seconds).choose(size)


@pytest.mark.parametrize("size", [100, 300, 1000, 50_000])
def test_a_server_that_syncs_each_message_gets_batches(size: int) -> None:
    batching = learned(250e-6)
    assert batching.piece(size) == size
    assert batching.choose(size)
    assert not batching.choose(FEW)
    assert not batching.choose(30), "a batch takes longer than these"


def test_one_slow_batch_is_forgotten() -> None:
    batching = learned(250e-6)
    batching.took(20, 3.0)
    assert not batching.choose(300)
    while not batching.choose(300):
        pass
    batching.took(300, 0.012)
    assert batching.choose(300)


@pytest.mark.parametrize(("sync", "batched"), [("always", True), ("2m", False)])
async def test_what_the_server_does_is_seen_in_the_times_at_which_it_stored(sync: str, batched: bool) -> None:
    values = [f"v{number}" for number in range(TRIED + 1000)]
    with NatsServer(sync=sync) as server:
        await make_stream(server, "OUT", allow_atomic=True)
        async with Outsider(server) as outsider:
            sink = Nats(server.url).stream("OUT", subject="out", value=str).sink(SinkOptions())
            await sink.open(sink_context())
            progress = await sink.publish([chunk(sink, 1, 1, values)], await sink.recover(None, []))
            assert progress.next_seq == len(values) + 1
            messages = [await outsider.js.get_msg("OUT", seq) for seq in range(1, len(values) + 1)]
            await sink.close()
    assert [(message.data or b"").decode() for message in messages] == values
    in_batches = ["Nats-Batch-Id" in (message.headers or {}) for message in messages]
    assert in_batches == [False] * TRIED + [batched] * 1000


async def test_a_few_messages_go_one_by_one(broker):
    name = await broker.stream("{}.x", allow_atomic=True)
    sink = broker.nats.stream(name, value=str).sink(SinkOptions())
    await sink.open(sink_context())
    values = [f"v{number}" for number in range(FEW)]
    await sink.publish([chunk(sink, 1, 1, values)], await sink.recover(None, []))
    messages = await broker.all(name)
    assert [message.data.decode() for message in messages] == values
    assert not any("Nats-Batch-Id" in message.headers for message in messages)
    await sink.close()
