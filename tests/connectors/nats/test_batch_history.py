"""Mode batch on copies of one store: nobody takes the records of another history for its own."""

from __future__ import annotations

from dataclasses import replace

import pytest

from streamflow.connect.contracts import SinkOptions
from streamflow.errors import Fenced
from tests.connectors.nats.kit import chunk, sink_context


async def test_other_records_under_the_same_numbers_are_not_taken_for_ones_own(broker):
    """The older one has committed more, and of other content, than the newer one has published; then it starts anew."""
    name = await broker.stream("{}.>", allow_atomic=True)
    spec = broker.nats.stream(name, subject=f"{name}.x", value=str, mode="batch")
    sinks = []

    async def opened(generation: int):
        sinks.append(spec.sink(SinkOptions()))
        await sinks[-1].open(sink_context(generation))
        return sinks[-1]

    first = await opened(1)
    stored = await first.publish([chunk(first, 1, 1, ["v1", "v2"])], await first.recover(None, []))
    newer = await opened(2)
    run = [chunk(newer, 2, 3, ["new3", "new4"])]
    done = await newer.publish(run, await newer.recover(stored, run))
    zombie = await opened(2)
    with pytest.raises(Fenced, match="other content"):
        await zombie.recover(stored, [chunk(zombie, 2, 3, ["old3", "old4", "old5"])])
    assert await broker.values(name) == ["v1", "v2", "new3", "new4"]
    # the newer one finds its own history, from wherever it knows it
    again = await opened(3)
    assert (await again.recover(stored, run)).next_seq == 5
    assert (await again.recover(done, [])).next_seq == 5
    found = await again.recover(replace(done, epoch=2), [chunk(again, 3, 5, ["v5"])])
    await again.publish([chunk(again, 3, 5, ["v5"])], found)
    assert (await broker.values(name))[-1] == "v5"
    for sink in sinks:
        await sink.close()
