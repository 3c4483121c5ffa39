"""Mode chain: every message names the stream sequence it must follow."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import msgspec

from streamflow.batch import Chunk, Progress
from streamflow.connect.contracts import SinkContext
from streamflow.connect.recovery import progress_at, unpublished
from streamflow.errors import Fenced, ForeignWriter, ProgressUnknown, SinkAhead, Unavailable
from streamflow_nats.batching import FEW, Batching
from streamflow_nats.fence import take_over
from streamflow_nats.frames import unpack
from streamflow_nats.jetstream import (
    WRONG_LAST_SEQUENCE,
    ApiError,
    StoredMessage,
    StreamInfo,
    is_number,
    parse_headers,
)
from streamflow_nats.publisher import (
    BATCH_BYTES_MAX,
    BATCH_HEADER_BYTES,
    BATCH_MESSAGES_MAX,
    BATCH_PASSING,
    BATCH_VERSION_MIN,
    ELSEWHERE,
    Outcome,
    Outgoing,
)
from streamflow_nats.sink import LINK_BYTES, ROUNDS_MAX, Cursor, NatsSink, linked
from streamflow_nats.subjects import as_tokens

_EXPECTED: Final = b"Nats-Expected-Last-Sequence: %d\r\n"
_EXPECTED_ID: Final = b"Nats-Expected-Last-Msg-Id: %s\r\n"
_ID: Final = b"Nats-Msg-Id: %s\r\n"
_OWN_ID: Final = b"sf-id: %s\r\n"
_ALONE: Final = b"%s%s%d\r\n" + _ID + _EXPECTED + b"%s"
_IN_BATCH: Final = b"%s%s%d\r\n" + _OWN_ID
_LINKS_BYTES: Final = len(_EXPECTED_ID) + len(_ID) + 4 * LINK_BYTES


class _Mark(NamedTuple):
    """Who published a message, as which of its records, and with what history."""

    fence: str
    seq: int
    generation: int
    link: str


class _Batch(NamedTuple):
    """An atomic batch, and what is true when it has landed: the number that comes next, and the last message's id."""

    messages: list[Outgoing]
    next_seq: int
    link: bytes


class ChainSink(NatsSink):
    """Publishes to a stream of which it is the only writer.

    GUARANTEE: exactly-once, for ever, not only within a de-duplication window. BOUND: the publish window.

    **Place.** Each message names the stream sequence it must follow (``Nats-Expected-Last-Sequence``): the k-th behind
    a cursor lands at cursor + k or nowhere; sent twice, it lands once.

    **History.** Messages are sent without waiting for each other, so the place is not enough: when somebody else's
    message takes the place of the third, the fourth would find the sequence it expects, and land behind a hole. So
    each message also has an id (``Nats-Msg-Id``) which is a hash of its content and the id before it, and names that id
    as the last one in the stream (``Nats-Expected-Last-Msg-Id``). It stands for the whole history of the sink since its
    baseline: behind anything else, nothing lands. The first message of a run is sent only when all before it are known
    to be there, and is held by its place alone. (The server remembers ids for ``duplicate_window``. That costs memory
    and decides nothing here; a second is enough.)

    **Answers.** For the same reason one answer for each write of many messages is enough: that the last one landed at
    its place shows that all before it did. A refusal then says neither which was refused nor why, so the last message
    of the stream is read, and what is missing is sent again with an answer for each.

    **What arrived** is read from the last message of the stream. Nothing above the cursor: nothing arrived. Our fence
    name (``sf-fence``), the number (``sf-seq``) that belongs at that place, and the id that this store's history gives:
    all up to it arrived. A number beyond the outbox: SinkAhead, the store is an older copy. Another's message, or more
    messages than ours: ForeignWriter. The last message is gone (purged, expired) although something came behind the
    cursor: ProgressUnknown. A purge alone keeps the sequences, so it does no harm. A stream made anew has another
    creation time, and one restored from a backup ends before the cursor: ProgressUnknown.

    **Fencing.** Opening asks an older instance to stop, if it is alive (`fence.take_over`). For one that does not hear
    it (a zombie), place and history are the fence. (1) Same store: it can only hold records that were committed before
    the newer one opened the store (a commit needs the newest generation), so they stand in the newer one's outbox under
    the same numbers with the same bytes and ids. Whichever publishes such a record first, it lands once, at its place;
    the other gets "wrong last sequence", finds that record there, and counts it as published. What the newer one
    publishes later is unknown to the zombie, which finds a number beyond its own, or a higher generation (``sf-gen``):
    Fenced. (2) A copy of the store: both may commit different records under one number; from then on their ids differ
    for ever. The first that lands decides; whatever the other has on its way follows another history and is thrown
    away; it finds an id that is not its own and is Fenced, be it the older or the newer. In both cases no number lands
    twice. Hence after a lost acknowledgement, or a rejection, the last message is always read and compared before
    anything is concluded.
    """

    _last = b""
    """Id of the last message handed to the publisher."""
    _last_seq = 0
    """Its number."""
    _guard = b""
    """The header lines of every message, up to its number."""
    _in_batches = False
    """Whether the run that is being published goes in atomic batches."""
    _batching: Batching | None = None
    """When they are worth it; None where the stream takes none."""

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
        seed = f"{self._fence} {info.created} {info.state.last_seq}".encode()
        return Progress(0, 1, _encode(info.created, info.state.last_seq, linked(b"", 0, seed)))

    async def open(self, ctx: SinkContext) -> None:
        self._guard = b"sf-fence: %s\r\nsf-gen: %d\r\nsf-seq: " % (as_tokens(ctx.fence).encode(), ctx.generation)
        await super().open(ctx)

    async def _opened(self, info: StreamInfo) -> None:
        link = self._check_open()
        if info.config.allow_atomic and link.version >= BATCH_VERSION_MIN:
            self._batching = Batching()
        await take_over(link, self._fence, self._generation)

    async def publish(self, chunks: Sequence[Chunk], at: Progress) -> Progress:
        self._check_open()
        end = max(at.next_seq, chunks[-1].end_seq)
        while True:
            count = end - at.next_seq
            count = count if self._batching is None else self._batching.piece(count)
            at = await self._publish_until(chunks, at, at.next_seq + count)
            if at.next_seq >= end:
                return at

    async def _publish_until(self, chunks: Sequence[Chunk], at: Progress, end: int) -> Progress:
        """Publishes one piece of a run, in one of the two ways, and learns from it."""
        batching = self._batching
        self._in_batches = batching is not None and batching.choose(end - at.next_seq)
        began = time.monotonic()
        progress = at
        for attempt in range(ROUNDS_MAX):
            if progress.next_seq >= end:
                if batching is not None and attempt == 1:
                    await self._learn(batching, at, progress, time.monotonic() - began)
                return progress
            brief = attempt == 0 and not self._in_batches
            progress, outcome = await self._send(chunks, progress, end, brief=brief)
            if outcome.error is not None:
                # One answer for many messages is about the last of them, not about the one that was refused.
                error = ELSEWHERE if brief else outcome.error
                progress = await self._after(error, outcome.failed_at, chunks, progress)
        if progress.next_seq >= end:
            return progress
        raise Unavailable(
            f"stream {self._settings.name} refuses the sequence that it names itself",
            hint="Is its cluster changing its leader? It is tried again.",
        )

    async def _learn(self, batching: Batching, before: Progress, after: Progress, seconds: float) -> None:
        """Notes what a piece took that landed at once."""
        if self._in_batches:
            batching.took(after.next_seq - before.next_seq, seconds)
            return
        first, last = (msgspec.json.decode(at.cursor, type=Cursor).seq for at in (before, after))
        if not batching.tried and last - first > FEW:
            ends = [await self._stream.message(seq=seq) for seq in (first + 1, last)]
            times = [message.stored_at for message in ends if message is not None]
            stored_seconds = (times[1] - times[0]).total_seconds() if len(times) == 2 else None
            batching.stored(last - first - 1, stored_seconds)

    async def _send(self, chunks: Sequence[Chunk], at: Progress, end: int, *, brief: bool) -> tuple[Progress, Outcome]:
        """Publishes what is not there yet, up to ``end`` or the first refusal."""
        cursor = msgspec.json.decode(at.cursor, type=Cursor)
        messages = self._messages(chunks, range(at.next_seq, end), cursor)
        if self._in_batches:
            return await self._send_batches(messages, cursor, chunks, at, end)
        outcome = await self._publisher.run(messages, first_seq=cursor.seq + 1, chained=brief)
        if not _is_at(outcome, cursor.seq + outcome.acked):
            return at, outcome
        return progress_at(end, at, chunks, _encode(cursor.created, cursor.seq + outcome.acked, self._last)), outcome

    async def _send_batches(
        self, messages: Iterator[Outgoing], cursor: Cursor, chunks: Sequence[Chunk], at: Progress, end: int
    ) -> tuple[Progress, Outcome]:
        """Publishes one batch after the other, and builds the next one meanwhile.

        It is sent only when the one before it has landed: a batch is held by its place alone.
        """
        progress, outcome, seq = at, Outcome(), cursor.seq
        batch = self._next_batch(messages, seq)
        while batch.messages:
            await self._publisher.begin_batch(batch.messages)
            try:
                following = self._next_batch(messages, seq + len(batch.messages))
            finally:
                outcome = await self._publisher.end_batch()
            seq += len(batch.messages)
            if not _is_at(outcome, seq):
                return progress, outcome
            progress = progress_at(batch.next_seq, at, chunks, _encode(cursor.created, seq, batch.link))
            batch = following
            if batch.messages:
                self._point("publish.part")
        return progress_at(end, at, chunks, progress.cursor), outcome

    async def _after(self, error: ApiError, index: int, chunks: Sequence[Chunk], at: Progress) -> Progress:
        """Finds out how far things are after a refusal, or raises what it means."""
        if error.err_code in BATCH_PASSING:
            return at
        if error.err_code in WRONG_LAST_SEQUENCE:
            return await self._compare(chunks, at)
        raise self._refused(self._seq_of(chunks, at.next_seq, index), error)

    def _next_batch(self, messages: Iterator[Outgoing], last: int) -> _Batch:
        """Takes messages for one batch, the first of which names the sequence it must follow."""
        batch: list[Outgoing] = []
        size = 0
        for subject, headers, payload in messages:
            batch.append((subject, headers if batch else headers + _EXPECTED % last, payload))
            size += len(headers) + len(payload)
            if len(batch) == BATCH_MESSAGES_MAX or size >= BATCH_BYTES_MAX:
                break
        return _Batch(batch, self._last_seq + 1, self._last)

    async def _compare(self, chunks: Sequence[Chunk], at: Progress) -> Progress:
        """Finds out what stands where the next record was to land."""
        try:
            return await self._arrived(await self._stream.info(), at, chunks)
        except SinkAhead as error:
            fenced = Fenced(
                f"another instance of this sink has published on: {error.message}",
                hint="Only one process may run this flow; this one has stopped.",
            )
        except Fenced as error:
            fenced = error
        self._check_open().fail(fenced)
        raise fenced

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
        end = max(at.next_seq, *(chunk.end_seq for chunk in chunks)) if chunks else at.next_seq
        claimed = _mark(last)
        landed = [] if claimed is None or claimed.seq >= end else [c for c in chunks if c.first_seq <= claimed.seq]
        mark = self._judge(last, cursor, range(at.next_seq, end), [await self._read(chunk) for chunk in landed])
        return progress_at(mark.seq + 1, at, chunks, _encode(cursor.created, head, mark.link.encode()))

    def _judge(self, last: StoredMessage, cursor: Cursor, due_seqs: range, landed: Sequence[Chunk]) -> _Mark:
        """Returns which of our records the stream's last message is, if it can be one of ``landed``."""
        mark, name = _mark(last), self._settings.name
        if mark is None or mark.fence != self._fence:
            raise ForeignWriter(
                f"message {last.seq} of stream {name} was published by "
                f"{mark.fence if mark else 'another writer'}; mode chain must be the only one",
                hint='Give the stream one writer, or use mode="batch". To go on behind it: streamflow reset --sink '
                "NAME --accept-head.",
            )
        next_seq = due_seqs.start
        if mark.seq >= due_seqs.stop:
            raise SinkAhead(
                f"stream {name} holds record {mark.seq} of this sink, but this store published only up to "
                f"{due_seqs.stop - 1}",
                hint="The store is an older copy. Use the newest, or: streamflow reset --sink NAME --accept-head.",
            )
        if mark.generation > self._generation:
            raise Fenced(
                f"stream {name} ends with a record of generation {mark.generation}; this is {self._generation}",
                hint="A newer instance of this flow has taken over; this one has stopped.",
            )
        index = mark.seq - next_seq
        frames = unpublished(landed, next_seq)[: index + 1]
        due = [(seq, frame) for seq, frame in enumerate(frames, next_seq) if frame]
        if index < 0 or len(due) != last.seq - cursor.seq:
            raise ForeignWriter(
                f"{last.seq - cursor.seq} messages came behind {cursor.seq} in stream {name}, but only "
                f"{len(due)} records of this sink are due up to number {mark.seq}",
                hint="Give the stream one writer. To go on behind it: streamflow reset --sink NAME --accept-head.",
            )
        link = cursor.link.encode()
        for seq, frame in due:
            link = linked(link, seq, frame)
        if mark.link.encode() != link:
            raise Fenced(
                f"stream {name} holds other content up to number {mark.seq} than this store",
                hint="Another instance runs on a copy of this store. Stop one of the two.",
            )
        return mark

    def _messages(self, chunks: Sequence[Chunk], seqs: range, cursor: Cursor) -> Iterator[Outgoing]:
        self._last = cursor.link.encode()
        in_batches, guard, link, previous = self._in_batches, self._guard, self._last, b""
        for expected, (seq, packed) in enumerate(self._live(chunks, seqs.start), cursor.seq):
            if seq >= seqs.stop:
                break
            frame = unpack(packed)
            subject = self._subject(seq, frame)
            link = linked(link, seq, packed)
            _, headers, payload = frame
            if in_batches:
                headers = _IN_BATCH % (headers, guard, seq, link)
            else:
                headers = _ALONE % (headers, guard, seq, link, expected, previous)
                previous = _EXPECTED_ID % link
            self._last, self._last_seq = link, seq
            yield subject, headers, payload

    def _seq_of(self, chunks: Sequence[Chunk], next_seq: int, index: int) -> int:
        return next(seq for at, (seq, _) in enumerate(self._live(chunks, next_seq)) if at == index)

    def _guard_lines(self, seq: int) -> bytes:
        return b"%s%d\r\n" % (self._guard, seq)

    def _overhead(self) -> int:
        return super()._overhead() + max(_LINKS_BYTES, BATCH_HEADER_BYTES + len(_OWN_ID) + 2 * LINK_BYTES)


def _is_at(outcome: Outcome, seq: int) -> bool:
    """Whether all landed, the last message at ``seq``; if it is elsewhere, that is the error."""
    if outcome.error is None and outcome.last is not None and outcome.last.seq != seq:
        outcome.error = ELSEWHERE
    return outcome.error is None


def _encode(created: str, seq: int, link: bytes) -> bytes:
    return msgspec.json.encode(Cursor(created, seq, link.decode()))


def _mark(message: StoredMessage) -> _Mark | None:
    headers = parse_headers(message.headers)
    seq, generation = headers.get("sf-seq", ""), headers.get("sf-gen", "")
    if "sf-fence" not in headers or not is_number(seq) or not is_number(generation):
        return None
    return _Mark(headers["sf-fence"], int(seq), int(generation), headers.get("sf-id") or headers.get("Nats-Msg-Id", ""))
