"""When a chain publishes in atomic batches: learned from what either way took, and seen on a real server."""

from __future__ import annotations

import pytest

from streamflow.connect.contracts import SinkOptions
from streamflow_nats.batching import FEW, Batching
from streamflow_nats.publisher import SEND_RECORDS_MAX
from tests.connectors.nats.kit import chunk, sink_context


def learned(message_seconds: float, batch_seconds: float, runs: int = 200) -> Batching:
    """What comes of runs of 20 messages on a server where both take as long as given."""
    batching = Batching()
    for _ in range(runs):
        batched = batching.worth(20)
        batching.took(20, batch_seconds if batched else 20 * message_seconds, batched=batched)
    return batching


def test_a_server_that_syncs_later_gets_small_runs_one_by_one():
    batching = learned(message_seconds=50e-6, batch_seconds=0.010)
    assert not batching.worth(SEND_RECORDS_MAX)
    assert batching.worth(SEND_RECORDS_MAX + 1)


def test_a_server_that_syncs_each_message_gets_batches():
    batching = learned(message_seconds=1e-3, batch_seconds=0.010)
    assert batching.worth(20)
    assert not batching.worth(FEW)


def test_one_slow_moment_is_forgotten():
    batching = learned(message_seconds=50e-6, batch_seconds=0.010)
    batching.took(20, 3.0, batched=False)
    assert batching.worth(20)
    for _ in range(300):
        batched = batching.worth(20)
        batching.took(20, 0.010 if batched else 20 * 50e-6, batched=batched)
    assert not batching.worth(20)


@pytest.mark.parametrize(("size", "batched"), [(FEW, False), (SEND_RECORDS_MAX + 1, True)])
async def test_a_stream_that_takes_batches_gets_them_for_long_runs_only(broker, size, batched):
    name = await broker.stream("{}.x", allow_atomic=True)
    sink = broker.nats.stream(name, value=str).sink(SinkOptions())
    await sink.open(sink_context())
    values = [f"v{number}" for number in range(size)]
    progress = await sink.publish([chunk(sink, 1, 1, values)], await sink.recover(None, []))
    assert progress.next_seq == size + 1
    messages = await broker.all(name)
    assert [message.data.decode() for message in messages] == values
    assert all(("Nats-Batch-Id" in message.headers) == batched for message in messages)
    await sink.close()
