"""Mode msgid: messages carry an id that the server remembers for a while."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from streamflow.batch import Chunk, Progress
from streamflow.connect.recovery import progress_at
from streamflow_nats.frames import unpack
from streamflow_nats.publisher import Outgoing
from streamflow_nats.sink import Cursor, NatsSink


class MessageIdSink(NatsSink):
    """Publishes with ``Nats-Msg-Id`` = fence name and number; any number of writers may share the stream.

    GUARANTEE: at-least-once. Exactly-once only while whatever is published again is so within the stream's
    ``duplicate_window`` (two minutes by default): a process that stays down longer doubles what it had published and
    not yet noted. When the server dies in the middle of a run, a record may land behind its successors, and an
    instance that lives on beside a newer one is not fenced. BOUND: the publish window.
    """

    async def recover(self, stored: Progress | None, pending: Sequence[Chunk]) -> Progress:
        self._check_open()
        info = await self._stream.info()
        cursor = msgspec.json.encode(Cursor(info.created, info.state.last_seq))
        # Nobody can be asked what arrived: everything behind the stored progress is published again.
        return Progress(0, 1, cursor) if stored is None else progress_at(stored.next_seq, stored, pending, cursor)

    async def publish(self, chunks: Sequence[Chunk], at: Progress) -> Progress:
        self._check_open()
        outcome = await self._publisher.run(self._messages(chunks, at.next_seq))
        if outcome.error is not None:
            live = self._live(chunks, at.next_seq)
            seq = next(seq for index, (seq, _) in enumerate(live) if index == outcome.failed_at)
            raise self._refused(seq, outcome.error)
        end = max(at.next_seq, chunks[-1].first_seq + chunks[-1].count)
        return progress_at(end, at, chunks, at.cursor)

    def _messages(self, chunks: Sequence[Chunk], next_seq: int) -> Iterator[Outgoing]:
        for seq, packed in self._live(chunks, next_seq):
            frame = unpack(packed)
            yield self._subject(seq, frame), frame.headers + self._guard_lines(seq), frame.payload

    def _guard_lines(self, seq: int) -> bytes:
        return b"Nats-Msg-Id: %s.%d\r\n" % (self._fence.encode(), seq)
