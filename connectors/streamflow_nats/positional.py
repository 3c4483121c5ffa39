"""Reading by position: an ephemeral consumer without acknowledgements, made anew wherever it breaks."""

from __future__ import annotations

from typing import Any, Final

from streamflow.batch import Position, Taken
from streamflow.connect.contracts import SourceContext
from streamflow.errors import ConnectorError, PositionAhead, RetentionGap, SourceReplaced, Unavailable
from streamflow_nats.jetstream import ApiError, JetStream, JetStreamError, StreamInfo
from streamflow_nats.pulls import Delivered, Pulls, payload_bytes_max
from streamflow_nats.stream import StreamSettings
from streamflow_nats.subjects import consumer_name

INACTIVE_SECONDS: Final = 60
RESTARTS_MAX: Final = 3
"""Consumers made in a row without one message before the engine gets to hear of it."""


class PositionalReader:
    """Reads a stream with limits retention; a position is the stream sequence of the next message.

    GUARANTEE: no message behind the position is left out silently. The server starts quietly at its first message
    when the one asked for is gone, and waits quietly when asked for one beyond its end; so state and creation time
    of the stream are compared whenever a consumer is made. While reading, sequences may be left out for good reasons
    (a filter, deleted messages, `max_msgs_per_subject`). Left out while the consumer had delivered all there was:
    fine. Left out while it lagged: if the stream's first sequence has meanwhile passed the place, messages may have
    expired unread, and that is refused. With a filter this can refuse where only other subjects' messages expired.
    """

    def __init__(self, stream: JetStream, settings: StreamSettings, ctx: SourceContext) -> None:
        self.identity = ""
        self._stream, self._settings, self._ctx = stream, settings, ctx
        self._made = 0
        self._restarts = 0
        self._started_at = 0
        self.starts: Position | None = None
        self._consumer = ""
        self.pulls: Pulls

    @classmethod
    async def open(
        cls,
        stream: JetStream,
        info: StreamInfo,
        settings: StreamSettings,
        ctx: SourceContext,
        resume: Position | None,
    ) -> PositionalReader:
        """Starts behind ``resume``, else where the settings say."""
        reader = cls(stream, settings, ctx)
        reader.identity = info.created
        if resume is None:
            at = info.state.last_seq + 1 if settings.start == "latest" else info.first
        else:
            at = resume.at
            check_position(reader._stream, info, at, resume.identity)
        await reader._attach(at)
        reader.starts = Position(at, info.created)
        return reader

    async def ready(self) -> None:
        """Makes a new consumer where the old one broke, and asks for more."""
        if self.pulls.trouble and not self.pulls.buffer and self.pulls.refusal is None:
            await self._restart()
        await self.pulls.top_up()

    async def sound(self) -> None:
        """Looks whether messages that were left out may have expired unread.

        Raises:
            RetentionGap: They may have.
        """
        if not self.pulls.holes:
            return
        at = self.pulls.holes[0]
        info = await self._stream.info()
        if info.first > at:
            raise _gap(self._stream, info, at)
        self.pulls.holes.clear()

    def ids(self, records: list[Delivered]) -> None:
        """None: positions do."""
        return

    async def committed(self, taken: Taken) -> None:
        """Nothing: the server holds no position of ours."""

    async def end(self) -> Position:
        """Returns the place behind the last message that can still be read."""
        last = await self._stream.message(last_on=self._settings.subject or ">")
        return Position(self.pulls.next_seq if last is None else last.seq + 1, self.identity)

    async def close(self) -> None:
        """Deletes the consumer, without waiting for the answer; it would vanish by itself."""
        self.pulls.stop()
        subject = f"{self._stream.prefix}.CONSUMER.DELETE.{self._stream.stream}.{self._consumer}"
        await self._stream.link.send(b"PUB %s 0\r\n\r\n" % subject.encode())

    async def _restart(self) -> None:
        self._restarts = self._restarts + 1 if self.pulls.next_seq == self._started_at else 1
        if self._restarts > RESTARTS_MAX:
            raise Unavailable(
                f"stream {self._stream.stream} cannot be read on: {self.pulls.trouble}",
                hint="It is tried again; see the server's log if this repeats.",
            )
        info = await self._stream.info()
        at = self.pulls.next_seq
        check_position(self._stream, info, at, self.identity)
        self.pulls.stop()
        await self._attach(at, self.pulls)

    async def _attach(self, at: int, before: Pulls | None = None) -> None:
        self._made += 1
        self._started_at = at
        link = self._stream.link
        unique = link.inbox.strip(".").rpartition(".")[2]
        ctx = self._ctx
        self._consumer = consumer_name("sf", ctx.flow[:60], ctx.source[:60], str(ctx.shard), unique, str(self._made))
        self.pulls = Pulls(self._stream, self._consumer, self._settings.limits, payload_bytes_max(ctx))
        if before is not None:
            self.pulls.paused = before.paused
            self.pulls.holes.extend(before.holes)
        await self.pulls.start(at)
        config: dict[str, Any] = {
            "name": self._consumer,
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": at,
            "ack_policy": "none",
            "replay_policy": "instant",
            "inactive_threshold": int(INACTIVE_SECONDS * 1e9),
            "mem_storage": True,
            "num_replicas": 1,
        }
        if self._settings.subject:
            config["filter_subject"] = self._settings.subject
        try:
            await self._stream.make_consumer(config)
        except JetStreamError as error:
            raise refused_consumer(self._stream, error) from None


def check_position(stream: JetStream, info: StreamInfo, at: int, identity: str) -> None:
    """Whether a stream still holds what comes next.

    Args:
        stream: The stream.
        info: What it is now.
        at: The sequence that comes next.
        identity: Of the stream that was read before.

    Raises:
        SourceReplaced: It is another one.
        RetentionGap: It begins behind what comes next.
        PositionAhead: It ends before it.
    """
    name, where = stream.stream, stream.link.nats
    if identity and identity != info.created:
        raise SourceReplaced(
            f"stream {name} at {where} was made at {info.created}; the one read before, at {identity}",
            hint="Bring the old stream back, or start anew with: streamflow reset.",
        )
    if at < info.first:
        raise _gap(stream, info, at)
    if at > info.state.last_seq + 1:
        raise PositionAhead(
            f"stream {name} at {where} ends at {info.state.last_seq}, but {at - 1} was already read",
            hint="The server lost messages (a restored backup?). Bring them back, or use: streamflow reset.",
        )


def _gap(stream: JetStream, info: StreamInfo, at: int) -> RetentionGap:
    return RetentionGap(
        f"stream {stream.stream} at {stream.link.nats} begins at {info.first}, but {at} comes next: what lay between "
        "was deleted unread",
        hint="Raise the stream's limits (max_age, max_msgs, max_bytes); to go on without: streamflow reset.",
    )


def refused_consumer(stream: JetStream, error: JetStreamError) -> ConnectorError:
    """Says why the server made no consumer."""
    explained = stream.explain(ApiError(400, error.code, error.description))
    if error.code in (10099, 10100):
        return ConnectorError(
            f"stream {stream.stream} is a work queue, and another consumer reads the same subjects of it",
            hint="Remove that consumer, or read other subjects (subject=).",
        )
    return explained
