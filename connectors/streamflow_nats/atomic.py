"""Mode batch: atomic batches, each of which moves a marker on that only the newest instance can move."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Final

import msgspec

from streamflow.batch import Chunk, Progress
from streamflow.connect.recovery import progress_at
from streamflow.errors import ConnectorError, Fenced, ForeignWriter, NotFound, ProgressUnknown, SinkAhead, Unavailable
from streamflow_nats.fence import take_over
from streamflow_nats.frames import Frame, unpack
from streamflow_nats.jetstream import WRONG_LAST_SEQUENCE, StreamConfig, StreamInfo
from streamflow_nats.link import Link
from streamflow_nats.publisher import (
    BATCH_BYTES_MAX,
    BATCH_HEADER_BYTES,
    BATCH_MESSAGES_MAX,
    BATCH_PASSING,
    BATCH_VERSION_MIN,
    Outgoing,
)
from streamflow_nats.sink import ROUNDS_MAX, Cursor, NatsSink, linked
from streamflow_nats.subjects import any_covers

RECORDS_MAX: Final = BATCH_MESSAGES_MAX - 1
"""One message of a batch is the marker."""
_EXPECTED: Final = b"Nats-Expected-Last-Subject-Sequence: %d\r\n"


class Marker(msgspec.Struct, frozen=True):
    """Content of the marker message.

    Args:
        next_seq: The first record that is not in the stream yet.
        generation: Of the store whose instance wrote it.
        instance: Random; tells this opened sink from every other.
        link: Id of the last record in the stream, made by `linked`; stands for the whole history of the sink.
    """

    next_seq: int
    generation: int
    instance: str
    link: str = ""


class AtomicSink(NatsSink):
    """Publishes to a stream that others may write to as well.

    GUARANTEE: exactly-once, for ever. BOUND: one batch of at most 1000 messages and 8 MiB on its way.

    Records go out in atomic batches (server 2.12 or newer, ``allow_atomic``): all of a batch lands, or nothing. The
    last message of each is a marker on a subject of this sink's own, ``<x>._sf.<fence name>``, which says what comes
    next, and which must follow the very marker that this instance wrote before
    (``Nats-Expected-Last-Subject-Sequence``). So a batch sent twice lands once, and the marker always tells what
    arrived.

    **Fencing.** Opening writes the marker anew, unchanged but for generation and instance. From then on the batch of
    an older instance does not follow the last marker any more and is thrown away whole: Fenced. After a lost
    acknowledgement or a rejection the marker is read: if this instance wrote it, it says what landed. Where
    another process with the same generation is alive, it runs on a copy of the store: this one gives way at once.

    **History.** The marker also carries an id that stands for all that this sink has published. Where two instances on
    copies of one store have committed different records under the same numbers, the second finds another id than its
    own, and is Fenced: it does not take the other's records for its own.

    **Refused.** The marker says more than the outbox holds: SinkAhead. It is gone, or older than the stored one:
    ProgressUnknown, unless nothing at all was published since, as after a purge of everything.

    Consumers of ``>`` or ``<x>.>`` see the markers; their header ``sf-marker`` names them.
    """

    _marker: Marker
    _marker_seq: int
    _marker_subject: str
    _found_seq: int
    _head_at_open: int
    _instance: str
    _replaced: Marker | None

    async def recover(self, stored: Progress | None, pending: Sequence[Chunk]) -> Progress:
        self._check_open()
        try:
            return await self._recover(stored, pending)
        except (SinkAhead, Fenced, ProgressUnknown):
            await self._give_back()
            raise

    async def _recover(self, stored: Progress | None, pending: Sequence[Chunk]) -> Progress:
        info = await self._stream.info()
        progress = Progress(0, 1) if stored is None else self._known(info, stored)
        if stored is None and self._marker.next_seq > 1:
            raise SinkAhead(
                f"stream {self._settings.name} holds records of this sink up to {self._marker.next_seq - 1}, but "
                "the store knows of none",
                hint="The store is an older copy. Use the newest, or: streamflow reset --sink NAME --accept-head.",
            )
        found = self._marker.next_seq if self._found_seq else progress.next_seq
        truth = progress_at(found, progress, pending)
        link = self._link_at(found, progress, pending)
        if self._found_seq and link and self._marker.link not in ("", link):
            raise Fenced(
                f"stream {self._settings.name} holds other content up to number {found - 1} than this store",
                hint="Another instance runs on a copy of this store. Stop one of the two.",
            )
        # Only now: an older copy of the store, which is behind, shall hear SinkAhead rather than Fenced.
        if self._marker.generation > self._generation:
            raise self._fenced()
        if not self._found_seq:
            if not await self._write_marker(Marker(found, self._generation, self._instance, link)):
                raise Unavailable(
                    f"another instance has just begun to publish to stream {self._settings.name}",
                    hint="The sink is opened again.",
                )
            self._found_seq = self._marker_seq
        return Progress(truth.epoch, truth.next_seq, self._cursor(info.created))

    def _link_at(self, next_seq: int, progress: Progress, pending: Sequence[Chunk]) -> str:
        """The id that the last record before ``next_seq`` has by this store's history."""
        link = msgspec.json.decode(progress.cursor, type=Cursor).link if progress.cursor else ""
        if not link and progress.next_seq > 1:
            return ""
        for seq, frame in self._live(pending, progress.next_seq):
            if seq >= next_seq:
                break
            link = linked(link.encode(), seq, frame).decode()
        return link

    def _known(self, info: StreamInfo, stored: Progress) -> Progress:
        """Compares what was stored with the marker that `open` found."""
        cursor = self._decode_cursor(stored, info)
        if not self._found_seq and self._head_at_open != cursor.seq:
            raise ProgressUnknown(
                f"the marker {self._marker_subject} of this sink is gone from stream {self._settings.name}",
                hint="Look at what consumers got, then: streamflow reset --sink NAME --accept-head.",
            )
        if 0 < self._found_seq < cursor.seq:
            raise ProgressUnknown(
                f"stream {self._settings.name} went back: its marker stands at {self._found_seq}, not {cursor.seq}",
                hint="Restore the stream, or: streamflow reset --sink NAME --accept-head.",
            )
        return stored

    async def publish(self, chunks: Sequence[Chunk], at: Progress) -> Progress:
        self._check_open()
        created = msgspec.json.decode(at.cursor, type=Cursor).created
        assert at.next_seq <= self._marker.next_seq, f"{at.next_seq} is ahead of {self._marker}"
        end = max(at.next_seq, chunks[-1].first_seq + chunks[-1].count)
        rounds = 0
        while self._marker.next_seq < end:
            if self._marker.next_seq > at.next_seq:
                self._point("publish.part")
            records, following = self._next_batch(chunks, end)
            rounds = 0 if await self._publish_batch(records, following) else rounds + 1
            if rounds >= ROUNDS_MAX:
                raise Unavailable(
                    f"stream {self._settings.name} throws batches away", hint="See the server's log. It is tried again."
                )
        return progress_at(end, at, chunks, self._cursor(created))

    async def _opened(self, info: StreamInfo) -> None:
        link = self._check_open()
        problem = atomic_problem(info.config, link)
        if problem is not None:
            raise problem
        await take_over(link, self._fence, self._generation, equals_only=True)
        self._instance = secrets.token_hex(8)
        self._marker_subject = marker_subject(info.config, self._fence)
        self._head_at_open = info.state.last_seq
        await self._read_marker()
        self._found_seq, self._replaced = self._marker_seq, None
        for _ in range(ROUNDS_MAX):
            # Where there is none, `recover` writes the first: it knows what was published before a purge.
            if self._found_seq == 0 or self._marker.generation > self._generation:
                return
            found = self._marker
            if await self._write_marker(self._in_our_name(found)):
                self._replaced = found
                return
            await self._read_marker()
        raise Unavailable(
            f"another instance keeps moving the marker in stream {self._settings.name}",
            hint="Is a second process running this flow? It is tried again.",
        )

    def _fenced(self) -> Fenced:
        return Fenced(
            f"the marker of this sink in stream {self._settings.name} was moved by another instance, of generation "
            f"{self._marker.generation}; this is {self._generation}",
            hint="A newer instance of this flow has taken over; this one has stopped.",
        )

    async def _read_marker(self) -> None:
        """Reads the marker; where there is none, one that says that nothing was published."""
        message = await self._stream.message(last_on=self._marker_subject)
        if message is None:
            self._marker, self._marker_seq = Marker(1, 0, ""), 0
            return
        try:
            self._marker = msgspec.json.decode(message.data, type=Marker)
        except msgspec.MsgspecError:
            raise ForeignWriter(
                f"message {message.seq} on {self._marker_subject} is no marker of streamflow",
                hint="Let nobody else publish on subjects with the token _sf.",
            ) from None
        self._marker_seq = message.seq

    async def _give_back(self) -> None:
        """Puts the marker back as it was before `open`, if nobody has moved it since.

        Else each attempt to start an older copy of the store would raise the generation that the newest must have.
        """
        if self._replaced is not None:
            await self._write_marker(self._replaced)
            self._replaced = None

    def _in_our_name(self, marker: Marker) -> Marker:
        return msgspec.structs.replace(marker, generation=self._generation, instance=self._instance)

    async def _write_marker(self, marker: Marker) -> bool:
        """Writes the marker; False if somebody else was faster."""
        outcome = await self._publisher.run([self._marker_message(marker)])
        if outcome.error is not None:
            if outcome.error.err_code in WRONG_LAST_SEQUENCE:
                return False
            raise self._refused(marker.next_seq, outcome.error)
        assert outcome.last is not None, "a published message is acknowledged"
        self._marker, self._marker_seq = marker, outcome.last.seq
        return True

    def _next_batch(self, chunks: Sequence[Chunk], end: int) -> tuple[list[tuple[int, Frame]], Marker]:
        """Takes the records of one batch, and makes the marker that goes with them."""
        records: list[tuple[int, Frame]] = []
        size, link, next_seq = 0, self._marker.link.encode(), end
        for seq, packed in self._live(chunks, self._marker.next_seq):
            frame = unpack(packed)
            size += len(frame.payload) + len(frame.headers) + self._overhead()
            if len(records) == RECORDS_MAX or (records and size > BATCH_BYTES_MAX):
                next_seq = seq
                break
            records.append((seq, frame))
            link = linked(link, seq, packed)
        return records, Marker(next_seq, self._generation, self._instance, link.decode())

    async def _publish_batch(self, records: list[tuple[int, Frame]], marker: Marker) -> bool:
        """Publishes one batch; False if it was thrown away for a reason that may pass.

        Raises:
            Fenced: A newer instance has moved the marker.
        """
        next_seq = marker.next_seq
        messages = [
            (self._subject(seq, frame), frame.headers + self._guard_lines(seq), frame.payload) for seq, frame in records
        ]
        outcome = await self._publisher.run_batch([*messages, self._marker_message(marker)])
        error = outcome.error
        if error is None:
            assert outcome.last is not None, "what is published is acknowledged"
            self._marker, self._marker_seq = marker, outcome.last.seq
            return True
        if error.err_code in WRONG_LAST_SEQUENCE:
            await self._read_marker()
            if self._marker.instance != self._instance:
                fenced = self._fenced()
                # For good: the sequence just read would let the next batch through.
                self._check_open().fail(fenced)
                raise fenced
            return bool(self._marker.next_seq >= next_seq)
        if error.err_code in BATCH_PASSING or error.code in (408, 429, 503):
            return False
        at = min(outcome.failed_at, len(records) - 1)
        raise self._refused(records[at][0] if records else next_seq, error)

    def _marker_message(self, marker: Marker) -> Outgoing:
        headers = b"sf-marker: 1\r\n" + _EXPECTED % self._marker_seq
        return self._marker_subject.encode(), headers, msgspec.json.encode(marker)

    def _guard_lines(self, seq: int) -> bytes:
        return b"sf-fence: %s\r\nsf-seq: %d\r\n" % (self._fence.encode(), seq)

    def _overhead(self) -> int:
        return super()._overhead() + BATCH_HEADER_BYTES

    def _cursor(self, created: str) -> bytes:
        return msgspec.json.encode(Cursor(created, self._marker_seq, self._marker.link, self._marker_subject))


def atomic_problem(config: StreamConfig, link: Link) -> ConnectorError | None:
    """Says why mode batch cannot work on this stream, if it cannot."""
    if link.version < BATCH_VERSION_MIN:
        return ConnectorError(
            f"mode batch needs NATS 2.12 or newer; {link.nats} is {link.info.get('version')}",
            hint='Upgrade the server, or use mode="chain" on a stream with one writer.',
        )
    if not config.allow_atomic:
        return ConnectorError(
            f"stream {config.name} does not allow atomic batches",
            hint=f"Allow them: nats stream edit {config.name} --allow-batch (allow_atomic: true).",
        )
    return None


def marker_subject(config: StreamConfig, fence: str) -> str:
    """Chooses the subject of a sink's marker among those that the stream holds.

    Raises:
        NotFound: The stream holds none that would do.
    """
    own = f"{config.name}._sf.{fence}"
    if any_covers(config.subjects, own):
        return own
    for subject in sorted(config.subjects):
        if subject == ">" or (subject.endswith(".>") and "*" not in subject):
            return f"{subject[:-1]}_sf.{fence}"
    raise NotFound(
        f"stream {config.name} holds {', '.join(config.subjects)}: no place for the marker of mode batch",
        hint=f"Add one: nats stream edit {config.name} --subjects "
        f'"{",".join([*config.subjects, f"{config.name}._sf.>"])}"',
    )
