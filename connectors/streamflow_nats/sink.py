"""What the three kinds of sink share: opening, encoding, subjects, sizes, refusals."""

from __future__ import annotations

from binascii import hexlify
from collections.abc import Awaitable, Callable, Iterator, Sequence
from hashlib import blake2b
from typing import Any, Final

import msgspec

from streamflow.batch import Chunk, Fragment, Progress
from streamflow.codecs import Codec
from streamflow.connect.contracts import Frames, Guarantee, Probe, SinkContext, SinkOptions
from streamflow.connect.recovery import unpublished
from streamflow.errors import ConnectorError, NotFound, ProgressUnknown, RecordRejected, Unavailable
from streamflow_nats.frames import Frame, FrameEncoder
from streamflow_nats.jetstream import MESSAGE_TOO_LARGE, ApiError, JetStream, StreamInfo, check_bound
from streamflow_nats.link import Link
from streamflow_nats.publisher import NOBODY, Publisher
from streamflow_nats.settings import Nats
from streamflow_nats.stream import StreamSettings
from streamflow_nats.subjects import any_covers, as_tokens, is_literal

LINK_BYTES: Final = 12
ROUNDS_MAX: Final = 3
"""Attempts to publish a run when part of it turns out to be there already."""
_SUBJECTS_REMEMBERED: Final = 4096
_STATUS_LINES: Final = len(b"NATS/1.0\r\n\r\n")


class Cursor(msgspec.Struct, frozen=True, omit_defaults=True):
    """The broker's mark in a stored `Progress`.

    Args:
        created: Creation time of the stream, which tells it from a later one of the same name.
        seq: The stream's last sequence (chain), or that of the marker (batch).
        link: Id of the last record published, made by `linked`; stands for the whole history of the sink.
        marker: Subject of the marker (batch).
    """

    created: str
    seq: int
    link: str = ""
    marker: str = ""


class NatsSink:
    """Base of the sinks; see `ChainSink`, `AtomicSink`, `MessageIdSink` for what they guarantee.

    Args:
        nats: The server.
        settings: The stream.
        codec: Encodes values.
        options: What ``to`` added.
        guarantee: What the spec promises.
    """

    def __init__(
        self, nats: Nats, settings: StreamSettings, codec: Codec[Any], options: SinkOptions, guarantee: Guarantee
    ) -> None:
        self.guarantee = guarantee
        self._nats, self._settings, self._options = nats, settings, options
        self._encoder = FrameEncoder(codec, options, settings.subject, f"nats stream {settings.name}")
        self._link: Link | None = None
        self._stream: JetStream
        self._publisher: Publisher
        self._fence = ""
        self._generation = 0
        self._read: Callable[[Chunk], Awaitable[Chunk]]
        self._subjects: list[str] = []
        self._default_subject = b""
        self._checked: set[bytes] = set()
        self._message_bytes_max = 0
        self._frame_bytes_max = 0
        self._point: Callable[[str], None]

    async def probe(self) -> Probe:
        from streamflow_nats.probe import probe_sink

        return await probe_sink(self._nats, self._settings, self._options)

    async def open(self, ctx: SinkContext) -> None:
        await self.close()
        self._fence, self._generation, self._read = as_tokens(ctx.fence), ctx.generation, ctx.read
        self._link = await Link.connect(self._nats, f"streamflow {ctx.flow} {ctx.sink}")
        try:
            await self._start(self._link, ctx)
        except BaseException:
            await self.close()
            raise

    def encode(self, records: Fragment) -> Frames:
        return self._encoder.encode(records)

    async def recover(self, stored: Progress | None, pending: Sequence[Chunk]) -> Progress:
        raise NotImplementedError

    async def publish(self, chunks: Sequence[Chunk], at: Progress) -> Progress:
        raise NotImplementedError

    async def close(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            await link.close()

    async def _start(self, link: Link, ctx: SinkContext) -> None:
        self._stream = JetStream(link, self._settings.name)
        info = await self._stream.info()
        check_writable(info, self._settings)
        self._default_subject = default_subject(info, self._settings, self._options).encode()
        self._subjects = info.config.subjects
        self._checked.clear()
        self._message_bytes_max = message_bytes_max(link, info)
        self._encoder.sink = ctx.sink
        # Once, not per record: working it out writes guard lines.
        self._frame_bytes_max = self._encoder.frame_bytes_max = self._message_bytes_max - self._overhead()
        self._point = ctx.point
        self._publisher = Publisher(link, self._settings.limits, ctx.point)
        await self._publisher.start()
        await self._opened(info)

    async def _opened(self, info: StreamInfo) -> None:
        """What a kind of sink does at the end of `open`."""

    def _guard_lines(self, seq: int) -> bytes:
        """The header lines that every message of this sink carries."""
        raise NotImplementedError

    def _overhead(self) -> int:
        """Bytes that publishing adds to a frame, at most."""
        return _STATUS_LINES + len(self._guard_lines(1 << 62)) + 80

    def _check_open(self) -> Link:
        if self._link is None:
            raise Unavailable(f"the sink on {self._settings.name} is not open", hint="Open it first.")
        self._link.check()
        return self._link

    def _live(self, chunks: Sequence[Chunk], next_seq: int) -> Iterator[tuple[int, bytes]]:
        """The frames from ``next_seq`` on with their numbers, without those that were given up."""
        for seq, frame in enumerate(unpublished(chunks, next_seq), next_seq):
            if frame:
                yield seq, frame

    def _subject(self, seq: int, frame: Frame) -> bytes:
        """The subject of a frame, known to be the stream's, and its size, known to fit."""
        subject, headers, payload = frame
        if len(headers) + len(payload) > self._frame_bytes_max:
            raise self._too_large(seq, len(headers) + len(payload))
        subject = subject or self._default_subject
        if subject in self._checked:
            return subject
        if not subject or not any_covers(self._subjects, subject.decode()):
            raise RecordRejected(
                seq,
                f"record {seq}: subject {subject.decode() or '(none)'} is not bound to stream {self._settings.name}, "
                f"which holds {', '.join(self._subjects)}",
                hint="Correct subject= of to(...), or bind the subject to the stream.",
            )
        if len(self._checked) >= _SUBJECTS_REMEMBERED:
            self._checked.clear()
        self._checked.add(subject)
        return subject

    def _too_large(self, seq: int, size: int) -> RecordRejected:
        return RecordRejected(
            seq,
            f"record {seq} has {size} bytes; server and stream {self._settings.name} take {self._message_bytes_max} "
            f"with {self._overhead()} for the guard",
            hint="Raise max_payload on the server and max_msg_size on the stream, or emit smaller values.",
        )

    def _refused(self, seq: int, error: ApiError) -> ConnectorError:
        """What the server's refusal of one message means."""
        if error.err_code == MESSAGE_TOO_LARGE:
            return self._too_large(seq, 0)
        if error is NOBODY:
            return NotFound(
                f"nobody listens where stream {self._settings.name} did: was it deleted, or its subjects changed?",
                hint="Bring the stream and its subjects back; the sink then goes on.",
            )
        return self._stream.explain(error)

    def _decode_cursor(self, progress: Progress, info: StreamInfo) -> Cursor:
        """Reads the stored mark and refuses one of another stream."""
        cursor = msgspec.json.decode(progress.cursor, type=Cursor)
        if cursor.created != info.created:
            raise ProgressUnknown(
                f"stream {self._settings.name} at {self._nats} was made at {info.created}; the one published to, at "
                f"{cursor.created}",
                hint="Bring the old stream back, or start on the new one with: streamflow reset --sink NAME "
                "--accept-head.",
            )
        return cursor


def linked(link: bytes, seq: int, frame: bytes) -> bytes:
    """The id of a record: a hash of the id before it, its number and its frame."""
    return hexlify(blake2b(b"%s %d %s" % (link, seq, frame), digest_size=LINK_BYTES).digest())


def check_writable(info: StreamInfo, settings: StreamSettings) -> None:
    """Refuses streams on which the guard of the mode would not hold.

    Raises:
        ConnectorError: The stream is a mirror, sealed, has other writers, or forgets what it must keep.
    """
    config = info.config
    if config.mirror is not None or config.sealed:
        kind = "a mirror" if config.mirror is not None else "sealed"
        raise ConnectorError(
            f"stream {config.name} is {kind}: nothing can be published to it", hint="Choose another stream."
        )
    if settings.mode == "chain" and config.sources is not None:
        raise ConnectorError(
            f"stream {config.name} takes messages from other streams, but mode chain must be its only writer",
            hint='Use mode="batch", or a stream without sources.',
        )
    if settings.mode == "chain" and config.retention != "limits":
        raise ConnectorError(
            f"stream {config.name} has {config.retention} retention: its last message, which shows what arrived, goes "
            "away when it is read",
            hint='Use a stream with limits retention, or mode="msgid" (at-least-once).',
        )
    if settings.mode == "batch" and config.retention == "interest":
        raise ConnectorError(
            f"stream {config.name} has interest retention: the marker of mode batch would not be kept",
            hint='Use a stream with limits retention, or mode="msgid" (at-least-once).',
        )


def default_subject(info: StreamInfo, settings: StreamSettings, options: SinkOptions) -> str:
    """Where to publish; empty if each record says so.

    Raises:
        ConnectorError: Nothing says so.
        NotFound: The subject is not the stream's.
    """
    if options.subject is not None:
        return ""
    subjects = info.config.subjects
    if settings.subject:
        check_bound(info, settings.subject, to_read=False)
        return settings.subject
    plain = [subject for subject in subjects if is_literal(subject)]
    if len(subjects) == 1 and plain:
        return plain[0]
    raise NotFound(
        f"stream {info.config.name} holds {', '.join(subjects)}: on which subject shall the sink publish?",
        hint="Say nats.stream(..., subject=) or to(..., subject=lambda record: ...).",
    )


def message_bytes_max(link: Link, info: StreamInfo) -> int:
    """The largest message, headers included, that server and stream take."""
    own = info.config.max_msg_size
    return min(link.payload_bytes_max, own) if own > 0 else link.payload_bytes_max
