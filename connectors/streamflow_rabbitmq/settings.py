"""Settings of a RabbitMQ connection: addresses, credentials that never show, TLS, times, limits."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar, overload
from urllib.parse import unquote, urlsplit

from streamflow.codecs import Codec
from streamflow.connect.secret import UserPassword
from streamflow.connect.tls import Tls, check_context
from streamflow.errors import SettingsError

if TYPE_CHECKING:
    from streamflow_rabbitmq.declare import ExchangeDeclaration, QueueDeclaration
    from streamflow_rabbitmq.exchange import RabbitExchange
    from streamflow_rabbitmq.ids import IdFrom
    from streamflow_rabbitmq.queue import RabbitQueue, Readers, SinkMode
    from streamflow_rabbitmq.stream import RabbitStream, Start

T = TypeVar("T")

SCHEMES: Final = ("amqp", "amqps")
PORTS: Final[Mapping[str, int]] = {"amqp": 5672, "amqps": 5671}
STREAM_PORTS: Final[Mapping[str, int]] = {"amqp": 5552, "amqps": 5551}
NAME_BYTES_MAX: Final = 255
"""Longest name of a queue, an exchange or a routing key that the protocol carries."""


GUEST: Final = UserPassword("guest", "guest")
"""RabbitMQ's own default login, which it accepts from its own machine only."""


@dataclass(frozen=True, slots=True)
class Times:
    """Every wait of a connection.

    Args:
        heartbeat_seconds: After two to three times this long without a sign of life the broker lets a client go, and
            what it held with it: its lock, its unacknowledged messages. A second instance waits that long.
        timeout_seconds: Longest wait for a connection, an answer or a confirm.
        blocked_seconds: How long a publish waits while the broker has blocked the connection (memory or disk alarm)
            before the sink says so and is opened again.
    """

    heartbeat_seconds: int = 5
    timeout_seconds: float = 10.0
    blocked_seconds: float = 30.0

    def __post_init__(self) -> None:
        if not 1 <= self.heartbeat_seconds <= 600:
            raise SettingsError("Times.heartbeat_seconds must be from 1 to 600", hint="Leave it out for 5 seconds.")
        for name in ("timeout_seconds", "blocked_seconds"):
            if getattr(self, name) <= 0:
                raise SettingsError(f"Times.{name} must be above 0", hint=f"Leave {name} out for its default.")

    @property
    def takeover_seconds(self) -> float:
        """Time after which a broker has certainly let a silent client go."""
        return 3.0 * self.heartbeat_seconds + 2.0


@dataclass(frozen=True, slots=True)
class Limits:
    """Every bound of a source and a sink.

    Args:
        prefetch: Queues: deliveries that may be unacknowledged; an epoch ends when half of them are taken.
        read_ahead_records: Streams: records asked for beyond what the flow took.
        read_ahead_bytes: Bytes buffered beyond what the flow took.
        publish_window_records: Published messages whose confirm is still awaited.
        publish_window_bytes: Their bytes.
        message_bytes_max: Largest message to be published; the broker's own limit (``max_message_size``, 128 MiB
            up to RabbitMQ 3.13, 16 MiB from 4.0 on) is not told to clients.
    """

    prefetch: int = 2048
    read_ahead_records: int = 8192
    read_ahead_bytes: int = 32 * 1024 * 1024
    publish_window_records: int = 4096
    publish_window_bytes: int = 16 * 1024 * 1024
    message_bytes_max: int = 16 * 1024 * 1024

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            if getattr(self, name) <= 0:
                raise SettingsError(f"Limits.{name} must be above 0", hint=f"Leave {name} out for its default.")
        if not 2 <= self.prefetch <= 65_535:
            raise SettingsError("Limits.prefetch must be from 2 to 65535", hint="Leave prefetch out for its default.")


@dataclass(frozen=True, slots=True)
class Address:
    """One node of a broker.

    Args:
        scheme: ``amqp`` or ``amqps``.
        host: Name or address.
        port: The AMQP port.
    """

    scheme: Literal["amqp", "amqps"]
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class RabbitMQ:
    """A RabbitMQ broker or cluster. Building it does no I/O and binds no event loop.

    Args:
        url: ``amqp://host:5672/vhost`` or ``amqps://...``, or several, tried in order; user and password may stand in
            it and are taken out at once.
        auth: How to log in; guest by default, which RabbitMQ accepts from its own machine only.
        tls: `Tls`, or a context of your own; either way an unencrypted broker is refused.
        vhost: The virtual host; that of the URL, else ``/``, by default.
        stream_port: Port of the stream protocol; 5552, with TLS 5551, by default.
        times: Heartbeat and waits.

    Raises:
        SettingsError: A URL cannot be used; its text is never repeated with credentials in it.
    """

    url: str | tuple[str, ...] | list[str] = "amqp://127.0.0.1:5672"
    auth: UserPassword | None = None
    tls: Tls | ssl.SSLContext | None = None
    vhost: str = ""
    stream_port: int = 0
    times: Times = field(default_factory=Times)
    addresses: tuple[Address, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        given = (self.url,) if isinstance(self.url, str) else tuple(self.url)
        parsed = [_parse_url(url, encrypted=self.tls is not None) for each in given for url in each.split(",")]
        if not parsed:
            raise SettingsError("no RabbitMQ broker is named", hint="Pass a URL such as amqp://127.0.0.1:5672.")
        logins = {each.login for each in parsed if each.login is not None}
        if len(logins) > 1 or (logins and self.auth is not None):
            raise SettingsError(
                "the RabbitMQ URLs carry more than one login", hint="Give one login, by auth= or in the URLs."
            )
        vhosts = {each.vhost for each in parsed if each.vhost} | ({self.vhost} if self.vhost else set())
        if len(vhosts) > 1:
            raise SettingsError(
                f"more than one virtual host is named: {', '.join(sorted(vhosts))}",
                hint="Give one, by vhost= or in the URLs.",
            )
        if isinstance(self.tls, ssl.SSLContext):
            check_context(self.tls)
        if not 0 <= self.stream_port <= 65_535:
            raise SettingsError("stream_port must be a port", hint="Leave it out for 5552 (TLS: 5551).")
        addresses = tuple(each.address for each in parsed)
        object.__setattr__(self, "addresses", addresses)
        object.__setattr__(self, "url", tuple(map(str, addresses)))
        object.__setattr__(self, "auth", self.auth or (logins.pop() if logins else GUEST))
        object.__setattr__(self, "vhost", vhosts.pop() if vhosts else "/")

    def __str__(self) -> str:
        vhost = "" if self.vhost == "/" else f" vhost {self.vhost}"
        return ",".join(map(str, self.addresses)) + vhost

    @property
    def login(self) -> UserPassword:
        """Who logs in."""
        return self.auth or GUEST

    def stream_address(self, address: Address) -> Address:
        """Where a node speaks the stream protocol."""
        return Address(address.scheme, address.host, self.stream_port or STREAM_PORTS[address.scheme])

    @overload
    def queue(
        self,
        name: str,
        *,
        id_from: IdFrom = "message_id",
        readers: Readers = "exclusive",
        mode: SinkMode = "confirm",
        declare: QueueDeclaration | None = None,
        limits: Limits | None = None,
    ) -> RabbitQueue[bytes]: ...

    @overload
    def queue(
        self,
        name: str,
        *,
        value: type[T] | Codec[T],
        id_from: IdFrom = "message_id",
        readers: Readers = "exclusive",
        mode: SinkMode = "confirm",
        declare: QueueDeclaration | None = None,
        limits: Limits | None = None,
    ) -> RabbitQueue[T]: ...

    def queue(  # noqa: PLR0913 - the one call a user writes; each keyword stands alone
        self,
        name: str,
        *,
        value: Any = bytes,
        id_from: IdFrom = "message_id",
        readers: Readers = "exclusive",
        mode: SinkMode = "confirm",
        declare: QueueDeclaration | None = None,
        limits: Limits | None = None,
    ) -> RabbitQueue[Any]:
        """Returns a classic or quorum queue, to be read from, or written to, or both by different flows.

        Args:
            name: The queue's name; it must exist unless ``declare`` is given.
            value: Type or codec of the values; bytes by default.
            id_from: Source: what a message is known by when it comes again: its ``message_id``, a ``digest`` of its
                body (exact only if no two bodies are equal), a function of the `Delivery`, or None: at-least-once.
            readers: Source: ``exclusive`` (nobody else reads), ``single_active`` (a queue with a single active
                consumer, which knows no exclusive ones) or ``shared`` (consumers compete: at-least-once, no order).
            mode: Sink: ``confirm``, or ``tx`` (slower; nothing doubled when this process dies).
            declare: What the queue shall be, and what it is bound to, if that may be made where it is missing; a queue
                that is there must be equal.
            limits: Bounds; the defaults suit most.

        Raises:
            SettingsError: A name or a choice is not legal.
            DefinitionError: Values of that type cannot be read.
        """
        from streamflow_rabbitmq.queue import QueueSettings, RabbitQueue

        return RabbitQueue(self, QueueSettings(name, id_from, readers, mode, declare, limits or Limits()), value)

    @overload
    def exchange(
        self,
        name: str,
        *,
        routing_key: str = "",
        mode: SinkMode = "confirm",
        declare: ExchangeDeclaration | None = None,
        limits: Limits | None = None,
    ) -> RabbitExchange[bytes]: ...

    @overload
    def exchange(
        self,
        name: str,
        *,
        value: type[T] | Codec[T],
        routing_key: str = "",
        mode: SinkMode = "confirm",
        declare: ExchangeDeclaration | None = None,
        limits: Limits | None = None,
    ) -> RabbitExchange[T]: ...

    def exchange(
        self,
        name: str,
        *,
        value: Any = bytes,
        routing_key: str = "",
        mode: SinkMode = "confirm",
        declare: ExchangeDeclaration | None = None,
        limits: Limits | None = None,
    ) -> RabbitExchange[Any]:
        """Returns an exchange, to be written to.

        Args:
            name: The exchange's name; it must exist unless ``declare`` is given. A message that no queue takes is a
                record that the broker refuses.
            value: Type or codec of the values; bytes by default.
            routing_key: Of every message; ``to(subject=)`` gives each record its own.
            mode: ``confirm``, or ``tx`` (slower; nothing doubled when this process dies).
            declare: What the exchange shall be, and what is bound to it, if that may be made where it is missing.
            limits: Bounds; the defaults suit most.

        Raises:
            SettingsError: A name or a choice is not legal.
            DefinitionError: Values of that type cannot be written.
        """
        from streamflow_rabbitmq.exchange import ExchangeSettings, RabbitExchange

        return RabbitExchange(self, ExchangeSettings(name, routing_key, mode, declare, limits or Limits()), value)

    @overload
    def stream(self, name: str, *, start: Start = "earliest", limits: Limits | None = None) -> RabbitStream[bytes]: ...

    @overload
    def stream(
        self, name: str, *, value: type[T] | Codec[T], start: Start = "earliest", limits: Limits | None = None
    ) -> RabbitStream[T]: ...

    def stream(
        self, name: str, *, value: Any = bytes, start: Start = "earliest", limits: Limits | None = None
    ) -> RabbitStream[Any]:
        """Returns a stream, to be read from, or written to, or both by different flows.

        Args:
            name: The stream's name; the stream must exist, nothing is ever declared.
            value: Type or codec of the values; bytes by default.
            start: Where a source without a stored position starts.
            limits: Bounds; the defaults suit most.

        Raises:
            SettingsError: The name is not legal.
            DefinitionError: Values of that type cannot be read.
        """
        from streamflow_rabbitmq.stream import RabbitStream, StreamSettings

        return RabbitStream(self, StreamSettings(name, False, start, limits or Limits()), value)

    @overload
    def super_stream(
        self, name: str, *, start: Start = "earliest", limits: Limits | None = None
    ) -> RabbitStream[bytes]: ...

    @overload
    def super_stream(
        self, name: str, *, value: type[T] | Codec[T], start: Start = "earliest", limits: Limits | None = None
    ) -> RabbitStream[T]: ...

    def super_stream(
        self, name: str, *, value: Any = bytes, start: Start = "earliest", limits: Limits | None = None
    ) -> RabbitStream[Any]:
        """Returns a super stream: streams that are the partitions of one.

        Args:
            name: The super stream's name; it must exist.
            value: Type or codec of the values; bytes by default.
            start: Where a source starts in a partition without a stored position; partitions that are added later are
                read from their first record on.
            limits: Bounds, for each partition; the defaults suit most.

        Raises:
            SettingsError: The name is not legal.
            DefinitionError: Values of that type cannot be read.
        """
        from streamflow_rabbitmq.stream import RabbitStream, StreamSettings

        return RabbitStream(self, StreamSettings(name, True, start, limits or Limits()), value)


@dataclass(frozen=True, slots=True)
class _ParsedUrl:
    address: Address
    vhost: str
    login: UserPassword | None


def _parse_url(url: str, *, encrypted: bool) -> _ParsedUrl:
    """Splits a URL into address, virtual host and credentials."""
    text = url.strip()
    if "://" not in text:
        text = f"amqp://{text}"
    hint = "Write amqp://host:5672/vhost or amqps://host:5671/vhost."
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise SettingsError("a RabbitMQ URL cannot be read", hint=hint) from None
    if parts.scheme not in SCHEMES:
        raise SettingsError(f"RabbitMQ is not reached by {parts.scheme}://", hint=hint)
    if not host:
        raise SettingsError("a RabbitMQ URL names no host", hint=hint)
    path = parts.path.removeprefix("/")
    if "/" in path or "@" in path or parts.query or parts.fragment:
        # a password with / ? or # in it ends up here
        raise SettingsError(
            "a RabbitMQ URL has more than host, port and virtual host behind its login",
            hint="Write / ? and # in a password or virtual host as %2F %3F %23; settings are arguments of RabbitMQ().",
        )
    scheme: Literal["amqp", "amqps"] = "amqps" if encrypted or parts.scheme == "amqps" else "amqp"
    address = Address(scheme, host, port or PORTS[scheme])
    login = None
    if parts.username is not None:
        login = UserPassword(unquote(parts.username), unquote(parts.password or ""))
    return _ParsedUrl(address, unquote(path), login)


def check_name(name: str, what: str, *, empty: bool = False) -> None:
    """Refuses a name that the protocol cannot carry.

    Raises:
        SettingsError: It is empty, longer than 255 bytes, or has control characters in it.
    """
    if not name and not empty:
        raise SettingsError(f"the name of a {what} is empty", hint=f"Give the {what}'s name.")
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        size = NAME_BYTES_MAX + 1
    if size > NAME_BYTES_MAX or any(ord(letter) < 32 or letter == "\x7f" for letter in name):
        raise SettingsError(
            f"{name[:40]!r} is no name of a {what}", hint="Names have up to 255 bytes and no control characters."
        )
