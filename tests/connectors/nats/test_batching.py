"""When a chain publishes in atomic batches: learned from what either way took, and seen on a real server."""

from __future__ import annotations

import pytest

from streamflow.connect.contracts import SinkOptions
from streamflow_nats.batching import FEW, TRIED, Batching
from tests.connectors.nats.kit import chunk, sink_context


def used(batching: Batching, message_seconds: float, batch_seconds: float, size: int = 20, runs: int = 300) -> float:
    """Publishes runs to a server where both ways take as long as given; returns the share that went in batches."""
    batched = 0
    for _ in range(runs):
        in_batches = batching.worth(size)
        batched += in_batches
        seconds = batch_seconds * -(-size // 1000) if in_batches else size * message_seconds
        batching.took(size, seconds, batched=in_batches)
    return batched / runs


@pytest.mark.parametrize("size", [20, 300, 1000])
def test_a_server_that_syncs_later_gets_messages_one_by_one(size: int) -> None:
    batching = Batching()
    assert used(batching, 12e-6, 0.020, size) < 0.1
    assert used(batching, 12e-6, 0.020, 5000) < 0.1


@pytest.mark.parametrize("size", [20, 300, 1000])
def test_a_server_that_syncs_each_message_gets_batches(size: int) -> None:
    batching = Batching()
    assert used(batching, 1e-3, 0.010, size) > 0.8
    assert used(batching, 1e-3, 0.010, 5000) > 0.8
    assert not batching.worth(FEW)


@pytest.mark.parametrize("batched", [False, True])
def test_one_slow_moment_is_forgotten(batched: bool) -> None:
    message_seconds, batch_seconds = (1e-3, 0.010) if batched else (12e-6, 0.020)
    batching = Batching()
    used(batching, message_seconds, batch_seconds)
    batching.took(20, 3.0, batched=batched)
    assert batching.worth(20) != batched
    used(batching, message_seconds, batch_seconds, runs=1500)
    share = used(batching, message_seconds, batch_seconds)
    assert share > 0.9 if batched else share < 0.1


def test_only_the_first_piece_of_a_long_run_is_tried_one_by_one() -> None:
    batching = Batching()
    assert batching.piece(50_000) == TRIED
    assert not batching.worth(TRIED)
    batching.took(TRIED, 0.1, batched=False)
    assert batching.piece(50_000) == 50_000
    assert batching.worth(50_000)


@pytest.mark.parametrize(("size", "batched"), [(FEW, 0), (TRIED, 0), (TRIED + 100, 100)])
async def test_a_stream_that_takes_batches_gets_few_messages_one_by_one(broker, monkeypatch, size, batched):
    monkeypatch.setattr(Batching, "worth", lambda self, messages: self.piece(2 * TRIED) == 2 * TRIED)
    name = await broker.stream("{}.x", allow_atomic=True)
    sink = broker.nats.stream(name, value=str).sink(SinkOptions())
    await sink.open(sink_context())
    values = [f"v{number}" for number in range(size)]
    progress = await sink.publish([chunk(sink, 1, 1, values)], await sink.recover(None, []))
    assert progress.next_seq == size + 1
    messages = await broker.all(name)
    assert [message.data.decode() for message in messages] == values
    assert ["Nats-Batch-Id" in message.headers for message in messages] == [False] * (size - batched) + [True] * batched
    await sink.close()
