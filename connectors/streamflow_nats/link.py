"""One connection to a NATS server: made, asked, written to, and lost for good when it is lost."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

from streamflow.errors import ConnectorError, SettingsError, Unavailable
from streamflow_nats.login import explain_refusal, login_options, reason
from streamflow_nats.settings import Nats

if TYPE_CHECKING:
    from streamflow_nats.client import DirectClient, Handler

PING_SECONDS: Final = 10
PINGS_OUTSTANDING_MAX: Final = 2
CLOSE_SECONDS: Final = 2.0
ABORT_SECONDS: Final = 0.2
VERSION_MIN: Final = (2, 10, 0)
NO_RESPONDERS: Final = b"NATS/1.0 503"
FENCE_TOKEN: Final = "sf-fence"
"""Marks subjects that a sink can do without: forbidding them does not end the connection."""


class Link:
    """A connection that never reconnects by itself: reconnecting could publish or deliver behind a hole.

    GUARANTEE: once `lost` is done, nothing more is sent or received, and every waiting call raises its error.
    BOUND: one future per open request.
    """

    def __init__(self, nats: Nats) -> None:
        self.nats = nats
        self.lost: asyncio.Future[ConnectorError] = asyncio.get_running_loop().create_future()
        self.info: dict[str, Any] = {}
        self.inbox = ""
        self._client: DirectClient | None = None
        self._last_error: BaseException | None = None
        self._answering: asyncio.Future[None] | None = None
        self._answers: dict[bytes, asyncio.Future[tuple[bytes, bytes | None]]] = {}
        self._tokens = itertools.count(1)

    @classmethod
    async def connect(cls, nats: Nats, name: str) -> Link:
        """Connects to the first server that answers.

        Args:
            nats: Where and how.
            name: Shown in the server's monitoring.

        Raises:
            MissingExtraError: nats-py is not installed.
            SettingsError: A file of credentials or certificates cannot be read, or the server is too old.
            Unavailable: No server answers.
            ConnectorError: The server refuses the credentials.
        """
        options = await login_options(nats)
        problem: ConnectorError | None = None
        for url in nats.urls:
            link = cls(nats)
            try:
                await link._connect(url, name, options)
            except Unavailable as error:
                problem = error
            else:
                return link
        assert problem is not None, "settings name at least one server"
        raise problem

    @property
    def version(self) -> tuple[int, ...]:
        """The server's version: (2, 12, 1)."""
        return tuple(int(part) for part in re.findall(r"\d+", str(self.info.get("version", "0")))[:3])

    @property
    def payload_bytes_max(self) -> int:
        """The largest message, headers included, that the server takes."""
        return int(self.info.get("max_payload", 1024 * 1024))

    def check(self) -> None:
        """Raises the error of a lost connection."""
        if self.lost.done():
            raise self.lost.result()

    def fail(self, error: Exception) -> None:
        """Declares the connection lost; everybody who waits on it gets the error."""
        if self.lost.done():
            return
        if not isinstance(error, ConnectorError):
            error = Unavailable(
                f"connection to NATS at {self.nats} failed: {type(error).__name__}: {error}",
                hint="It is opened again by itself; see the server's log if this repeats.",
            )
        self.lost.set_result(error)
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(error)
        self._answers.clear()

    async def subscribe(self, subject: str, handler: Handler) -> Callable[[], None]:
        """Calls ``handler`` with each message of a subject; returns what ends it.

        Raises:
            Unavailable: The connection is lost.
        """
        self.check()
        client = self._connected()
        with _cancellation_heard():
            subscription = await client.subscribe(
                subject, cb=_never_called, pending_msgs_limit=-1, pending_bytes_limit=-1
            )
        sid = subscription._id
        client.direct[sid] = handler

        def end() -> None:
            # The entry stays, as a no-op: a message on its way would otherwise reach nats-py's own dispatch.
            client.direct[sid] = _ignore
            if not self.lost.done():
                client.send_now(b"UNSUB %d\r\n" % sid)

        return end

    async def send(self, commands: bytes) -> None:
        """Sends protocol lines. Returns when they are queued.

        Raises:
            Unavailable: The connection is lost.
        """
        self.check()
        client = self._connected()
        if client.send_now(commands):
            with _cancellation_heard():
                await client.kick()

    def answer(self, commands: bytes) -> None:
        """Sends protocol lines from a handler, also when the connection is about to be declared lost."""
        client = self._connected()
        if client.send_now(commands):
            self._answering = asyncio.ensure_future(client.kick())

    async def request(self, subject: str, payload: bytes, *, seconds: float = 0) -> bytes:
        """Asks and waits for the answer.

        Args:
            subject: Whom to ask.
            payload: What to ask.
            seconds: Longest wait; the setting ``timeout_seconds`` by default.

        Raises:
            Unavailable: No answer in time, nobody there, or the connection is lost.
        """
        token = b"%d" % next(self._tokens)
        answer: asyncio.Future[tuple[bytes, bytes | None]] = asyncio.get_running_loop().create_future()
        self._answers[token] = answer
        reply = self.inbox.encode() + b"q." + token
        try:
            await self.send(b"PUB %s %s %d\r\n%s\r\n" % (subject.encode(), reply, len(payload), payload))
            async with asyncio.timeout(seconds or self.nats.timeout_seconds):
                data, headers = await answer
        except TimeoutError:
            raise Unavailable(
                f"NATS at {self.nats} did not answer within {seconds or self.nats.timeout_seconds} s",
                hint="Is the server overloaded, or has its cluster no leader?",
            ) from None
        finally:
            self._answers.pop(token, None)
        if headers is not None and headers.startswith(NO_RESPONDERS):
            raise _nobody_there(self, subject)
        return data

    async def close(self) -> None:
        """Sends what is queued and disconnects; at once where the connection is lost. Safe to call twice."""
        client, self._client = self._client, None
        dead = self.lost.done()
        self.fail(Unavailable("the connection is closed"))
        if client is None:
            return
        if dead:
            client.abort()
        try:
            async with asyncio.timeout(ABORT_SECONDS if dead else CLOSE_SECONDS):
                with _cancellation_heard():
                    await client.finish()
        except TimeoutError:
            client.abort()
        except (OSError, RuntimeError):
            pass  # whatever the last flush found broken is of no interest any more

    async def _connect(self, url: str, name: str, options: dict[str, Any]) -> None:
        from nats import errors

        from streamflow_nats.client import DirectClient, check_client

        check_client()
        client = DirectClient(encrypted=self.nats.encrypted, failed=self.fail)
        try:
            async with asyncio.timeout(self.nats.timeout_seconds):
                with _cancellation_heard():
                    await client.connect(
                        url,
                        name=name,
                        allow_reconnect=False,
                        max_reconnect_attempts=1,
                        reconnect_time_wait=0,
                        connect_timeout=max(1, int(self.nats.timeout_seconds)),
                        ping_interval=PING_SECONDS,
                        max_outstanding_pings=PINGS_OUTSTANDING_MAX,
                        pending_size=0,
                        inbox_prefix=self.nats.inbox_prefix,
                        error_cb=self._on_error,
                        **options,
                    )
            self._client = client
            client.watch(self._on_ended)
            self.info = client.server_info
            if self.version < VERSION_MIN:
                raise SettingsError(
                    f"NATS at {url} is version {self.info.get('version')}; 2.10 or newer is needed",
                    hint="Upgrade the server: 2.9 has a race in its check of expected sequences.",
                )
            self.inbox = client.new_inbox() + "."
            await self.subscribe(self.inbox + "q.*", self._on_answer)
        except (errors.Error, OSError, TimeoutError) as error:
            await self._give_up(client)
            wants = bool(client.server_info.get("tls_verify"))
            raise explain_refusal(error, self._last_error, url, wants_certificate=wants) from None
        except BaseException:
            await self._give_up(client)
            raise

    async def _give_up(self, client: DirectClient) -> None:
        self._client = client
        if not self.lost.done():
            self.lost.set_result(Unavailable("the connection was never made"))
        await self.close()

    def _connected(self) -> DirectClient:
        assert self._client is not None, "used before connect"
        return self._client

    def _on_answer(self, subject: bytes, reply: bytes, data: bytes, headers: bytes | None) -> None:
        answer = self._answers.get(subject[subject.rindex(b".") + 1 :])
        if answer is not None and not answer.done():
            answer.set_result((data, headers))

    async def _on_error(self, error: Exception) -> None:
        self._last_error = error
        text = str(error).lower()
        if "permissions violation" in text and FENCE_TOKEN not in text:
            self.fail(
                ConnectorError(
                    f"NATS at {self.nats} forbids what the connector needs: {str(error).removeprefix('nats: ')}",
                    hint="Let this user publish to the stream's subjects, $JS.API.> and $JS.ACK.>, "
                    f"and subscribe to {self.nats.inbox_prefix}.>.",
                )
            )

    def _on_ended(self) -> None:
        cause = self._last_error
        self.fail(
            Unavailable(
                f"connection to NATS at {self.nats} is lost" + (f": {reason(cause)}" if cause else ""),
                hint="Is the server running? The connection is made again by itself.",
            )
        )


@contextlib.contextmanager
def _cancellation_heard() -> Iterator[None]:
    """Raises a cancellation that nats-py swallowed meanwhile, or answered with an error of its own.

    Its flush catches CancelledError and returns; a connect that is cancelled may say that no server is there.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task is not None else 0
    try:
        yield
    finally:
        if task is not None and task.cancelling() > before:
            raise asyncio.CancelledError


def _nobody_there(link: Link, subject: str) -> ConnectorError:
    if subject.startswith("$JS.") and not link.info.get("jetstream"):
        return ConnectorError(
            f"NATS at {link.nats} runs without JetStream", hint="Start it with: nats-server -js -sd DIRECTORY."
        )
    return Unavailable(
        f"nobody answers {subject.partition('.')[0]} requests at NATS {link.nats}",
        hint="Is JetStream enabled for this account, and has the cluster a leader?",
    )


async def _never_called(message: Any) -> None:
    raise AssertionError("messages of direct subscriptions never reach nats-py's queue")


def _ignore(subject: bytes, reply: bytes, data: bytes, headers: bytes | None) -> None:
    pass
