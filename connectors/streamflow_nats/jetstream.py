"""The part of JetStream's API that source and sink need: streams, single messages, consumers, and its errors."""

from __future__ import annotations

import base64
from datetime import datetime
from typing import Any, Final, TypeVar

import msgspec

from streamflow.errors import ConnectorError, NotFound, Unavailable
from streamflow_nats.link import Link
from streamflow_nats.subjects import any_covers, overlap

A = TypeVar("A")

# Error codes of the server (server/errors.json in nats-io/nats-server).
CONSUMER_NOT_FOUND: Final = 10014
NO_MESSAGE: Final = 10037
NOT_ENABLED: Final = (10039, 10076)
STREAM_NOT_FOUND: Final = 10059
WRONG_LAST_SEQUENCE: Final = (10070, 10071, 10164)
MESSAGE_TOO_LARGE: Final = 10054
WRONG_STREAM: Final = 10060
SEALED: Final = 10109


class ApiError(msgspec.Struct, frozen=True):
    """The server's own error: HTTP-like class, code, text."""

    code: int = 0
    err_code: int = 0
    description: str = ""


class StreamConfig(msgspec.Struct, frozen=True):
    """The settings of a stream that matter here."""

    name: str
    subjects: list[str] = []
    retention: str = "limits"
    max_msg_size: int = -1
    duplicate_window: int = 0
    sealed: bool = False
    allow_atomic: bool = False
    mirror: Any = None
    sources: Any = None
    subject_transform: Any = None


class StreamState(msgspec.Struct, frozen=True):
    """What a stream holds."""

    messages: int = 0
    first_seq: int = 0
    last_seq: int = 0


class StreamInfo(msgspec.Struct, frozen=True):
    """A stream: settings, content, and ``created``, which tells it from a later one of the same name."""

    config: StreamConfig
    state: StreamState
    created: str

    @property
    def first(self) -> int:
        """The first sequence that can be read, or that comes next in an empty stream."""
        return max(1, self.state.first_seq if self.state.messages else self.state.last_seq + 1)


class StoredMessage(msgspec.Struct, frozen=True):
    """A message as the stream holds it; headers as they stand on the wire, without the first line."""

    subject: str
    seq: int
    headers: bytes
    data: bytes
    stored_at: datetime


class _RawMessage(msgspec.Struct):
    subject: str
    seq: int
    time: datetime
    hdrs: str = ""
    data: str = ""


class _InfoAnswer(msgspec.Struct):
    config: StreamConfig | None = None
    state: StreamState | None = None
    created: str = ""
    error: ApiError | None = None


class _MessageAnswer(msgspec.Struct):
    message: _RawMessage | None = None
    error: ApiError | None = None


class ConsumerState(msgspec.Struct, frozen=True):
    """Where a consumer stands."""

    name: str = ""
    delivered: dict[str, Any] = {}
    num_ack_pending: int = 0
    num_pending: int = 0
    config: dict[str, Any] = {}
    error: ApiError | None = None


class JetStreamError(Exception):
    """The server refused a request; turned into one of the library's errors by who asked."""

    def __init__(self, error: ApiError) -> None:
        super().__init__(f"{error.description} ({error.err_code})")
        self.code = error.err_code
        self.description = error.description


class JetStream:
    """Asks for one stream over one connection."""

    def __init__(self, link: Link, stream: str) -> None:
        self.link = link
        self.stream = stream
        domain = link.nats.domain
        self.prefix = f"$JS.{domain}.API" if domain else "$JS.API"

    async def info(self) -> StreamInfo:
        """Reads settings and state of the stream.

        Raises:
            NotFound: There is no such stream.
            Unavailable: JetStream does not answer.
        """
        answer = await self._ask(f"STREAM.INFO.{self.stream}", b"", _InfoAnswer)
        if answer.error is not None:
            raise self.explain(answer.error)
        assert answer.config is not None, "an answer without error has a config"
        assert answer.state is not None, "an answer without error has a state"
        return StreamInfo(answer.config, answer.state, answer.created)

    async def message(self, *, seq: int = 0, last_on: str = "") -> StoredMessage | None:
        """Reads one message by its sequence, or the last one on a subject (wildcards allowed); None if gone."""
        request = {"last_by_subj": last_on} if last_on else {"seq": seq}
        answer = await self._ask(f"STREAM.MSG.GET.{self.stream}", msgspec.json.encode(request), _MessageAnswer)
        if answer.error is not None:
            if answer.error.err_code == NO_MESSAGE:
                return None
            raise self.explain(answer.error)
        raw = answer.message
        assert raw is not None, "an answer without error has a message"
        try:
            headers, data = base64.b64decode(raw.hdrs), base64.b64decode(raw.data)
        except ValueError as error:
            raise self._unreadable(error) from None
        return StoredMessage(raw.subject, raw.seq, headers.partition(b"\r\n")[2], data, raw.time)

    async def make_consumer(self, config: dict[str, Any]) -> ConsumerState:
        """Makes the consumer that ``config`` names, or finds the one that has these settings.

        Raises:
            JetStreamError: The server refuses it.
        """
        name, filtered = config["name"], config.get("filter_subject", "")
        subject = f"CONSUMER.CREATE.{self.stream}.{name}" + (f".{filtered}" if filtered else "")
        request = msgspec.json.encode({"stream_name": self.stream, "config": config})
        answer = await self._ask(subject, request, ConsumerState)
        if answer.error is not None:
            raise JetStreamError(answer.error)
        return answer

    async def consumer(self, name: str) -> ConsumerState | None:
        """Reads where a consumer stands; None if there is none of that name."""
        answer = await self._ask(f"CONSUMER.INFO.{self.stream}.{name}", b"", ConsumerState)
        if answer.error is None:
            return answer
        if answer.error.err_code == CONSUMER_NOT_FOUND:
            return None
        raise self.explain(answer.error)

    async def delete_consumer(self, name: str) -> None:
        """Deletes a consumer, if it is there."""
        answer = await self._ask(f"CONSUMER.DELETE.{self.stream}.{name}", b"", ConsumerState)
        if answer.error is not None and answer.error.err_code != CONSUMER_NOT_FOUND:
            raise self.explain(answer.error)

    def explain(self, error: ApiError) -> ConnectorError:
        """Turns the server's error into the library's."""
        where = f"at {self.link.nats}"
        if error.err_code == STREAM_NOT_FOUND:
            return NotFound(
                f"there is no stream {self.stream} {where}",
                hint=f'Make it first: nats stream add {self.stream} --subjects "{self.stream.lower()}.>" --defaults',
            )
        if error.err_code in NOT_ENABLED:
            return ConnectorError(
                f"JetStream is not enabled for this account {where}",
                hint="Start the server with -js, or give the account jetstream: enabled.",
            )
        if error.code in (408, 429, 503) or error.code == 500:
            return Unavailable(
                f"JetStream {where} cannot do it now: {error.description}", hint="It is tried again by itself."
            )
        return ConnectorError(
            f"stream {self.stream} {where}: {error.description} ({error.err_code})",
            hint="The number is the server's error code; see the stream's settings.",
        )

    async def _ask(self, subject: str, payload: bytes, answer: type[A]) -> A:
        data = await self.link.request(f"{self.prefix}.{subject}", payload)
        try:
            return msgspec.json.decode(data, type=answer)
        except (ValueError, RecursionError) as error:
            raise self._unreadable(error) from None

    def _unreadable(self, error: Exception) -> ConnectorError:
        return ConnectorError(
            f"NATS at {self.link.nats} gave an answer that cannot be read: {error}",
            hint="Is something else than a NATS server answering on $JS.API?",
        )


def check_bound(info: StreamInfo, subject: str, *, to_read: bool) -> None:
    """Refuses a subject that the stream does not hold.

    Args:
        info: The stream.
        subject: What to read (wildcards allowed) or to publish on.
        to_read: Whether it is enough that stream and subject have something in common.

    Raises:
        NotFound: The subject is not bound to the stream.
    """
    config = info.config
    if config.mirror is not None or config.sources is not None or config.subject_transform is not None:
        return
    if any_covers(config.subjects, subject):
        return
    if to_read and any(overlap(own, subject) for own in config.subjects):
        return
    held = ", ".join(config.subjects) or "nothing"
    both = ",".join([*config.subjects, subject])
    raise NotFound(
        f"subject {subject} is not bound to stream {config.name}, which holds {held}",
        hint=f'Use one of those, or bind it: nats stream edit {config.name} --subjects "{both}"',
    )


def is_number(text: str) -> bool:
    """Whether a header is a number as the server and this connector write them: up to 20 plain digits."""
    return 0 < len(text) <= 20 and text.isascii() and text.isdigit()


def parse_headers(raw: bytes) -> dict[str, str]:
    """Splits header lines (without the first, ``NATS/1.0``); of a repeated name the last value stays."""
    headers: dict[str, str] = {}
    for line in raw.split(b"\r\n"):
        name, colon, value = line.partition(b":")
        if colon:
            headers[name.decode("utf-8", "replace")] = value.strip().decode("utf-8", "replace")
    return headers
