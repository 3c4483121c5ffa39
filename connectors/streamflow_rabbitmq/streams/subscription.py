"""One subscription: chunks of a stream from an offset on, credit by credit, without a gap."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from streamflow.errors import PositionAhead, RetentionGap, SourceReplaced, Unavailable
from streamflow_rabbitmq.settings import Limits
from streamflow_rabbitmq.streams.chunks import Chunk, Records, read_chunk, take_apart
from streamflow_rabbitmq.streams.edges import Edges, edges, first_chunk
from streamflow_rabbitmq.streams.link import StreamLink, explain
from streamflow_rabbitmq.streams.wire import Code, Command, Start, credit, mapping, offset_specification, string

CREDIT_MAX: Final = 256
"""Most chunks on their way: a stream that is written record by record has as many chunks as records."""


class Subscription:
    """Reads one stream behind an offset.

    GUARANTEE: each record from ``at`` on once, in order, or an error. The broker starts quietly at its first record
    when the one asked for is gone, and waits quietly when asked for one beyond its end; so both ends are looked at when
    the subscription starts. Offsets may be left out for good reasons (the broker keeps notes of its own in between);
    each time, the stream's first offset is looked at, whether what was left out has expired unread.
    BOUND: ``read_ahead_records`` and ``read_ahead_bytes``, as far as the size of the last chunks tells, one chunk at
    least.
    """

    def __init__(self, link: StreamLink, stream: str, limits: Limits, wake: Callable[[], None]) -> None:
        self.link, self.stream = link, stream
        self.at = 0
        self.identity = ""
        self.paused = False
        self._limits, self._wake = limits, wake
        self._chunks: deque[Chunk] = deque()
        self._expected = 0
        self._records = self._bytes = 0
        self._credit = 0
        self._usual_records = self._usual_bytes = 1
        self._holes: list[int] = []
        self._number = -1

    async def start(self, at: int | None, identity: str, *, latest: bool) -> None:
        """Starts at ``at``, or where the stream begins or ends now.

        Raises:
            RetentionGap: Records from ``at`` on are gone.
            PositionAhead: The stream ends before ``at``.
            SourceReplaced: It is not the stream that was read before.
        """
        if at is None:
            found = await edges(self.link, self.stream)
            at = found.end if latest else found.start
            await self._subscribe(at)
        else:
            await self._subscribe(at)
            # Behind the subscription: what it has begun to read can no longer be taken from under it.
            found = await edges(self.link, self.stream, at_least=max(at, 1 if identity else 0))
            check_position(found, at, identity, self._where)
        self.identity = found.identity

    @property
    def has_records(self) -> bool:
        """Whether `take` would give some."""
        return bool(self._chunks) and not self.paused

    async def sound(self) -> None:
        """Looks whether records that were left out may have expired unread; to be called before `take`.

        Raises:
            RetentionGap: They have.
        """
        while self._holes:
            first = await first_chunk(self.link, self.stream)
            if first is not None and first.offset > self._holes[0]:
                raise _gap(self._where, first.offset, self._holes[0])
            del self._holes[0]

    def take(self) -> tuple[Chunk, Records]:
        """The records of the next chunk, and credit for another one.

        Raises:
            ConnectorError: It cannot be taken apart; it stays the next one.
        """
        chunk = self._chunks[0]
        records = take_apart(chunk, self.at)
        self._chunks.popleft()
        self._records -= chunk.records
        self._bytes -= len(chunk.data)
        self.at = chunk.end
        if not self.identity and chunk.offset == 0:
            self.identity = chunk.mark
        self.top_up()
        return chunk, records

    def top_up(self) -> None:
        """Asks for as many chunks as there is room for, when that is half of all or nothing is on its way."""
        if self.paused:
            return
        wanted = self._room()
        if wanted > 0 and (self._credit == 0 or wanted >= self._credit):
            self._credit += wanted
            self.link.send_now(credit(self._number, wanted))

    @property
    def _where(self) -> str:
        return f"stream {self.stream} at {self.link.rabbit}"

    async def _subscribe(self, at: int) -> None:
        self.at = self._expected = at
        self._number = self.link.take_id()
        self.link.deliver[self._number] = self._on_chunk
        self._credit = 1  # until the first chunk says how large they are
        start = offset_specification(Start.OFFSET, at)
        body = b"%c%b%b\x00\x01%b" % (self._number, string(self.stream), start, mapping({}))
        code, _ = await self.link.request(Command.SUBSCRIBE, body)
        if code != Code.OK:
            raise explain(code, f"stream {self.stream}", self.link)

    def _on_chunk(self, frame: bytes) -> None:
        chunk = read_chunk(frame)
        self._credit -= 1
        self._usual_records = max(chunk.records, (self._usual_records + chunk.records) // 2)
        self._usual_bytes = max(len(chunk.data), (self._usual_bytes + len(chunk.data)) // 2)
        if chunk.end <= self._expected:
            self.top_up()  # all of it was taken before
            return
        if chunk.offset > self._expected:
            self._holes.append(self._expected)
        elif chunk.offset < self._expected and self._expected != self.at:
            raise Unavailable(
                f"chunk {chunk.offset} of stream {self.stream} came behind {self._expected}",
                hint="It is read again from the last position.",
            )
        self._expected = chunk.end
        self._chunks.append(chunk)
        self._records += chunk.records
        self._bytes += len(chunk.data)
        self._wake()

    def _room(self) -> int:
        """How many more chunks may be asked for; at least one where nothing is buffered or on its way."""
        records = (self._limits.read_ahead_records - self._records) // self._usual_records
        size = (self._limits.read_ahead_bytes - self._bytes) // self._usual_bytes
        least = 0 if self._chunks else 1
        return min(CREDIT_MAX, max(least, min(records, size))) - self._credit


def check_position(found: Edges, at: int, identity: str, where: str) -> None:
    """Whether a stream still holds what comes next.

    Args:
        found: Where it begins and ends.
        at: The offset that comes next.
        identity: Of the stream that was read before.
        where: The stream, for errors.

    Raises:
        SourceReplaced: It is another one.
        RetentionGap: It begins behind what comes next.
        PositionAhead: It ends before it.
    """
    if identity and _is_another(found, identity):
        now = f"begins with chunk {found.identity}" if found.first is not None else "is empty"
        raise SourceReplaced(
            f"{where} {now}; the one read before, with {identity}",
            hint="It was deleted and made anew, or lost. Bring the old one back, or start anew: streamflow reset.",
        )
    if at < found.start:
        raise _gap(where, found.start, at)
    if at > found.end:
        raise PositionAhead(
            f"{where} ends at {found.end - 1}, but {at - 1} was already read",
            hint="The broker lost messages (a restored backup?). Bring them back, or use: streamflow reset.",
        )


def _is_another(found: Edges, identity: str) -> bool:
    """Whether the first chunk cannot be one of the stream that ``identity`` was the first chunk of.

    A first chunk further on says nothing: then retention has taken the one that is known.
    """
    known = int(identity.partition(".")[0])
    return found.first is None or found.start < known or (found.start == known and found.identity != identity)


def _gap(where: str, first: int, at: int) -> RetentionGap:
    return RetentionGap(
        f"{where} begins at {first}, but {at} comes next: what lay between was deleted unread",
        hint="Raise the stream's limits (max-age, max-length-bytes); to go on without: streamflow reset.",
    )
