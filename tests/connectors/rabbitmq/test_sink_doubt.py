"""Mode tx behind a restart of the broker: the marker may tell of messages that are not there."""

from __future__ import annotations

from typing import Any

import pytest

from streamflow.batch import Chunk, Progress
from streamflow.errors import RecordRejected
from streamflow_rabbitmq import Limits
from streamflow_rabbitmq.link import Link
from streamflow_rabbitmq.witness import Witness
from tests.connectors.rabbitmq.kit import chunk, open_sink
from tests.connectors.rabbitmq.outsider import Outsider, fresh

VALUES = ["1", "2", "3", "4"]


class Stage:
    """A sink in mode tx, with two records in a transaction."""

    def __init__(self, outsider: Outsider, queue: str) -> None:
        self.outsider, self.queue, self.name = outsider, queue, fresh("flow")
        limits = Limits(publish_window_records=2)
        self.spec: Any = outsider.rabbit.queue(queue, value=str, mode="tx", limits=limits)
        self._generation = 0

    async def open(self) -> Any:
        self._generation += 1
        return await open_sink(self.spec, self.name, self._generation)

    async def published(self) -> tuple[Progress, Progress, list[Chunk]]:
        """Publishes all values, in two transactions; returns the progress before and after."""
        sink = await self.open()
        before = await sink.recover(None, [])
        pending = [chunk(sink, 1, 1, VALUES)]
        after = await sink.publish(pending, before)
        await sink.close()
        return before, after, pending

    async def lose(self, count: int) -> None:
        """Takes the last messages away, as a broker that comes back without them."""
        kept = (await self.outsider.bodies(self.queue))[:-count] if count else await self.outsider.bodies(self.queue)
        messages = [await (await self.outsider.channel.get_queue(self.queue)).get() for _ in VALUES]
        for message in messages:
            await message.ack()
        await self.outsider.feed(self.queue, kept)

    async def restart(self) -> None:
        """What a restart of the broker does to the witness."""
        await self.outsider.delete(f"sf.alive.{self.name}.i.0.out")


@pytest.fixture
async def stage(outsider: Outsider) -> Stage:
    return Stage(outsider, await outsider.queue())


@pytest.mark.parametrize("lost", [0, 1, 2])
async def test_the_last_transaction_comes_again(stage: Stage, lost: int) -> None:
    """Whatever of it is there; nothing before it does."""
    before, _, pending = await stage.published()
    await stage.lose(lost)
    await stage.restart()
    sink = await stage.open()
    await sink.close()  # a death before it was settled changes nothing
    sink = await stage.open()
    at = await sink.recover(before, pending)
    assert at.next_seq == 3
    await sink.publish(pending, at)
    await sink.close()
    expected = [*VALUES[: len(VALUES) - lost], *VALUES[2:]]
    assert [body.decode() for body in await stage.outsider.bodies(stage.queue)] == expected
    # settled: from now on the marker is believed again
    sink = await stage.open()
    assert (await sink.recover(before, pending)).next_seq == 5
    await sink.close()


async def test_a_broker_that_ran_on_is_believed(stage: Stage) -> None:
    before, _, pending = await stage.published()
    sink = await stage.open()
    assert (await sink.recover(before, pending)).next_seq == 5
    await sink.close()


async def test_what_was_answered_is_not_in_doubt(stage: Stage) -> None:
    _, after, _ = await stage.published()
    await stage.restart()
    sink = await stage.open()
    assert (await sink.recover(after, [])).next_seq == 5
    at = await sink.publish([chunk(sink, 2, 5, ["5"])], after)
    await sink.close()
    await stage.restart()
    sink = await stage.open()
    assert (await sink.recover(after, [chunk(sink, 2, 5, ["5"])])).next_seq == 5
    await sink.close()
    assert at.next_seq == 6
    assert [body.decode() for body in await stage.outsider.bodies(stage.queue)] == [*VALUES, "5"]


async def test_what_came_back_and_was_caught_up_with_is_in_doubt_too(outsider: Outsider) -> None:
    queue, exchange = await outsider.queue(), await outsider.exchange()
    stage = Stage(outsider, queue)
    stage.spec = outsider.rabbit.exchange(exchange, value=str, mode="tx", routing_key="a")
    sink = await stage.open()
    before = await sink.recover(None, [])
    pending = [chunk(sink, 1, 1, ["1"])]
    with pytest.raises(RecordRejected):
        await sink.publish(pending, before)
    await sink.close()
    await (await outsider.channel.get_queue(queue)).bind(exchange, "a")
    sink = await stage.open()
    at = await sink.recover(before, pending)  # which publishes it
    await sink.close()
    await stage.restart()
    sink = await stage.open()
    assert (await sink.recover(at, pending)).next_seq == 2
    await sink.close()
    assert await outsider.bodies(queue) == [b"1", b"1"]
    assert await outsider.distinct(queue) == ["1"]


async def test_a_witness_stands_until_it_is_gone(outsider: Outsider) -> None:
    link = await Link.connect(outsider.rabbit, "test")
    witness = Witness(link, f"sf.{fresh('flow')}.i.0.out")
    assert not await witness.stands()
    await witness.stand()
    await witness.stand()
    assert await witness.stands()
    await outsider.delete(witness.name)
    assert not await witness.stands()
    await link.close()
