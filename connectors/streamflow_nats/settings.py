"""Settings of a NATS connection: servers, credentials that never show, TLS, limits."""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar, overload
from urllib.parse import unquote, urlsplit

from streamflow.codecs import Codec
from streamflow.connect.secret import Secret, UserPassword, as_secret
from streamflow.connect.tls import Tls, check_context
from streamflow.errors import SettingsError
from streamflow_nats.subjects import check_name, check_pattern, is_literal

if TYPE_CHECKING:
    from streamflow_nats.stream import NatsStream

T = TypeVar("T")

Start = Literal["earliest", "latest"]
Mode = Literal["chain", "batch", "msgid"]

DEFAULT_PORT: Final = 4222
_SCHEMES: Final = ("nats", "tls")
_SEED: Final = re.compile(r"S[A-Z2-7]{40,}")
_JWT: Final = re.compile(r"eyJ[A-Za-z0-9_-]{20}")


@dataclass(frozen=True, slots=True)
class Token:
    """Log in with a token.

    Args:
        token: The token; kept as a `Secret`.
    """

    token: str | Secret

    def __post_init__(self) -> None:
        object.__setattr__(self, "token", as_secret(self.token))


@dataclass(frozen=True, slots=True)
class NKey:
    """Log in with an nkey.

    Args:
        seed_file: File with the seed (``SU...``), read at each connect.
    """

    seed_file: str | Path

    def __post_init__(self) -> None:
        _check_path(self.seed_file, "seed_file")


@dataclass(frozen=True, slots=True)
class Creds:
    """Log in with a credentials file (user JWT and seed), as ``nsc`` writes it.

    Args:
        file: The ``.creds`` file, read at each connect.
    """

    file: str | Path

    def __post_init__(self) -> None:
        _check_path(self.file, "file")


Auth = UserPassword | Token | NKey | Creds


def _check_path(path: str | Path, what: str) -> None:
    """Refuses a seed or a key where a path to it belongs: a path is shown in errors, so the text is not repeated."""
    text = str(path)
    if "\n" in text or "-----BEGIN" in text or _SEED.fullmatch(text.strip()) or _JWT.match(text):
        raise SettingsError(
            f"{what}= is given what looks like a secret itself, not the path of a file that holds it",
            hint="Write it into a file that only its owner may read, and pass the path.",
        )


@dataclass(frozen=True, slots=True)
class Limits:
    """Every bound of a source and a sink.

    Args:
        read_ahead_records: Records asked for beyond what the flow took.
        read_ahead_bytes: Bytes buffered, and as much again asked for, beyond what the flow took.
        publish_window_records: Published messages whose acknowledgement is still awaited.
        publish_window_bytes: Their bytes.
        unacked_max: Work-queue and interest streams: deliveries not acknowledged yet; must hold two epochs.
        ack_wait_seconds: Work-queue and interest streams: when the server delivers again. After a restart an
            interest stream waits that long before it goes on.
    """

    read_ahead_records: int = 4096
    read_ahead_bytes: int = 32 * 1024 * 1024
    publish_window_records: int = 4096
    publish_window_bytes: int = 16 * 1024 * 1024
    unacked_max: int = 65_536
    ack_wait_seconds: float = 30.0

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            if getattr(self, name) <= 0:
                raise SettingsError(f"Limits.{name} must be above 0", hint=f"Leave {name} out for its default.")


@dataclass(frozen=True, slots=True)
class Nats:
    """A NATS server or cluster. Building it does no I/O and binds no event loop.

    Args:
        servers: One URL or several: ``nats://host:4222``, ``tls://host:4222``; user and password, or a token,
            may stand in the URL and are taken out of it at once.
        auth: How to log in; `UserPassword`, `Token`, `NKey` or `Creds`.
        tls: `Tls`, or a context of your own; either way an unencrypted server is refused.
        domain: JetStream domain, where there is one.
        inbox_prefix: First tokens of reply subjects, for accounts that restrict them.
        timeout_seconds: Longest wait for a connection, an answer, or an acknowledgement.

    Raises:
        SettingsError: A URL cannot be used; its text is never repeated with credentials in it. Or a name is not legal.
    """

    servers: str | tuple[str, ...] | list[str] = f"nats://127.0.0.1:{DEFAULT_PORT}"
    auth: Auth | None = None
    tls: Tls | ssl.SSLContext | None = None
    domain: str = ""
    inbox_prefix: str = "_INBOX"
    timeout_seconds: float = 5.0
    urls: tuple[str, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        given = (self.servers,) if isinstance(self.servers, str) else tuple(self.servers)
        parsed = [_parse_url(url) for each in given for url in each.split(",")]
        if not parsed:
            raise SettingsError("no NATS server is named", hint="Pass a URL such as nats://127.0.0.1:4222.")
        logins = {login for _, login in parsed if login is not None}
        if len(logins) > 1 or (logins and self.auth is not None):
            raise SettingsError(
                "the NATS server URLs carry more than one login",
                hint="Give one login, by auth= or in the URLs.",
            )
        urls = tuple(url for url, _ in parsed)
        object.__setattr__(self, "servers", urls)
        object.__setattr__(self, "urls", urls)
        object.__setattr__(self, "auth", self.auth or (logins.pop() if logins else None))
        if isinstance(self.tls, ssl.SSLContext):
            check_context(self.tls)
        if self.domain:
            check_name(self.domain, "JetStream domain")
        check_pattern(self.inbox_prefix)
        if not is_literal(self.inbox_prefix):
            raise SettingsError(
                f"inbox_prefix={self.inbox_prefix!r} has wildcards", hint="Leave it out, or write plain tokens."
            )
        if self.timeout_seconds <= 0:
            raise SettingsError("timeout_seconds must be above 0", hint="Leave it out for 5 seconds.")

    def __str__(self) -> str:
        return ",".join(self.urls)

    @property
    def encrypted(self) -> bool:
        """Whether an unencrypted connection is refused."""
        return self.tls is not None or any(url.startswith("tls://") for url in self.urls)

    @overload
    def stream(
        self,
        name: str,
        *,
        subject: str = "",
        start: Start = "earliest",
        mode: Mode = "chain",
        durable: str = "",
        limits: Limits | None = None,
    ) -> NatsStream[bytes]: ...

    @overload
    def stream(
        self,
        name: str,
        *,
        value: type[T] | Codec[T],
        subject: str = "",
        start: Start = "earliest",
        mode: Mode = "chain",
        durable: str = "",
        limits: Limits | None = None,
    ) -> NatsStream[T]: ...

    def stream(  # noqa: PLR0913 - the one call a user writes; each keyword stands alone
        self,
        name: str,
        *,
        value: Any = bytes,
        subject: str = "",
        start: Start = "earliest",
        mode: Mode = "chain",
        durable: str = "",
        limits: Limits | None = None,
    ) -> NatsStream[Any]:
        """Returns a stream, to be read from, or written to, or both by different flows.

        Args:
            name: The stream's name; the stream must exist, nothing is ever declared.
            value: Type or codec of the values; bytes by default.
            subject: Source: which subjects to read, with wildcards; all by default. Sink: the subject to publish
                on; not needed where ``to(subject=)`` gives one, or the stream has one plain subject.
            start: Where a source without a stored position starts.
            mode: How a sink is guarded: ``chain`` (this sink is the stream's only writer), ``batch`` (shared
                stream, server 2.12 or newer) or ``msgid`` (at-least-once beyond the de-duplication window).
            durable: Work-queue and interest streams: name of the durable consumer; made from flow and source
                by default.
            limits: Bounds; the defaults suit most.

        Raises:
            SettingsError: A name or subject is not legal.
            DefinitionError: Values of that type cannot be read.
        """
        from streamflow_nats.stream import NatsStream, StreamSettings

        settings = StreamSettings(name, subject, start, mode, durable, limits or Limits())
        return NatsStream(self, settings, value)


def _parse_url(url: str) -> tuple[str, Auth | None]:
    """Splits a URL into one without credentials, and the credentials."""
    text = url.strip()
    if "://" not in text:
        text = f"nats://{text}"
    hint = "Write nats://host:4222 or tls://host:4222."
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port or DEFAULT_PORT
    except ValueError:
        raise SettingsError("a NATS server URL cannot be read", hint=hint) from None
    if parts.scheme not in _SCHEMES:
        raise SettingsError(f"NATS servers are not reached by {parts.scheme}://", hint=hint)
    if not host:
        raise SettingsError("a NATS server URL names no host", hint=hint)
    if parts.path.strip("/") or parts.query or parts.fragment:
        # a password with / or # in it ends up here
        raise SettingsError(
            "a NATS server URL has more than host and port behind its login",
            hint="Write / ? and # in a password as %2F %3F %23, or pass auth=UserPassword(...).",
        )
    shown = f"[{host}]" if ":" in host else host
    clean = f"{parts.scheme}://{shown}:{port}"
    if parts.username is None:
        return clean, None
    user = unquote(parts.username)
    if parts.password is None:
        return clean, Token(user)
    return clean, UserPassword(user, unquote(parts.password))
