"""Mode tx: messages and marker in one AMQP transaction."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import msgspec

from streamflow.batch import Chunk, Progress, unpack_frames
from streamflow.connect.recovery import progress_at
from streamflow.errors import ProgressUnknown, Refusal
from streamflow_rabbitmq.broker_run import broker_run
from streamflow_rabbitmq.link import Link
from streamflow_rabbitmq.marker import Mark
from streamflow_rabbitmq.sink import Cursor, RabbitSink

if TYPE_CHECKING:
    from streamflow_rabbitmq.client import DirectChannel


class TransactionSink(RabbitSink):
    """Publishes in transactions, each of which moves the marker on.

    GUARANTEE: exactly-once when this process dies, at any instant, or its connection is cut: the marker says which
    transactions went through. A transaction is not atomic when the broker itself dies: each queue keeps what it had
    written, so the marker may have moved on without the messages. So the marker also says in which run of the broker
    it was written, and what was sure before; in another run the last transaction is published again unless its
    answer is known. Then it is effectively-once, for the messages have the same ids as in mode confirm. BOUND: the
    publish window, which is the size of one transaction.

    The broker learns only while it commits that no queue takes a message: it gives that one back, and the marker has
    moved on. So the marker is then corrected by a list of what is missing, and that is published first, once there is
    a way for it. A crash between the two loses such a message; see that queues are bound before a flow starts.
    """

    _run: str

    async def recover(self, stored: Progress | None, pending: Sequence[Chunk]) -> Progress:
        self._opened()
        if stored is None:
            return Progress(0, 1, self._cursor(self._mark.at))
        if self._mark.run not in ("", self._run):
            self._mark = self._without_doubt(stored)
        next_seq = self._next_seq(stored)
        if next_seq is None:
            await self._refuse(
                ProgressUnknown(
                    f"marker queue {self._marker.name} at {self._rabbit} was deleted: what arrived cannot be told",
                    hint="See what consumers got, then go on with: streamflow reset --sink NAME --accept-head.",
                )
            )
        try:
            found = progress_at(next_seq, stored, pending, self._cursor(self._mark.at))
        except Refusal as refusal:
            await self._refuse(refusal)
        if self._mark.missing:
            await self._catch_up(pending)
        return found

    async def publish(self, chunks: Sequence[Chunk], at: Progress) -> Progress:
        await self._opened().unblocked()
        limits = self._target.limits
        messages: list[bytes] = []
        size = 0
        for seq, frame in self._live(chunks, at.next_seq):
            message = self._message(seq, frame)
            if messages and (
                len(messages) >= limits.publish_window_records or size + len(message) > limits.publish_window_bytes
            ):
                await self._commit(messages, self._count(at, seq))
                self._point("publish.part")
                messages, size = [], 0
            messages.append(message)
            size += len(message)
        end = chunks[-1].end_seq
        await self._commit(messages, self._count(at, end))
        return progress_at(end, at, chunks, self._cursor(self._mark.at))

    def _without_doubt(self, stored: Progress) -> Mark:
        """The marker without what was in doubt when the broker died: all that its last transaction did.

        What the store knows was answered, and so is sure.
        """
        mark = self._mark
        cursor = msgspec.json.decode(stored.cursor, type=Cursor)
        if cursor.made != mark.made:
            return mark
        at = min(mark.at, max(mark.sure_at, cursor.at))
        again_from = stored.next_seq + at - cursor.at
        missing = sorted({*mark.missing, *mark.sure_missing})
        return msgspec.structs.replace(mark, at=at, missing=tuple(seq for seq in missing if seq < again_from))

    async def _start(self, link: Link, channel: DirectChannel) -> None:
        self._run = await broker_run(link, self._fence.decode())
        await link.ask(channel.tx_select())
        await self._write(self._mark)

    async def _write(self, mark: Mark) -> None:
        link = self._opened()
        await link.send(self._marker.message(self._channel.number, mark))
        await link.ask(self._channel.tx_commit())

    async def _commit(self, messages: Iterable[bytes], count: int, missing: tuple[int, ...] | None = None) -> None:
        """Publishes messages and moves the marker, together; corrects it where messages came back.

        Raises:
            RecordRejected: A message came back.
        """
        link = self._opened()
        self._returned.clear()
        before = self._mark
        mark = msgspec.structs.replace(
            before,
            at=count,
            missing=before.missing if missing is None else missing,
            run=self._run,
            sure_at=before.at,
            sure_missing=before.missing,
        )
        await link.send(b"".join([*messages, self._marker.message(self._channel.number, mark)]))
        await link.ask(self._channel.tx_commit())
        self._mark = mark
        if self._returned:
            self._mark = await self._corrected(mark)
            raise self._rejected()

    async def _corrected(self, mark: Mark) -> Mark:
        missing = tuple(sorted({*mark.missing, *self._returned}))
        corrected = msgspec.structs.replace(mark, missing=missing, sure_at=mark.at, sure_missing=missing)
        await self._write(corrected)
        return corrected

    async def _catch_up(self, pending: Sequence[Chunk]) -> None:
        """Publishes what came back before; what was given up since has an empty frame."""
        messages = []
        for chunk in pending:
            wanted = [seq for seq in self._mark.missing if chunk.first_seq <= seq < chunk.end_seq]
            if wanted:
                frames = unpack_frames((await self._read(chunk)).payload)
                live = [(seq, frames[seq - chunk.first_seq]) for seq in wanted]
                messages += [self._message(seq, frame) for seq, frame in live if frame]
        await self._commit(messages, self._mark.at, missing=())
