"""One connection to a RabbitMQ broker: made, asked, written to, and lost for good when it is lost."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable
from typing import TYPE_CHECKING, Any, Final, TypeVar

from streamflow.connect.secret import redact
from streamflow.connect.tls import Tls
from streamflow.errors import ConnectorError, MissingExtraError, NotFound, SettingsError, StreamflowError, Unavailable
from streamflow_rabbitmq.settings import Address, RabbitMQ

if TYPE_CHECKING:
    from streamflow_rabbitmq.client import DirectChannel, DirectConnection

T = TypeVar("T")

CLOSE_SECONDS: Final = 2.0
ABORT_SECONDS: Final = 0.5
VERSION_MIN: Final = (3, 8)
CHANNELS_MAX: Final = 2047
PERMISSION_HINT: Final = "Give the user the permission: rabbitmqctl set_permissions -p VHOST USER CONFIGURE WRITE READ"


class Link:
    """A connection that never reconnects by itself: reconnecting could publish behind a hole, and without the lock.

    GUARANTEE: once `lost` is done, nothing more is sent or received, and every waiting call raises its error.
    BOUND: what its channels hold.
    """

    def __init__(self, rabbit: RabbitMQ, address: Address) -> None:
        self.rabbit = rabbit
        self.address = address
        self.lost: asyncio.Future[StreamflowError] = asyncio.get_running_loop().create_future()
        self._connection: DirectConnection | None = None
        self._channels = 0

    @classmethod
    async def connect(cls, rabbit: RabbitMQ, name: str) -> Link:
        """Connects to the first node that answers.

        Args:
            rabbit: Where and how.
            name: Shown in the broker's management.

        Raises:
            MissingExtraError: aio-pika is not installed.
            SettingsError: A certificate cannot be read, or the broker is too old.
            Unavailable: No node answers.
            ConnectorError: The broker refuses the credentials or the virtual host.
        """
        context = await _tls_context(rabbit)
        problem: ConnectorError | None = None
        for address in rabbit.addresses:
            link = cls(rabbit, address)
            try:
                await link._connect(name, context)
            except Unavailable as error:
                problem = error
            else:
                return link
        assert problem is not None, "settings name at least one node"
        raise problem

    @property
    def info(self) -> dict[str, Any]:
        """What the broker says of itself: product, version, cluster_name, capabilities."""
        return dict(self._connected().server_properties or {})

    @property
    def version(self) -> tuple[int, ...]:
        """Major and minor version of the broker."""
        return tuple(int(part) for part in str(self.info.get("version", "0")).split(".")[:2] if part.isdigit())

    @property
    def frame_bytes_max(self) -> int:
        """The largest frame that was agreed on."""
        return int(self._connected().connection_tune.frame_max or 131_072)

    def check(self) -> None:
        """Raises the error of a lost connection."""
        if self.lost.done():
            raise self.lost.result()

    def fail(self, error: StreamflowError) -> None:
        """Declares the connection lost and cuts it; everybody who waits on it gets the error."""
        if not self.lost.done():
            self.lost.set_result(error)
            if self._connection is not None:
                self._connection.abort()

    async def channel(self) -> DirectChannel:
        """Opens a channel that ends the connection when it is closed by the broker: one channel, one purpose.

        Raises:
            Unavailable: The connection is lost.
        """
        channel = await self.loose_channel()
        self.tie(channel)
        return channel

    async def loose_channel(self) -> DirectChannel:
        """Opens a channel that may be closed by the broker without an end of the connection, until it is tied.

        Raises:
            Unavailable: The connection is lost.
        """
        self.check()
        self._channels = self._channels % CHANNELS_MAX + 1
        return await self.ask(self._connected().direct_channel(self._channels))

    def tie(self, channel: DirectChannel) -> None:
        """Ends the connection when the broker closes a channel."""

        def ended(closing: asyncio.Future[Any]) -> None:
            self.fail(self._closed_error(None if closing.cancelled() else closing.exception()))

        channel.closing.add_done_callback(ended)

    @contextlib.asynccontextmanager
    async def questions(self, what: str) -> AsyncIterator[DirectChannel]:
        """A channel for questions, whose refusals say what was asked for; the connection outlives them.

        Args:
            what: What is asked about, for errors: ``queue orders``.

        Raises:
            NotFound: There is no such thing.
            ConnectorError: The broker refuses it.
            Unavailable: No answer in time, or the connection is lost.
        """
        from streamflow_rabbitmq.client import aiormq

        channel = await self.loose_channel()
        try:
            yield channel
            await self.ask(channel.close(None))
        except aiormq.exceptions.ChannelNotFoundEntity as error:
            raise NotFound(
                f"there is no {what} at {self.rabbit}: {explain(error)}",
                hint="Declare it first, or say declare= with what it shall be.",
            ) from None
        except aiormq.exceptions.ChannelAccessRefused as error:
            raise ConnectorError(
                f"RabbitMQ at {self.rabbit} refuses {what} to user {self.rabbit.login.user}: {explain(error)}",
                hint=PERMISSION_HINT,
            ) from None

    async def ask(self, call: Awaitable[T], *, seconds: float = 0) -> T:
        """Waits for an answer, but no longer than ``timeout_seconds`` and not beyond the end of the connection.

        Raises:
            Unavailable: No answer in time, or the connection is lost.
        """
        from streamflow_rabbitmq.client import aiormq

        limit = seconds or self.rabbit.times.timeout_seconds
        asking = asyncio.ensure_future(call)
        try:
            await self.settled(asking, limit)
        except asyncio.CancelledError:
            await _give_up(asking)
            raise
        if self.lost.done() and not asking.done():
            await _give_up(asking)
            self.check()
        if not asking.done():
            self.fail(
                Unavailable(
                    f"RabbitMQ at {self.rabbit} did not answer within {limit:g} s",
                    hint="Is the broker overloaded, or is the connection blocked by a memory or disk alarm?",
                )
            )
            await _give_up(asking)
            self.check()
        try:
            return asking.result()
        except asyncio.CancelledError:
            pass
        except (aiormq.exceptions.AMQPConnectionError, aiormq.exceptions.ChannelInvalidStateError, OSError) as error:
            self.fail(self._lost_error(error))
        self.fail(self._lost_error(None))
        self.check()
        raise AssertionError("the connection is lost")

    async def send(self, payload: bytes) -> None:
        """Sends frames. Returns when they are queued behind all that was sent before.

        Raises:
            Unavailable: The connection is lost.
        """
        self.check()
        sending = asyncio.ensure_future(self._connected().send(payload))
        if not sending.done():
            await self.settled(sending)
        if not sending.done():
            await _give_up(sending)
        self.check()

    async def unblocked(self) -> None:
        """Waits while the broker has blocked publishing on this connection (memory or disk alarm).

        Raises:
            Unavailable: It is blocked for longer than ``blocked_seconds``, or lost.
        """
        self.check()
        limit = self.rabbit.times.blocked_seconds
        ready = asyncio.ensure_future(self._connected().ready())
        await self.settled(ready, limit)
        if ready.done():
            self.check()
            return
        await _give_up(ready)
        self.check()
        raise Unavailable(
            f"RabbitMQ at {self.rabbit} has blocked publishers for {limit:g} s: a memory or disk alarm",
            hint="See rabbitmqctl status; the outputs wait in the outbox until the alarm is over.",
        )

    async def settled(self, waiting: asyncio.Future[Any], seconds: float | None = None) -> None:
        """Returns when something is done, the connection is lost, or the time is over."""
        either: list[asyncio.Future[Any]] = [waiting, self.lost]
        await asyncio.wait(either, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)

    async def close(self) -> None:
        """Sends what is queued and disconnects; at once where the connection is lost. Safe to call twice."""
        connection, self._connection = self._connection, None
        dead = self.lost.done()
        if not dead:
            self.lost.set_result(Unavailable("the connection is closed"))
        if connection is None:
            return
        if dead:
            connection.abort()
        closing = asyncio.ensure_future(connection.close())
        try:
            await asyncio.wait([closing], timeout=ABORT_SECONDS if dead else CLOSE_SECONDS)
        finally:
            connection.abort()
            await _give_up(closing)

    async def _connect(self, name: str, context: ssl.SSLContext | None) -> None:
        from yarl import URL

        from streamflow_rabbitmq.client import DirectConnection, DirectTransport, check_client

        check_client()
        rabbit, address = self.rabbit, self.address
        url = URL.build(
            scheme=address.scheme,
            user=rabbit.login.user,
            password=rabbit.login.reveal(),
            host=address.host,
            port=address.port,
            path="/",
            query={"heartbeat": str(rabbit.times.heartbeat_seconds)},
        )
        options: dict[str, Any] = {"context": context, "client_properties": {"connection_name": name}}
        if isinstance(rabbit.tls, Tls) and rabbit.tls.server_name is not None:
            options["server_hostname"] = rabbit.tls.server_name
        connection = DirectConnection(url, DirectTransport(), **options)
        connection.vhost = rabbit.vhost
        try:
            async with asyncio.timeout(rabbit.times.timeout_seconds):
                await connection.login()
        except (Exception, asyncio.CancelledError) as error:
            connection.abort()
            if isinstance(error, asyncio.CancelledError):
                raise
            raise self._refusal(error, encrypted=address.scheme == "amqps") from None
        self._connection = connection
        connection.closing.add_done_callback(self._on_closed)
        info = self.info
        if str(info.get("product")) == "RabbitMQ" and self.version < VERSION_MIN:
            await self.close()
            least = ".".join(map(str, VERSION_MIN))
            raise SettingsError(
                f"RabbitMQ at {address} is version {info.get('version')}; {least} or newer is needed",
                hint="Upgrade the broker.",
            )

    def _connected(self) -> DirectConnection:
        if self._connection is None:
            self.check()
            raise AssertionError("used before connect")
        return self._connection

    def _on_closed(self, closing: asyncio.Future[Any]) -> None:
        error = None if closing.cancelled() else closing.exception()
        self.fail(self._lost_error(error))

    def _closed_error(self, error: BaseException | None) -> ConnectorError:
        """What it means that the broker closed a channel: what was done on it is refused, or may pass."""
        from streamflow_rabbitmq.client import aiormq

        text = f"RabbitMQ at {self.rabbit} closed the channel" + (f": {explain(error)}" if error else "")
        if isinstance(error, aiormq.exceptions.ChannelAccessRefused):
            return ConnectorError(text, hint=PERMISSION_HINT)
        if isinstance(error, aiormq.exceptions.ChannelNotFoundEntity):
            return NotFound(text, hint="Bring it back; it was there when the flow started.")
        return Unavailable(text, hint="It is opened again by itself; see the broker's log if this repeats.")

    def _lost_error(self, error: BaseException | None) -> Unavailable:
        reason = explain(error) if error is not None else ""
        return Unavailable(
            f"connection to RabbitMQ at {self.rabbit} is lost" + (f": {reason}" if reason else ""),
            hint="Is the broker running? The connection is made again by itself.",
        )

    def _refusal(self, error: BaseException, *, encrypted: bool) -> StreamflowError:
        """Says in one sentence why no connection came about."""
        from streamflow_rabbitmq.client import aiormq

        user, address = self.rabbit.login.user, self.address
        text = explain(error)
        if isinstance(error, StreamflowError):
            return error
        if isinstance(error, ssl.SSLError):
            return ConnectorError(
                f"TLS with RabbitMQ at {address} failed: {getattr(error, 'verify_message', '') or text}",
                hint="Check Tls(ca=...), the client certificate, and the name in the broker's certificate.",
            )
        if isinstance(error, aiormq.exceptions.ProbableAuthenticationError | aiormq.exceptions.AuthenticationError):
            return ConnectorError(
                f"RabbitMQ at {address} refuses user {user}: {text}",
                hint="Check auth=UserPassword(...); guest may log in from the broker's own machine only.",
            )
        if "NOT_ALLOWED" in text or isinstance(error, aiormq.exceptions.ConnectionNotAllowed):
            return ConnectorError(
                f"RabbitMQ at {address} refuses virtual host {self.rabbit.vhost!r} to user {user}: {text}",
                hint="Check vhost=, or: rabbitmqctl add_vhost NAME; rabbitmqctl set_permissions -p NAME USER ...",
            )
        if isinstance(error, TimeoutError):
            text = "no answer in time"
        elif isinstance(error, ConnectionRefusedError):
            text = "connection refused"
        hint = "Start it, or check host, port and firewall."
        if encrypted:
            hint += " A broker that wants a client certificate also ends the connection: Tls(cert=..., key=...)."
        return Unavailable(f"no RabbitMQ answers at {address}: {text}", hint=hint)


async def _give_up(task: asyncio.Future[Any]) -> None:
    """Cancels a call whose answer does not matter any more, and hears what it says."""
    task.cancel()
    await asyncio.wait([task], timeout=ABORT_SECONDS)
    if task.done() and not task.cancelled():
        task.exception()


async def _tls_context(rabbit: RabbitMQ) -> ssl.SSLContext | None:
    try:
        import aiormq
    except ImportError:
        raise MissingExtraError(
            "streamflow_rabbitmq needs aio-pika, which is not installed",
            hint='Install the extra: pip install "streamflow-asyncio[rabbitmq]".',
        ) from None
    del aiormq
    if isinstance(rabbit.tls, ssl.SSLContext):
        return rabbit.tls
    if rabbit.tls is None and all(address.scheme == "amqp" for address in rabbit.addresses):
        return None
    tls = rabbit.tls or Tls()
    try:
        return await asyncio.to_thread(tls.context)
    except OSError as error:
        raise SettingsError(
            f"the TLS files cannot be used: {error}", hint="Check ca=, cert= and key= of Tls(...)."
        ) from None


def explain(error: BaseException) -> str:
    """Says in a few words what went wrong, without credentials."""
    reason = getattr(error, "strerror", None)
    parts = [str(part) for part in error.args if part not in (None, "")]
    return redact(str(reason or (parts[-1] if parts else type(error).__name__)))
