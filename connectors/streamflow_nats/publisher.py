"""Publishing with a window: own inbox, integer tokens, every answer seen, nothing waits for ever.

nats-py's publish_async drops the server's errors (nats.py #985) and has no timeout.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import msgspec

from streamflow.errors import Unavailable
from streamflow_nats.jetstream import ApiError
from streamflow_nats.link import NO_RESPONDERS, Link
from streamflow_nats.settings import Limits

SEND_RECORDS_MAX: Final = 128
"""Messages joined into one write; bounds how long the loop is held."""
BATCH_MESSAGES_MAX: Final = 1000
BATCH_BYTES_MAX: Final = 8 * 1024 * 1024
BATCH_VERSION_MIN: Final = (2, 12)
BATCH_PASSING: Final = (10176, 10210)
"""Why the server throws a batch away for reasons that pass: incomplete (timed out), or too many are open."""
NOBODY: Final = ApiError(503, 503, "no stream listens on the subject")
ELSEWHERE: Final = ApiError(400, 10071, "the message landed, or is known, at another sequence")


class PubAck(msgspec.Struct, frozen=True):
    """The server's answer to a published message."""

    stream: str = ""
    seq: int = 0
    duplicate: bool = False
    error: ApiError | None = None


Outgoing = tuple[bytes, bytes, bytes]
"""A message ready to be sent: subject, all header lines, payload."""


@dataclass(slots=True)
class Outcome:
    """What became of a run of messages.

    Args:
        acked: How many were acknowledged.
        failed_at: Index of the first one that was refused; -1 if none was.
        error: Why it was refused.
        last: The acknowledgement with the highest sequence.
    """

    acked: int = 0
    failed_at: int = -1
    error: ApiError | None = None
    last: PubAck | None = None


class _Group(NamedTuple):
    """Messages for which one answer is awaited, and their bytes."""

    records: int
    size_bytes: int


_LINE: Final = b"HPUB %s %s%d %d\r\nNATS/1.0\r\n%s\r\n%s\r\n"
_BATCH: Final = b"Nats-Batch-Id: %s\r\nNats-Batch-Sequence: %d\r\n"
_COMMIT: Final = b"Nats-Batch-Commit: 1\r\n"
BATCH_HEADER_BYTES: Final = len(_BATCH + _COMMIT) + 32 + 4
"""What being part of a batch adds to a message, at most."""

_decode = msgspec.json.Decoder(PubAck).decode


class Publisher:
    """Publishes runs of messages over one link.

    GUARANTEE: when `run` returns, every message was answered, up to the first refusal: behind that nothing more is
    sent, and what was on its way is answered too. A lost connection or a silent server raises Unavailable; then any
    part of the run may have landed. BOUND: ``publish_window_records`` and ``publish_window_bytes``.

    Args:
        link: The connection.
        limits: The window.
        point: Called at the crash point ``publish.part``, between two writes.
    """

    def __init__(self, link: Link, limits: Limits, point: Callable[[str], None]) -> None:
        self._link, self._limits, self._point = link, limits, point
        self._runs = itertools.count(1)
        self._inbox = b""
        self._run = b""
        self._awaited: dict[int, _Group] = {}
        self._in_flight_records = self._in_flight_bytes = 0
        self._first_seq = 0
        self._outcome = Outcome()
        self._progress = asyncio.Event()

    async def start(self) -> None:
        """Listens for acknowledgements."""
        self._inbox = f"{self._link.inbox}p.".encode()
        await self._link.subscribe(self._inbox.decode() + "*.*", self._on_ack)
        self._link.lost.add_done_callback(lambda _: self._progress.set())

    async def run(self, messages: Iterable[Outgoing], first_seq: int = 0, *, chained: bool = False) -> Outcome:
        """Publishes messages in order.

        Args:
            messages: What to publish.
            first_seq: Where the first one must land, the others behind it; 0 for anywhere.
            chained: Whether each lands only behind the one before it. Then only the last of each write is answered,
                for all of them; a refusal says that one of them did not land, neither which nor why.

        Raises:
            Unavailable: The connection is lost, or no acknowledgement came in time.
        """
        self._run = b"%d" % next(self._runs)
        self._awaited, self._in_flight_records, self._in_flight_bytes, self._first_seq = {}, 0, 0, first_seq
        outcome = self._outcome = Outcome()
        source, sent = iter(messages), 0
        while outcome.error is None:
            lines = self._lines(source, sent, chained)
            if not lines:
                break
            if sent:
                self._point("publish.part")
            sent += len(lines)
            await self._link.send(b"".join(lines))
            await asyncio.sleep(0)  # or the server would get nothing to do before the window is full
            while self._full() and outcome.error is None:
                await self._wait()
        return await self._answered()

    async def run_batch(self, messages: Sequence[Outgoing]) -> Outcome:
        """Publishes one atomic batch (ADR-50): all of it lands, or nothing; the server answers the first and the last.

        Args:
            messages: At most `BATCH_MESSAGES_MAX`; a single one is published plainly.

        Raises:
            Unavailable: The connection is lost, or no acknowledgement came in time.
        """
        await self.begin_batch(messages)
        return await self.end_batch()

    async def begin_batch(self, messages: Sequence[Outgoing]) -> None:
        """Sends one atomic batch, as `run_batch` does; `end_batch` must follow before anything else is published."""
        self._run = b"%d" % next(self._runs)
        last = len(messages) - 1
        self._awaited = dict.fromkeys((0, last), _Group(1, 0))
        self._in_flight_records, self._in_flight_bytes, self._first_seq = len(self._awaited), 0, 0
        self._outcome = Outcome()
        batch = secrets.token_hex(16).encode()
        for at in range(0, len(messages), SEND_RECORDS_MAX):
            if at:
                self._point("publish.part")
            lines = []
            for index, (subject, headers, payload) in enumerate(messages[at : at + SEND_RECORDS_MAX], at):
                part = _BATCH % (batch, index + 1) if last else b""
                block = b"".join((headers, part, _COMMIT if last and index == last else b""))
                reply = self._reply(index) if index in (0, last) else b""
                size = len(block) + 12
                lines.append(_LINE % (subject, reply, size, size + len(payload), block, payload))
            await self._link.send(b"".join(lines))
            await asyncio.sleep(0)

    async def end_batch(self) -> Outcome:
        """Waits for what became of the batch."""
        return await self._answered()

    async def _answered(self) -> Outcome:
        while self._awaited:
            await self._wait()
        return self._outcome

    def _lines(self, source: Iterator[Outgoing], first: int, chained: bool) -> list[bytes]:
        """Takes the messages of one write, the first of which is number ``first`` of the run."""
        lines: list[bytes] = []
        room = min(SEND_RECORDS_MAX, self._limits.publish_window_records - self._in_flight_records)
        bytes_left = self._limits.publish_window_bytes - self._in_flight_bytes
        message, written = next(source, None), 0
        while message is not None:
            subject, headers, payload = message
            size = len(headers) + 12
            total = size + len(payload)
            written += total
            index = first + len(lines)
            ended = len(lines) + 1 == room or written >= bytes_left
            message = None if ended else next(source, None)
            reply = b""
            if not chained:
                reply = self._reply(index)
                self._awaited[index] = _Group(1, total)
            elif message is None:
                reply = self._reply(index)
                self._awaited[index] = _Group(len(lines) + 1, written)
            lines.append(_LINE % (subject, reply, size, total, headers, payload))
        self._in_flight_records += len(lines)
        self._in_flight_bytes += written
        return lines

    def _reply(self, index: int) -> bytes:
        return b"%s%s.%d " % (self._inbox, self._run, index)

    def _full(self) -> bool:
        return (
            self._in_flight_records >= self._limits.publish_window_records
            or self._in_flight_bytes >= self._limits.publish_window_bytes
        )

    async def _wait(self) -> None:
        self._link.check()
        self._progress.clear()
        try:
            async with asyncio.timeout(self._link.nats.timeout_seconds):
                await self._progress.wait()
        except TimeoutError:
            error = Unavailable(
                f"NATS at {self._link.nats} acknowledged nothing for {self._link.nats.timeout_seconds} s",
                hint="Is the server's disk slow, or has its cluster no leader? It is tried again.",
            )
            self._link.fail(error)
        self._link.check()

    def _on_ack(self, subject: bytes, reply: bytes, data: bytes, headers: bytes | None) -> None:
        run, _, token = subject[len(self._inbox) :].partition(b".")
        if run != self._run:
            return
        index = int(token)
        group = self._awaited.pop(index, None)
        if group is None:
            return
        self._in_flight_records -= group.records
        self._in_flight_bytes -= group.size_bytes
        outcome = self._outcome
        if headers is not None and headers.startswith(NO_RESPONDERS):
            error: ApiError | None = NOBODY
        elif not data:
            error = None  # the server has begun an atomic batch
        else:
            ack = _decode(data)
            error = ack.error
            if error is None and self._first_seq and ack.seq != self._first_seq + index:
                error = ELSEWHERE
            if error is None:
                outcome.acked += group.records
                if outcome.last is None or ack.seq > outcome.last.seq:
                    outcome.last = ack
        if error is not None and (outcome.error is None or index < outcome.failed_at):
            outcome.error, outcome.failed_at = error, index
        self._progress.set()
