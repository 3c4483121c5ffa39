"""Settings of a Kafka cluster: servers, security whose passwords never show, client options, and the topics of it."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar, overload

from streamflow.codecs import Codec
from streamflow.connect.secret import Secret, as_secret
from streamflow.connect.tls import Tls, check_context
from streamflow.errors import SettingsError

if TYPE_CHECKING:
    from streamflow_kafka.topic import KafkaTopic, KafkaTopics

T = TypeVar("T")

Start = Literal["earliest", "latest"]
Compression = Literal["", "gzip", "snappy", "lz4", "zstd"]
Scram = Literal["SCRAM-SHA-256", "SCRAM-SHA-512"]

DEFAULT_PORT: Final = 9092
_COMPRESSIONS: Final = ("", "gzip", "snappy", "lz4", "zstd")


@dataclass(frozen=True, slots=True)
class SaslPlain:
    """Log in with user name and password, sent as they are: use it with ``tls``.

    Args:
        user: The user's name.
        password: The password; kept as a `Secret`.
        tls: `Tls`, or a context of your own; None for an unencrypted line.
    """

    user: str
    password: str | Secret
    tls: Tls | ssl.SSLContext | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "password", as_secret(self.password))


@dataclass(frozen=True, slots=True)
class SaslScram:
    """Log in with user name and password by SCRAM, which never sends the password.

    Args:
        user: The user's name.
        password: The password; kept as a `Secret`.
        mechanism: ``SCRAM-SHA-512`` or ``SCRAM-SHA-256``, as the user was made on the server.
        tls: `Tls`, or a context of your own; None for an unencrypted line.
    """

    user: str
    password: str | Secret
    mechanism: Scram = "SCRAM-SHA-512"
    tls: Tls | ssl.SSLContext | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "password", as_secret(self.password))
        if self.mechanism not in ("SCRAM-SHA-256", "SCRAM-SHA-512"):
            raise SettingsError(
                f"SCRAM mechanism {self.mechanism!r} is unknown", hint='Use "SCRAM-SHA-256" or "SCRAM-SHA-512".'
            )


@dataclass(frozen=True, slots=True)
class SaslOAuth:
    """Log in with a bearer token (OAUTHBEARER).

    Args:
        token: Async function that gives a token that is valid now; called at each connect.
        tls: `Tls`, or a context of your own; None for an unencrypted line.
    """

    token: Callable[[], Awaitable[str]] = field(repr=False)
    tls: Tls | ssl.SSLContext | None = None


Security = Tls | SaslPlain | SaslScram | SaslOAuth


@dataclass(frozen=True, slots=True)
class Options:
    """What can be tuned, for a cluster or one topic; the defaults suit most.

    Args:
        client_id: What brokers call this client in logs, metrics and quotas; made from the flow's name by default.
        timeout_seconds: Longest wait for a connection or an answer.
        connections_idle_seconds: When an unused connection is closed.
        refresh_seconds: Source: how often partitions and topics that are new are looked for.
        fetch_bytes: Source: bytes that one broker may answer with at once, compressed as they are.
        fetch_partition_bytes: Source: the same for one partition. A larger batch of records is read all the same.
        fetch_wait_seconds: Source: how long a broker may wait for something to answer with.
        fetch_bytes_min: Source: how much a broker waits for within that time.
        batch_bytes_max: Source: how large a batch of records may grow when it is decompressed.
        report_offsets: Source: whether what is committed is told to the group ``<flow>.<source>``, which shows
            its lag.
        rack: Source: where this process runs, so that the nearest replica is read.
        compression: Sink: ``gzip``, ``snappy``, ``lz4``, ``zstd``, or empty for none.
        batch_bytes: Sink: size of the batches of records that are sent, before compression.
        message_bytes_max: Sink: largest request and so largest message; raise it together with the broker's limit.
        transaction_timeout_seconds: Sink: when a broker gives up a transaction whose sender went away.
    """

    client_id: str = ""
    timeout_seconds: float = 10.0
    connections_idle_seconds: float = 540.0
    refresh_seconds: float = 30.0
    fetch_bytes: int = 16 * 1024 * 1024
    fetch_partition_bytes: int = 1024 * 1024
    fetch_wait_seconds: float = 0.5
    fetch_bytes_min: int = 1
    batch_bytes_max: int = 64 * 1024 * 1024
    report_offsets: bool = True
    rack: str = ""
    compression: Compression = ""
    batch_bytes: int = 256 * 1024
    message_bytes_max: int = 1024 * 1024
    transaction_timeout_seconds: float = 60.0

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            if isinstance(value, int | float) and not isinstance(value, bool) and value <= 0:
                raise SettingsError(f"Options.{name} must be above 0", hint=f"Leave {name} out for its default.")
        if self.compression not in _COMPRESSIONS:
            raise SettingsError(
                f"compression={self.compression!r} is unknown", hint=f"Use one of {', '.join(_COMPRESSIONS[1:])}."
            )


@dataclass(frozen=True, slots=True)
class Kafka:
    """A Kafka cluster. Building it does no I/O and binds no event loop.

    Args:
        servers: Some of its brokers, ``host:port``: one text (commas separate) or several.
        security: `Tls`, `SaslPlain`, `SaslScram` or `SaslOAuth`; None for an unencrypted line without login.
        options: What can be tuned, for all topics that have no options of their own.

    Raises:
        SettingsError: A server or a topic's name cannot be used.
    """

    servers: str | tuple[str, ...] | list[str] = f"127.0.0.1:{DEFAULT_PORT}"
    security: Security | None = None
    options: Options = field(default_factory=Options)
    bootstrap: tuple[str, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        given = (self.servers,) if isinstance(self.servers, str) else tuple(self.servers)
        bootstrap = tuple(_parse_server(server) for each in given for server in each.split(",") if server.strip())
        if not bootstrap:
            raise SettingsError("no Kafka server is named", hint="Pass a server such as 127.0.0.1:9092.")
        object.__setattr__(self, "servers", bootstrap)
        object.__setattr__(self, "bootstrap", bootstrap)
        tls = self.tls
        if isinstance(tls, ssl.SSLContext):
            check_context(tls)
        elif tls is not None and tls.server_name is not None:
            raise SettingsError(
                "Tls(server_name=...) is not for Kafka: each broker's certificate is held against its own name",
                hint="Leave it out, and let advertised.listeners name what the certificates carry.",
            )

    def __str__(self) -> str:
        return ",".join(self.bootstrap)

    @property
    def tls(self) -> Tls | ssl.SSLContext | None:
        """How the line is encrypted; None if it is not."""
        return self.security if isinstance(self.security, Tls) or self.security is None else self.security.tls

    @overload
    def topic(
        self, name: str, *, nulls: Literal[False] = ..., start: Start = ..., options: Options | None = ...
    ) -> KafkaTopic[bytes]: ...

    @overload
    def topic(
        self, name: str, *, nulls: Literal[True], start: Start = ..., options: Options | None = ...
    ) -> KafkaTopic[bytes | None]: ...

    @overload
    def topic(
        self,
        name: str,
        *,
        value: type[T] | Codec[T],
        nulls: Literal[False] = ...,
        start: Start = ...,
        options: Options | None = ...,
    ) -> KafkaTopic[T]: ...

    @overload
    def topic(
        self,
        name: str,
        *,
        value: type[T] | Codec[T],
        nulls: Literal[True],
        start: Start = ...,
        options: Options | None = ...,
    ) -> KafkaTopic[T | None]: ...

    def topic(
        self,
        name: str,
        *,
        value: Any = bytes,
        nulls: bool = False,
        start: Start = "earliest",
        options: Options | None = None,
    ) -> KafkaTopic[Any]:
        """Returns one topic, to be read from, or written to, or both by different flows.

        Args:
            name: The topic's name; it must exist, nothing is ever made.
            value: Type or codec of the values; bytes by default.
            nulls: Whether records without a value (tombstones) are values None; else they are refused.
            start: Where a source without a stored position starts.
            options: What can be tuned; the cluster's by default.

        Raises:
            SettingsError: The name is not legal.
            DefinitionError: Values of that type cannot be read.
        """
        from streamflow_kafka.topic import KafkaTopic, TopicSettings

        settings = TopicSettings((name,), "", start, nulls, options or self.options)
        return KafkaTopic(self, settings, value)

    @overload
    def topics(
        self,
        *names: str,
        pattern: str = ...,
        nulls: Literal[False] = ...,
        start: Start = ...,
        options: Options | None = ...,
    ) -> KafkaTopics[bytes]: ...

    @overload
    def topics(
        self, *names: str, pattern: str = ..., nulls: Literal[True], start: Start = ..., options: Options | None = ...
    ) -> KafkaTopics[bytes | None]: ...

    @overload
    def topics(
        self,
        *names: str,
        value: type[T] | Codec[T],
        pattern: str = ...,
        nulls: Literal[False] = ...,
        start: Start = ...,
        options: Options | None = ...,
    ) -> KafkaTopics[T]: ...

    @overload
    def topics(
        self,
        *names: str,
        value: type[T] | Codec[T],
        pattern: str = ...,
        nulls: Literal[True],
        start: Start = ...,
        options: Options | None = ...,
    ) -> KafkaTopics[T | None]: ...

    def topics(
        self,
        *names: str,
        value: Any = bytes,
        pattern: str = "",
        nulls: bool = False,
        start: Start = "earliest",
        options: Options | None = None,
    ) -> KafkaTopics[Any]:
        """Returns several topics, to be read from as one source.

        Args:
            names: Their names; each must exist.
            value: Type or codec of the values; bytes by default.
            pattern: Instead of names: a regular expression that a topic's whole name must match. Topics that
                match later are found while the flow runs, and read from their beginning.
            nulls: Whether records without a value (tombstones) are values None; else they are refused.
            start: Where a source without a stored position starts.
            options: What can be tuned; the cluster's by default.

        Raises:
            SettingsError: A name or the pattern is not legal, or both are given, or neither.
            DefinitionError: Values of that type cannot be read.
        """
        from streamflow_kafka.topic import KafkaTopics, TopicSettings

        settings = TopicSettings(names, pattern, start, nulls, options or self.options)
        return KafkaTopics(self, settings, value)


def _parse_server(text: str) -> str:
    """Returns ``host:port``; the text is not repeated where it may hold a password."""
    hint = "Write host:port, without anything before or behind; log in by security=SaslScram(...) or SaslPlain(...)."
    server = text.strip()
    if "@" in server or "/" in server:
        raise SettingsError("a Kafka server is not named by a URL", hint=hint)
    host, colon, port = server.rpartition(":")
    if not colon or (server.startswith("[") and server.endswith("]")):
        host, port = server, str(DEFAULT_PORT)
    if not host or not port.isdecimal() or not 0 < int(port) < 65_536 or any(map(str.isspace, host)):
        raise SettingsError(f"Kafka server {server!r} cannot be read", hint=hint)
    return f"{host}:{int(port)}"
