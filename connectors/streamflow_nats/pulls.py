"""Overlapped pull requests on one consumer, delivering into one bounded buffer.

Pull protocol: ADR-13 and ADR-37 of nats-io/nats-architecture-and-design. Messages are counted by the consumer
sequence in their reply subject, which must rise by exactly one; whatever arrives behind a jump is dropped.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import Callable
from typing import Final

import msgspec

from streamflow.connect.contracts import SourceContext
from streamflow.errors import ConnectorError
from streamflow_nats.jetstream import JetStream, is_number, parse_headers
from streamflow_nats.settings import Limits

PULL_RECORDS_MAX: Final = 512
PULLS_OUTSTANDING: Final = 8
EXPIRES_SECONDS: Final = 30.0
HEARTBEAT_SECONDS: Final = 5.0
SILENCE_SECONDS: Final = 2.5 * HEARTBEAT_SECONDS
OVERHEAD_BYTES: Final = 64 * 1024
"""What a message may need beyond its payload: subject, reply subject, headers."""

REPLY_BYTES_MAX: Final = 4096

Delivered = tuple[int, int, bytes, bytes | None]
"""Stream sequence, time in nanoseconds, payload, raw headers."""


def payload_bytes_max(ctx: SourceContext) -> int:
    """Above which size a message ends the source: none does where the engine leaves such messages out."""
    return sys.maxsize if ctx.leaves_out else ctx.message_bytes_max


def parse_reply(reply: bytes) -> tuple[int, int, int, int, int]:
    """Reads what a reply subject tells of a delivery.

    Returns how often the message was delivered, its stream sequence, its consumer sequence, the time in nanoseconds,
    and how many messages are pending.

    It is ``$JS.ACK.[<domain>.<account>.]<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>``,
    with one token more behind it where domain and account are told.

    Raises:
        ValueError: It is not of this form.
    """
    tokens = reply.split(b".")
    at = 4 if len(tokens) == 9 else 6
    numbers = tokens[at : at + 5]
    if len(numbers) < 5 or not b"".join(numbers).isdigit() or len(reply) > REPLY_BYTES_MAX:
        raise ValueError(f"{reply[:80]!r} is no reply subject of a delivery")
    delivered, stream_seq, consumer_seq, time_ns, pending = map(int, numbers)
    return delivered, stream_seq, consumer_seq, time_ns, pending


class Pulls:
    """Asks one consumer for messages, several requests ahead.

    GUARANTEE: what `take` returns is in delivery order, without a hole in consumer sequences.
    BOUND: records buffered and asked for stay within ``read_ahead_records``; bytes buffered within
    ``read_ahead_bytes`` plus as much asked for (a single message may exceed it).

    Args:
        stream: Where the consumer is.
        consumer: Its name.
        limits: The bounds.
        message_bytes_max: Payloads above it end the source.
        admit: Decides on each delivery by stream sequence, reply subject and how often it was delivered; all by
            default.
    """

    def __init__(
        self,
        stream: JetStream,
        consumer: str,
        limits: Limits,
        message_bytes_max: int,
        admit: Callable[[int, bytes, bool], bool] | None = None,
    ) -> None:
        self.trouble = ""
        """Why nothing more will come from this consumer; empty while all is well."""
        self.refusal: ConnectorError | None = None
        """What to raise once the buffer is empty."""
        self.paused = False
        self.room = 0
        """Records that may be buffered whatever the limits say."""
        self.next_seq = 1
        """The lowest stream sequence not delivered yet."""
        self.delivery_next = 1
        """The lowest consumer sequence not delivered yet."""
        self.holes: deque[int] = deque()
        """Sequences that were skipped while the consumer lagged behind: the first of each run."""
        self.buffer: deque[Delivered] = deque()
        self._stream, self._link, self._consumer = stream, stream.link, consumer
        self._limits, self._message_bytes_max, self._admit = limits, message_bytes_max, admit
        self._arrived = asyncio.Event()
        self._heard = False
        self._outstanding = 0
        self._buffered_bytes = 0
        self._caught_up = False
        self._tokens = 0
        self._inbox = f"{self._link.inbox}{consumer}."
        self._end: Callable[[], None] | None = None
        self._batch = max(1, min(PULL_RECORDS_MAX, limits.read_ahead_records // PULLS_OUTSTANDING))
        largest = min(message_bytes_max, self._link.payload_bytes_max) + OVERHEAD_BYTES
        request = {
            "batch": self._batch,
            "max_bytes": max(limits.read_ahead_bytes // PULLS_OUTSTANDING, largest),
            "expires": int(EXPIRES_SECONDS * 1e9),
            "idle_heartbeat": int(HEARTBEAT_SECONDS * 1e9),
        }
        self._request = msgspec.json.encode(request)
        self._next = f"{stream.prefix}.CONSUMER.MSG.NEXT.{stream.stream}.{consumer}".encode()

    async def start(self, next_seq: int, delivery_next: int = 1) -> None:
        """Listens; the first `top_up` asks.

        Args:
            next_seq: The stream sequence that comes first.
            delivery_next: The consumer sequence that comes first.
        """
        self.next_seq, self.delivery_next = next_seq, delivery_next
        self._end = await self._link.subscribe(self._inbox + "*", self._on_message)
        self._link.lost.add_done_callback(self._wake)

    def stop(self) -> None:
        """Stops listening; what is buffered stays."""
        if self._end is not None:
            self._end()
            self._end = None
        self._link.lost.remove_done_callback(self._wake)

    async def top_up(self) -> None:
        """Asks for more, as far as the bounds allow."""
        most = max(self._limits.read_ahead_records, self._batch) + self.room
        while (
            not self.paused
            and not self.trouble
            and self.refusal is None
            and self._outstanding + len(self.buffer) + self._batch <= most
            and (self._buffered_bytes < self._limits.read_ahead_bytes or len(self.buffer) < self.room)
        ):
            self._outstanding += self._batch
            self._tokens += 1
            reply = b"%s%d" % (self._inbox.encode(), self._tokens)
            await self._link.send(b"PUB %s %s %d\r\n%s\r\n" % (self._next, reply, len(self._request), self._request))

    async def wait(self, seconds: float | None = None) -> bool:
        """Waits until something arrives, goes wrong, or `wake` is called; returns False if nothing did in time.

        Args:
            seconds: How long; by default so long that silence means trouble.
        """
        whole = seconds is None
        seconds = SILENCE_SECONDS if seconds is None else seconds
        self._arrived.clear()
        self._heard = False
        try:
            async with asyncio.timeout(seconds):
                return await self._arrived.wait()
        except TimeoutError:
            if self._outstanding > 0 and not self._heard and whole:
                self.trouble = f"the consumer was silent for {SILENCE_SECONDS} s"
            return False

    def wake(self) -> None:
        """Lets `wait` return."""
        self._arrived.set()

    def take(self, count: int) -> list[Delivered]:
        """Removes and returns what is buffered, at most ``count``."""
        buffer = self.buffer
        if len(buffer) <= count:
            taken = list(buffer)
            buffer.clear()
            self._buffered_bytes = 0
            return taken
        taken = [buffer.popleft() for _ in range(count)]
        self._buffered_bytes -= sum(len(item[2]) for item in taken)
        return taken

    def _on_message(self, subject: bytes, reply: bytes, data: bytes, headers: bytes | None) -> None:
        self._heard = True
        if not reply.startswith(b"$JS.ACK."):
            self._on_status(headers or b"")
            return
        if self.trouble or self.refusal is not None:
            return
        delivered, seq, delivery, time_ns, pending = parse_reply(reply)
        if delivery != self.delivery_next:
            self.trouble = f"delivery {self.delivery_next} is missing, {delivery} came"
            self.wake()
            return
        self.delivery_next = delivery + 1
        self._outstanding = max(0, self._outstanding - 1)
        if self._admit is not None:
            if not self._admit(seq, reply, delivered > 1):
                self.wake()
                return
        elif seq != self.next_seq:
            assert seq > self.next_seq, f"stream sequence {seq} came after {self.next_seq - 1}"
            if not self._caught_up:
                self.holes.append(self.next_seq)
        self.next_seq = seq + 1
        self._caught_up = not pending
        if len(data) > self._message_bytes_max:
            self._refuse(f"message {seq} has {len(data)} bytes")
            return
        self.buffer.append((seq, time_ns, data, headers))
        self._buffered_bytes += len(data)
        self._arrived.set()

    def _on_status(self, headers: bytes) -> None:
        line, _, rest = headers.partition(b"\r\n")
        code, text = line[9:12], line[13:].decode("utf-8", "replace")
        if code == b"100":
            return
        pending = parse_headers(rest).get("Nats-Pending-Messages", "")
        given_back = int(pending) if is_number(pending) else 0
        self._outstanding = max(0, self._outstanding - given_back)
        if code == b"409" and "MaxBytes" in text:
            if given_back == self._batch and not self.buffer:
                self._refuse(f"the message after {self.next_seq - 1} is larger than what one request may bring")
        elif code not in (b"404", b"408") and "Batch Completed" not in text:
            self.trouble = f"the server ended the consumer: {code.decode()} {text}".rstrip()
        self.wake()

    def _refuse(self, what: str) -> None:
        self.refusal = ConnectorError(
            f"stream {self._stream.stream}: {what}; the limit is {self._message_bytes_max}",
            hint="Raise message_bytes_max, take the message out of the stream, or leave it out with on_error=sf.skip.",
        )
        self.wake()

    def _wake(self, lost: object) -> None:
        self.wake()
