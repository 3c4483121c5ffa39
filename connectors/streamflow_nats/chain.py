"""Mode chain: every message names the stream sequence it must follow."""

# ruff: noqa: D102 - what each method must do is documented once, in streamflow.connect.contracts

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import msgspec

from streamflow.batch import Chunk, Progress
from streamflow.connect.recovery import progress_at, unpublished
from streamflow.errors import Fenced, ForeignWriter, ProgressUnknown, SinkAhead, Unavailable
from streamflow_nats.fence import take_over
from streamflow_nats.frames import unpack
from streamflow_nats.jetstream import WRONG_LAST_SEQUENCE, StoredMessage, StreamInfo, parse_headers
from streamflow_nats.publisher import Outgoing
from streamflow_nats.sink import ROUNDS_MAX, Cursor, NatsSink

_EXPECTED: Final = b"Nats-Expected-Last-Sequence: %d\r\n"


class _Mark(NamedTuple):
    """Who published a message, and as which of its records."""

    fence: str
    seq: int
    generation: int


class ChainSink(NatsSink):
    """Publishes to a stream of which it is the only writer.

    GUARANTEE: exactly-once, for ever, not only within a de-duplication window. BOUND: the publish window.

    Each message carries ``Nats-Expected-Last-Sequence``: the server takes it only as the successor of exactly that
    message. So the k-th message behind a cursor lands at cursor + k or nowhere; sent twice, it lands once; and behind a
    message that was lost nothing lands, so that no hole and no reordering can come about. Each message also carries
    its sink's fence name (``sf-fence``), its number (``sf-seq``) and the generation of the store (``sf-gen``).

    **What arrived** is read from the last message of the stream: nothing above the cursor: nothing arrived. Our fence
    name and the number that belongs at that place, with the content that stands in the outbox: all up to it arrived.
    A number beyond the outbox: SinkAhead, the store is an older copy. Another's message, or more messages than ours:
    ForeignWriter. The last message is gone (purged, expired) although something came behind the cursor:
    ProgressUnknown. A purge alone keeps the sequences, so it does no harm. A stream made anew has another creation
    time, and one restored from a backup ends before the cursor: ProgressUnknown.

    **Fencing.** Opening asks an older instance to stop, if it is alive (`fence.take_over`). For one that does not hear
    it, the fence is the expected sequence itself. Let an older instance (a zombie)
    live on beside a newer one. (1) Same store: it can only hold records that were committed before the newer one
    opened the store (a commit needs the newest generation), so they stand in the newer one's outbox under the same
    numbers with the same bytes. Whichever publishes such a record first, it lands once, at its place; the other gets
    "wrong last sequence", finds its own record there, and counts it as published. What the newer one publishes later
    is unknown to the zombie, which then finds a number beyond its own, or a higher generation: Fenced. (2) A copy of
    the store: both may commit different records under one number. The first that lands decides; the other finds its
    number there with other content (or a number beyond its own), and is Fenced, be it the older or the newer. In
    both cases no number lands twice. Hence after a lost acknowledgement, or a rejection, the last message is always
    read and compared before anything is concluded.
    """

    async def recover(self, stored: Progress | None, pending: Sequence[Chunk]) -> Progress:
        self._check_open()
        info = await self._stream.info()
        if stored is not None:
            return await self._arrived(info, stored, pending)
        last = await self._stream.message(seq=info.state.last_seq) if info.state.messages else None
        mark = None if last is None else _mark(last)
        if mark is not None and mark.fence == self._fence:
            raise SinkAhead(
                f"stream {self._settings.name} ends with record {mark.seq} of this sink, but the store knows of none",
                hint="The store is an older copy. Use the newest, or: streamflow reset --sink NAME --accept-head.",
            )
        return Progress(0, 1, self._cursor(info, info.state.last_seq))

    async def _opened(self, info: StreamInfo) -> None:
        await take_over(self._check_open(), self._fence, self._generation)

    async def publish(self, chunks: Sequence[Chunk], at: Progress) -> Progress:
        self._check_open()
        cursor = msgspec.json.decode(at.cursor, type=Cursor)
        progress = at
        for _ in range(ROUNDS_MAX):
            outcome = await self._publisher.run(self._messages(chunks, progress.next_seq, cursor.seq))
            if outcome.error is None:
                head = cursor.seq + outcome.acked
                assert outcome.last is None or outcome.last.seq == head, f"{outcome.last} is not at {head}"
                end = max(progress.next_seq, chunks[-1].first_seq + chunks[-1].count)
                return progress_at(end, at, chunks, _encode(cursor.created, head))
            if outcome.error.err_code not in WRONG_LAST_SEQUENCE:
                raise self._refused(self._seq_of(chunks, progress.next_seq, outcome.failed_at), outcome.error)
            progress = await self._compare(chunks, progress)
            cursor = msgspec.json.decode(progress.cursor, type=Cursor)
        raise Unavailable(
            f"stream {self._settings.name} refuses the sequence that it names itself",
            hint="Is its cluster changing its leader? It is tried again.",
        )

    async def _compare(self, chunks: Sequence[Chunk], at: Progress) -> Progress:
        """Finds out what stands where the next record was to land."""
        try:
            return await self._arrived(await self._stream.info(), at, chunks)
        except SinkAhead as error:
            raise Fenced(
                f"another instance of this sink has published on: {error.message}",
                hint="Only one process may run this flow; this one has stopped.",
            ) from None

    async def _arrived(self, info: StreamInfo, at: Progress, chunks: Sequence[Chunk]) -> Progress:
        """Says how many of ``chunks`` landed behind ``at``."""
        cursor = self._decode_cursor(at, info)
        head, name = info.state.last_seq, self._settings.name
        if head < cursor.seq:
            raise ProgressUnknown(
                f"stream {name} at {self._nats} ends at {head}, but message {cursor.seq} was published",
                hint="The server lost messages (a restored backup?). Bring them back, or: streamflow reset --sink "
                "NAME --accept-head.",
            )
        if head == cursor.seq:
            return progress_at(at.next_seq, at, chunks, at.cursor)
        last = await self._stream.message(seq=head)
        if last is None:
            raise ProgressUnknown(
                f"message {head} at the end of stream {name} was deleted, and with it who published the "
                f"{head - cursor.seq} behind {cursor.seq}",
                hint="Look at what consumers got, then: streamflow reset --sink NAME --accept-head.",
            )
        seq = self._judge(last, cursor.seq, at.next_seq, chunks)
        return progress_at(seq + 1, at, chunks, _encode(cursor.created, head))

    def _judge(self, last: StoredMessage, cursor_seq: int, next_seq: int, chunks: Sequence[Chunk]) -> int:
        """Returns which of our records the stream's last message is, if that is possible at all."""
        mark, name = _mark(last), self._settings.name
        if mark is None or mark.fence != self._fence:
            raise ForeignWriter(
                f"message {last.seq} of stream {name} was published by "
                f"{mark.fence if mark else 'another writer'}; mode chain must be the only one",
                hint='Give the stream one writer, or use mode="batch". To go on behind it: streamflow reset --sink '
                "NAME --accept-head.",
            )
        frames = unpublished(chunks, next_seq)
        index = mark.seq - next_seq
        if index >= len(frames):
            raise SinkAhead(
                f"stream {name} holds record {mark.seq} of this sink, but this store published only up to "
                f"{next_seq + len(frames) - 1}",
                hint="The store is an older copy. Use the newest, or: streamflow reset --sink NAME --accept-head.",
            )
        if mark.generation > self._generation:
            raise Fenced(
                f"stream {name} ends with a record of generation {mark.generation}; this is {self._generation}",
                hint="A newer instance of this flow has taken over; this one has stopped.",
            )
        landed = sum(1 for frame in frames[: index + 1] if frame)
        if index < 0 or landed != last.seq - cursor_seq:
            raise ForeignWriter(
                f"{last.seq - cursor_seq} messages came behind {cursor_seq} in stream {name}, but only "
                f"{landed} records of this sink are due up to number {mark.seq}",
                hint="Give the stream one writer. To go on behind it: streamflow reset --sink NAME --accept-head.",
            )
        frame = unpack(frames[index]) if frames[index] else None
        expected = None if frame is None else (frame.subject or self._default_subject, frame.payload)
        if (
            frame is None
            or expected != (last.subject.encode(), last.data)
            or not last.headers.startswith(frame.headers)
        ):
            raise Fenced(
                f"stream {name} holds other content under number {mark.seq} than this store",
                hint="Another instance runs on a copy of this store. Stop one of the two.",
            )
        return mark.seq

    def _messages(self, chunks: Sequence[Chunk], next_seq: int, last: int) -> Iterator[Outgoing]:
        for expected, (seq, frame) in enumerate(self._live(chunks, next_seq), last):
            headers = frame.headers + self._guard_lines(seq) + _EXPECTED % expected
            yield self._subject(seq, frame), headers, frame.payload

    def _seq_of(self, chunks: Sequence[Chunk], next_seq: int, index: int) -> int:
        return next(seq for at, (seq, _) in enumerate(self._live(chunks, next_seq)) if at == index)

    def _guard_lines(self, seq: int) -> bytes:
        return b"sf-fence: %s\r\nsf-gen: %d\r\nsf-seq: %d\r\n" % (self._fence.encode(), self._generation, seq)

    def _cursor(self, info: StreamInfo, seq: int) -> bytes:
        return _encode(info.created, seq)


def _encode(created: str, seq: int) -> bytes:
    return msgspec.json.encode(Cursor(created, seq))


def _mark(message: StoredMessage) -> _Mark | None:
    headers = parse_headers(message.headers)
    seq, generation = headers.get("sf-seq", ""), headers.get("sf-gen", "")
    if "sf-fence" not in headers or not seq.isdigit() or not generation.isdigit():
        return None
    return _Mark(headers["sf-fence"], int(seq), int(generation))
