"""The aiormq client with a short cut: what arrives in bulk goes straight to a plain function.

aiormq hands each frame through two queues and each delivery to a task of its own; that is most of the cost of a
message. Here deliveries, confirms and returned messages are put together where the connection's reader hands frames
over; login, TLS, tuning, heartbeats and calls with an answer stay aiormq's. The parts relied upon are checked once, in
`check_client`, and pinned by a test. Imported only when a connection is made, so that the package can be imported
without aiormq.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Final, NamedTuple

import aiormq
from aiormq.abc import ChannelFrame
from aiormq.channel import Channel
from aiormq.connection import Connection, FrameReceiver, TransportFactory
from pamqp import commands
from pamqp.base import Frame
from pamqp.body import ContentBody
from pamqp.frame import marshal
from pamqp.header import ContentHeader
from yarl import URL

from streamflow.errors import SettingsError

ACCESS_REFUSED: Final = 403

_RELIED_UPON: Final[dict[tuple[type, str], list[str]]] = {
    (Channel, "rpc"): ["self", "frame", "timeout"],
    (Channel, "_reader"): ["self"],
    (Connection, "connect"): ["self", "client_properties"],
    (Connection, "ready"): ["self"],
    (Connection, "_rpc"): ["request", "writer", "frame_receiver", "wait_response"],
    (FrameReceiver, "get_frame"): ["self"],
    (TransportFactory, "create"): ["self", "url", "kwargs"],
}

_ours: ContextVar[bool] = ContextVar("streamflow_rabbitmq", default=False)


class Content(NamedTuple):
    """A message as it arrived: delivered, fetched or returned."""

    method: Any
    header: ContentHeader
    body: bytes


Handler = Callable[[Content], None]
"""Takes a message; called on the loop, must not block."""


def check_client() -> None:
    """Refuses an aiormq whose inside is not the one this connector was written for.

    Raises:
        SettingsError: A method is missing or takes other arguments.
    """
    for (owner, name), expected in _RELIED_UPON.items():
        method = getattr(owner, name, None)
        if method is None or list(inspect.signature(method).parameters) != expected:
            raise SettingsError(
                f"this version of aiormq does not fit: {owner.__name__}.{name} is not what it was",
                hint='Install the version that streamflow was tested with: pip install "aiormq==7.2.4".',
            )


class DirectConnection(Connection):
    """An aiormq connection whose socket can be cut at once, and whose log lines stay quiet."""

    def __init__(self, url: URL, transport: DirectTransport, **options: Any) -> None:
        super().__init__(url, transport_factory=transport, **options)
        self.transport = transport
        self.blocked = ""

    async def login(self) -> None:
        """Connects and logs in; what aiormq would log about it is raised instead."""
        _silence()
        token = _ours.set(True)
        try:
            await self.connect()
        finally:
            _ours.reset(token)

    def abort(self) -> None:
        """Cuts the connection without sending what is queued."""
        if self.transport.writer is not None:
            self.transport.writer.transport.abort()

    @staticmethod
    async def _rpc(
        request: Frame, writer: asyncio.StreamWriter, frame_receiver: FrameReceiver, wait_response: bool = True
    ) -> Any:
        """Asks during the login; where the broker hangs up instead of answering, its reason is raised, not lost."""
        writer.write(marshal(request, 0))
        await writer.drain()
        if not wait_response:
            return None
        _, _, frame = await frame_receiver.get_frame()
        if isinstance(frame, commands.Connection.Close):
            if frame.reply_code == ACCESS_REFUSED:
                raise aiormq.exceptions.ProbableAuthenticationError(frame.reply_text)
            raise aiormq.exceptions.ConnectionClosed(frame.reply_code, frame.reply_text)
        return frame

    async def send(self, payload: bytes) -> None:
        """Queues frames behind all that was sent before."""
        await self.write_queue.put(ChannelFrame(payload, should_close=False))

    async def direct_channel(self, number: int) -> DirectChannel:
        """Opens a channel whose deliveries, confirms and returns go to its handlers."""
        token = _ours.set(True)
        try:
            channel = DirectChannel(self, number, publisher_confirms=False)
            self.channels[number] = channel
            await channel.open()
        finally:
            _ours.reset(token)
        return channel


class DirectTransport(TransportFactory):
    """Makes the socket as asyncio does, and keeps hold of it."""

    def __init__(self) -> None:
        self.writer: asyncio.StreamWriter | None = None

    async def create(self, url: URL, **kwargs: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        provider = kwargs.pop("ssl_context_provider")
        context = await provider.get_context() if url.scheme == "amqps" else None
        reader, self.writer = await asyncio.open_connection(url.host, url.port, ssl=context, **kwargs)
        return reader, self.writer


class DirectChannel(Channel):
    """An aiormq channel with handlers instead of tasks.

    Args:
        connection: An open connection.
        number: Number of the channel.
        publisher_confirms: Always False here: confirms are asked for by `rpc`, and counted by who publishes.
    """

    def __init__(self, connection: DirectConnection, number: int, *, publisher_confirms: bool) -> None:
        super().__init__(connection, number, publisher_confirms=publisher_confirms)
        self.on_delivery: Handler = _ignore
        self.on_return: Handler = _ignore
        self.on_confirm: Callable[[int, bool, bool], None] = _ignore_confirm
        self.on_cancelled: Callable[[], None] = _ignore_cancel
        self._fetching: asyncio.Future[Content | None] | None = None
        self.frames = _Shortcut(self)

    async def fetch(self, queue: str) -> Content | None:
        """Takes one message out of a queue without acknowledging it; None if there is none."""
        self._fetching = asyncio.get_running_loop().create_future()
        try:
            await self.rpc(commands.Basic.Get(queue=queue, no_ack=False))
            return await self._fetching
        finally:
            self._fetching = None

    def arrived(self, content: Content) -> None:
        """Hands a complete message to whom it is for."""
        match content.method:
            case commands.Basic.Deliver():
                self.on_delivery(content)
            case commands.Basic.Return():
                self.on_return(content)
            case _:
                if self._fetching is not None and not self._fetching.done():
                    self._fetching.set_result(content)

    def nothing_to_fetch(self) -> None:
        """The queue that `fetch` asked was empty."""
        if self._fetching is not None and not self._fetching.done():
            self._fetching.set_result(None)


class _Shortcut(asyncio.Queue[Any]):
    """The queue between a connection's reader and a channel: what comes in bulk does not wait in it."""

    def __init__(self, channel: DirectChannel) -> None:
        super().__init__()
        self._channel = channel
        self._method: Any = None
        self._header: ContentHeader | None = None
        self._parts: list[bytes] = []
        self._missing = 0

    async def put(self, item: tuple[int, Any]) -> None:
        frame = item[1]
        kind = type(frame)
        if kind is ContentBody:
            value = frame.value
            self._parts.append(value)
            self._missing -= len(value)
            if self._missing <= 0:
                self._complete()
        elif kind is ContentHeader:
            self._header, self._missing = frame, frame.body_size or 0
            if not self._missing:
                self._complete()
        elif kind in _WITH_CONTENT:
            self._method = frame
            if kind is commands.Basic.GetOk:
                await super().put((item[0], _Answered(frame)))
        elif kind is commands.Basic.Ack:
            self._channel.on_confirm(frame.delivery_tag, frame.multiple, True)
        elif kind is commands.Basic.Nack:
            self._channel.on_confirm(frame.delivery_tag, frame.multiple, False)
        else:
            if kind is commands.Basic.Cancel:
                self._channel.on_cancelled()
            if kind is commands.Basic.GetEmpty:
                self._channel.nothing_to_fetch()
                frame = _Answered(frame)
            await super().put((item[0], frame))

    def _complete(self) -> None:
        parts, self._parts = self._parts, []
        method, header = self._method, self._header
        assert header is not None, "a body without a header"
        self._method = self._header = None
        self._channel.arrived(Content(method, header, parts[0] if len(parts) == 1 else b"".join(parts)))


class _Answered:
    """An answer to Basic.Get that aiormq's channel passes on to the caller without a look at it."""

    def __init__(self, frame: Any) -> None:
        self.name = frame.name
        self.frame = frame


_WITH_CONTENT: Final = (commands.Basic.Deliver, commands.Basic.Return, commands.Basic.GetOk)


class _Quiet(logging.Filter):
    """Drops what aiormq logs about our own connections: each trouble is raised as an error of this library."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not _ours.get()


_quiet: Final = _Quiet()


def _silence() -> None:
    for name in ("aiormq.connection", "aiormq.channel", "aiormq.base"):
        logger = logging.getLogger(name)
        if _quiet not in logger.filters:
            logger.addFilter(_quiet)


def _ignore(content: Content) -> None:
    pass


def _ignore_confirm(tag: int, multiple: bool, good: bool) -> None:
    pass


def _ignore_cancel() -> None:
    pass


__all__ = ["Content", "DirectChannel", "DirectConnection", "DirectTransport", "aiormq", "check_client"]
