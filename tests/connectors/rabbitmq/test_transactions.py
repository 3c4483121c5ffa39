"""Mode tx when the broker itself dies in a transaction: its marker may be there without its messages."""

from __future__ import annotations

import asyncio

from streamflow.batch import Progress
from streamflow_rabbitmq.marker import marker_name
from tests.brokers import RabbitServer
from tests.connectors.rabbitmq.kit import DECLARED_SECONDS, chunk, open_sink
from tests.connectors.rabbitmq.outsider import Outsider, fresh

BEFORE, DOUBTFUL = ["one", "two"], ["three", "four"]


async def seq_after_reopening(spec: object, name: str, generation: int, stored: Progress, pending: object) -> int:
    """Where the sink goes on, published from there to the end."""
    sink = await open_sink(spec, name, generation)
    progress = await sink.recover(stored, pending)
    found = int(progress.next_seq)
    if found < 5:
        progress = await sink.publish(pending, progress)
    assert progress.next_seq == 5
    await sink.close()
    return found


async def test_what_the_broker_died_in_is_published_again_unless_its_answer_is_known(
    rabbit_server: RabbitServer,
) -> None:
    outsider = Outsider(rabbit_server)
    await outsider.connect()
    cases = []
    for answered, killed in ((False, False), (False, True), (True, True)):
        queue, name = await outsider.queue(), fresh("flow")
        spec = outsider.rabbit.queue(queue, value=str, mode="tx")
        sink = await open_sink(spec, name)
        pending = [chunk(sink, 1, 1, BEFORE), chunk(sink, 2, 3, DOUBTFUL)]
        before = await sink.publish(pending[:1], await sink.recover(None, []))
        after = await sink.publish(pending[1:], before)
        await sink.close()
        stored, pending = (after, []) if answered else (before, pending[1:])
        cases.append((answered, killed, queue, name, spec, stored, pending))

    # where only this process ends, the marker tells
    for _, killed, queue, name, spec, stored, pending in cases:
        if not killed:
            assert await seq_after_reopening(spec, name, 2, stored, pending) == 5
            assert await numbers(outsider, queue) == [1, 2, 3, 4]

    await asyncio.sleep(DECLARED_SECONDS)
    await rabbit_server.kill_async()
    await rabbit_server.start_async()
    await outsider.connect()
    for answered, killed, queue, name, spec, stored, pending in cases:
        if killed:
            marker = await outsider.channel.get_queue(marker_name(f"sf.{name}.i.0.out"))
            assert marker.declaration_result.message_count == 1, "the marker outlives the broker"
            assert await seq_after_reopening(spec, name, 2, stored, pending) == (5 if answered else 3)
            assert await numbers(outsider, queue) == ([1, 2, 3, 4] if answered else [1, 2, 3, 4, 3, 4])
            # and is in doubt no more
            assert await seq_after_reopening(spec, name, 3, stored, pending) == 5
    await outsider.close()


async def numbers(outsider: Outsider, queue: str) -> list[int]:
    """The sink's numbers of what a queue holds."""
    return [int(message.message_id.rpartition(".")[2]) for message in await outsider.messages(queue)]
