"""Two producers of one name: the newer one is shut out by nobody who is older."""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest

from streamflow.errors import Fenced
from streamflow_kafka.client import Cluster
from streamflow_kafka.transactions import Transactions
from tests.connectors.kafka.broker import QUICK, Broker


@pytest.mark.parametrize("opened", [False, True], ids=["idle", "open"])
async def test_an_older_one_that_begins_again_leaves_the_newer_ones_transaction_alone(broker: Broker, opened: bool):
    topic = await broker.topic()
    async with AsyncExitStack() as stack:
        made: list[Transactions] = []
        for name in ("old", "new"):
            cluster = await Cluster.connect(broker.kafka, QUICK, name)
            stack.push_async_callback(cluster.close)
            made.append(Transactions(cluster, f"sf.{topic}", topic))
            await made[-1].begin()
        old, new = made
        if opened:
            await new.add([0])
        with pytest.raises(Fenced, match="a newer producer has begun"):
            await old.begin(again=True)
        if not opened:
            await new.add([0])
        await new.commit()
        await new.begin(again=True)
