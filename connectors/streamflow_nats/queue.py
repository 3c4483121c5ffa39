"""Reading by id: a durable consumer with explicit acknowledgements, on work-queue and interest streams."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections import deque
from typing import Any, Final

from streamflow.batch import Position, Taken
from streamflow.connect.contracts import MORE, SourceContext
from streamflow.errors import ConnectorError, Unavailable
from streamflow_nats.jetstream import JetStream, JetStreamError, StreamInfo
from streamflow_nats.positional import refused_consumer
from streamflow_nats.pulls import Delivered, Pulls, payload_bytes_max
from streamflow_nats.stream import StreamSettings
from streamflow_nats.subjects import consumer_name

ACKS_JOINED_MAX: Final = 256
REDELIVERY_SLACK_SECONDS: Final = 0.5
CONFIRM_SECONDS: Final = 1.0
GATHER_SECONDS: Final = 0.5
"""Without a delivery for so long, the server is asked whether more is to come."""


class QueueReader:
    """Reads a stream that forgets what was acknowledged.

    GUARANTEE: each message is handed out once, in stream order, unless its id was committed; it is acknowledged only
    when it is committed, or at once when it comes again after that. BOUND: ``unacked_max`` deliveries.

    An id is the stream sequence, and a mark of the stream's creation time, so that the messages of a stream made anew
    are not taken for committed ones. "Everything up to a sequence is done" is never concluded: a process that died may
    hold an earlier message until ``ack_wait``.

    A work-queue durable is deleted and made anew at each opening: it then starts at the first message that was not
    acknowledged, in order. An interest durable is never deleted, for that would discard messages; where an earlier
    process holds some, nothing is asked for until ``ack_wait`` is over. Then they come, but in the order in which
    their time ran out: where one of several processes had been given a part of them again, not in that of the stream.
    So nothing is handed out until all of them are here, and they are sorted. When the consumer sequence jumps,
    somebody else pulls from the durable; the source raises Unavailable and starts like that again.

    Acknowledgements may get lost: the message comes again and is known by its id. Ids of this process are kept until
    the server confirms the last acknowledgement behind them, which it handles in order.
    """

    def __init__(self, stream: JetStream, info: StreamInfo, settings: StreamSettings, ctx: SourceContext) -> None:
        self.identity = info.created
        self.starts: Position | None = None
        self._mark = hashlib.blake2b(info.created.encode(), digest_size=4).hexdigest()
        self._stream, self._settings, self._ctx = stream, settings, ctx
        self._consumer = settings.durable or consumer_name("sf", ctx.flow, ctx.source, str(ctx.shard))
        self._in_flight: dict[str, bytes] = {}
        self._done: set[str] = set()
        self._unconfirmed: deque[tuple[int, list[str]]] = deque()
        self._ack_now: list[bytes] = []
        self._rounds = 0
        self._confirmed = asyncio.Event()
        self._not_before = 0.0
        self._ready = False
        self._owed = 0
        self._came: set[int] = set()
        self._work_queue = info.config.retention == "workqueue"
        self.pulls = Pulls(stream, self._consumer, settings.limits, payload_bytes_max(ctx), self._admit)

    @classmethod
    async def open(
        cls,
        stream: JetStream,
        info: StreamInfo,
        settings: StreamSettings,
        ctx: SourceContext,
        resume: Position | None,
    ) -> QueueReader:
        """Makes or finds the durable; positions do not matter here."""
        reader = cls(stream, info, settings, ctx)
        if reader._work_queue and settings.start == "latest":
            raise ConnectorError(
                f"stream {info.config.name} is a work queue: it is read from its first message on",
                hint='Leave start="latest" out.',
            )
        await reader._prepare()
        return reader

    async def ready(self) -> None:
        """Waits for redeliveries to be due, acknowledges what came again, and asks for more.

        Raises:
            Unavailable: The consumer broke.
        """
        if not self._ready:
            await self._start()
        if self._owed:
            await self._gather()
        await self._acknowledge_again()
        if self.pulls.trouble and not self.pulls.buffer:
            raise self._broken()
        await self.pulls.top_up()

    async def sound(self) -> None:
        """Nothing to check: the stream keeps what was not acknowledged."""

    def ids(self, records: list[Delivered]) -> list[str]:
        """The records' ids."""
        mark = self._mark
        return [f"{record[0]}-{mark}" for record in records]

    async def committed(self, taken: Taken) -> None:
        """Acknowledges; lost acknowledgements do no harm."""
        replies = []
        for each in taken.ids:
            reply = self._in_flight.pop(each, None)
            if reply is not None:
                replies.append(reply)
                self._done.add(each)
        # A lost connection is not reported here: the messages come again when the source is opened again.
        if replies and not self._stream.link.lost.done():
            await self._acknowledge(replies, list(taken.ids))

    async def end(self) -> Position | None:
        """None where the server has nothing to hand out, and what it handed out was read; asks it.

        Raises:
            Unavailable: It does not answer, or the consumer is gone.
        """
        state = await self._stream.consumer(self._consumer)
        if state is None:
            raise self._deleted()
        if not self._ready:
            return MORE if state.num_pending or state.num_ack_pending else None
        on_its_way = int(state.delivered.get("consumer_seq", 0)) >= self.pulls.delivery_next
        return MORE if state.num_pending or self._owed or on_its_way or self.pulls.buffer else None

    async def close(self) -> None:
        """Stops listening, and gives acknowledgements a moment to arrive. The durable stays: it keeps the messages."""
        with contextlib.suppress(TimeoutError, ConnectorError):
            async with asyncio.timeout(CONFIRM_SECONDS):
                if self._ctx.seen:  # an answer comes behind all deliveries on their way, committed ones among them
                    await self._stream.consumer(self._consumer)
                await self._acknowledge_again()
                while self._unconfirmed and not self._stream.link.lost.done():
                    self._confirmed.clear()
                    await self._confirmed.wait()
        self.pulls.stop()

    async def _prepare(self) -> None:
        wait = self._settings.limits.ack_wait_seconds
        config: dict[str, Any] = {
            "name": self._consumer,
            "durable_name": self._consumer,
            "deliver_policy": "new" if self._settings.start == "latest" else "all",
            "ack_policy": "explicit",
            "replay_policy": "instant",
            "ack_wait": int(wait * 1e9),
            "max_deliver": -1,
            "max_ack_pending": self._settings.limits.unacked_max,
        }
        if self._settings.subject:
            config["filter_subject"] = self._settings.subject
        if self._work_queue:
            await self._stream.delete_consumer(self._consumer)
        found = await self._stream.consumer(self._consumer)
        if found is None:
            try:
                await self._stream.make_consumer(config)
            except JetStreamError as error:
                raise refused_consumer(self._stream, error) from None
            return
        self._check_found(found.config)
        if found.num_ack_pending:
            wait = found.config.get("ack_wait", wait * 1e9) / 1e9
            self._not_before = asyncio.get_running_loop().time() + wait + REDELIVERY_SLACK_SECONDS

    def _check_found(self, config: dict[str, Any]) -> None:
        if config.get("filter_subject", "") != self._settings.subject or config.get("ack_policy") != "explicit":
            raise ConnectorError(
                f"consumer {self._consumer} of stream {self._stream.stream} exists with other settings",
                hint="Name another durable=, or delete that consumer if nobody needs what it has not read.",
            )

    async def _start(self) -> None:
        delay = self._not_before - asyncio.get_running_loop().time()
        if delay > 0:
            await asyncio.sleep(delay)
        state = await self._stream.consumer(self._consumer)
        if state is None:
            raise self._deleted()
        self._owed = state.num_ack_pending
        self.pulls.room = state.num_ack_pending
        await self.pulls.start(1, int(state.delivered.get("consumer_seq", 0)) + 1)
        await self._stream.link.subscribe(self._inbox() + "*", self._on_confirmed)
        self._ready = True

    async def _gather(self) -> None:
        """Waits until everything that an earlier process held is here, and puts it in order."""
        pulls = self.pulls
        while len(self._came) < self._owed:
            self._stream.link.check()
            if pulls.trouble or pulls.refusal is not None:
                raise pulls.refusal or self._broken()
            await self._acknowledge_again()
            await pulls.top_up()
            if not await pulls.wait(GATHER_SECONDS):
                # a late acknowledgement, or a purge: then some of them never come
                state = await self._stream.consumer(self._consumer)
                if state is None or state.num_ack_pending <= len(self._in_flight):
                    break
        pulls.buffer = deque(sorted(pulls.buffer))
        pulls.room = 0
        self._owed, self._came = 0, set()

    def _deleted(self) -> Unavailable:
        return Unavailable(
            f"consumer {self._consumer} of stream {self._stream.stream} was deleted",
            hint="The source is opened again; is a second process reading with the same durable?",
        )

    def _broken(self) -> Unavailable:
        return Unavailable(
            f"stream {self._stream.stream} cannot be read on: {self.pulls.trouble}",
            hint="The source is opened again; is a second process reading with the same durable?",
        )

    def _admit(self, seq: int, reply: bytes, repeated: bool) -> bool:
        if self._owed and repeated:
            self._came.add(seq)
        each = f"{seq}-{self._mark}"
        if each in self._done or each in self._ctx.seen:
            self._ack_now.append(reply)
            return False
        again = each in self._in_flight
        self._in_flight[each] = reply
        return not again

    async def _acknowledge_again(self) -> None:
        """Acknowledges what came again, once a sink could have refused this state as an older copy."""
        if not self._ack_now or not self._ctx.may_acknowledge():
            return
        replies, self._ack_now = self._ack_now, []
        await self._acknowledge(replies, [])

    async def _acknowledge(self, replies: list[bytes], ids: list[str]) -> None:
        """Sends acknowledgements; the server confirms the last one, and with it all before."""
        self._rounds += 1
        self._unconfirmed.append((self._rounds, ids))
        lines = [b"PUB %s 4\r\n+ACK\r\n" % reply for reply in replies]
        lines[-1] = b"PUB %s %s%d 4\r\n+ACK\r\n" % (replies[-1], self._inbox().encode(), self._rounds)
        for at in range(0, len(lines), ACKS_JOINED_MAX):
            await self._stream.link.send(b"".join(lines[at : at + ACKS_JOINED_MAX]))

    def _on_confirmed(self, subject: bytes, reply: bytes, data: bytes, headers: bytes | None) -> None:
        confirmed = int(subject[subject.rindex(b".") + 1 :])
        while self._unconfirmed and self._unconfirmed[0][0] <= confirmed:
            self._done.difference_update(self._unconfirmed.popleft()[1])
        self._confirmed.set()

    def _inbox(self) -> str:
        return f"{self._stream.link.inbox}a."
