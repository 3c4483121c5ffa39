"""One connection of the stream protocol: made, asked, written to, and lost for good when it is lost."""

from __future__ import annotations

import asyncio
import itertools
import ssl
from collections.abc import Callable
from typing import Final, cast

from streamflow.connect.tls import Tls
from streamflow.errors import ConnectorError, NotFound, Unavailable
from streamflow_rabbitmq.settings import Address, RabbitMQ
from streamflow_rabbitmq.streams.wire import (
    HEADER,
    RESPONSE,
    Broker,
    Code,
    Command,
    Fields,
    StreamMetadata,
    byte_string,
    frame,
    mapping,
    parse_metadata,
    string,
    strings,
)

FRAME_BYTES_MAX: Final = 1024 * 1024
"""What we ask for; the broker may lower it. Chunks that it delivers are not bound by it."""
DELIVERY_BYTES_MAX: Final = 256 * 1024 * 1024
"""Largest frame that is taken in at all."""
MISSED_HEARTBEATS_MAX: Final = 2
CLOSE_SECONDS: Final = 2.0

Deliver = Callable[[bytes], None]
Confirm = Callable[[bytes], None]


class StreamLink(asyncio.Protocol):
    """A connection that never reconnects by itself: reconnecting could publish or deliver behind a hole.

    GUARANTEE: once `lost` is done, nothing more is sent or received, and every waiting call raises its error.
    BOUND: one future per open request; writing waits while the socket's buffer is full.

    Args:
        rabbit: The broker, its login and times.
        address: Where it speaks the stream protocol.
        heartbeat_seconds: After two to three times this long without a sign of life, either side gives up.
    """

    def __init__(self, rabbit: RabbitMQ, address: Address, heartbeat_seconds: int) -> None:
        loop = asyncio.get_running_loop()
        self.rabbit, self.address = rabbit, address
        self.lost: asyncio.Future[ConnectorError] = loop.create_future()
        self.advertised = Broker(address.host, address.port)
        self.version = ""
        self.frame_bytes_max = FRAME_BYTES_MAX
        self.deliver: dict[int, Deliver] = {}
        """By subscription: called with each chunk."""
        self.confirmed: dict[int, Confirm] = {}
        """By publisher: called with the ids that were confirmed, packed."""
        self.refused: dict[int, Callable[[int, int], None]] = {}
        """By publisher: called with an id and the code of its refusal."""
        self._loop = loop
        self._heartbeat_seconds = heartbeat_seconds
        self._transport: asyncio.Transport | None = None
        self._answers: dict[int, asyncio.Future[Fields]] = {}
        self._tuned: asyncio.Future[Fields] = loop.create_future()
        self._numbers = itertools.count(1)
        self._ids = list(range(255, -1, -1))
        self._room = asyncio.Event()
        self._room.set()
        self._heard = loop.time()
        self._beat: asyncio.TimerHandle | None = None
        self._parts: list[bytes] = []
        self._size = 0
        self._wanted = 0

    # Making and ending it.

    @classmethod
    async def connect(cls, rabbit: RabbitMQ, address: Address, name: str, heartbeat_seconds: int) -> StreamLink:
        """Connects, logs in and opens the virtual host.

        Args:
            rabbit: The broker.
            address: Where it speaks the stream protocol.
            name: Shown in the broker's management.
            heartbeat_seconds: See the class.

        Raises:
            Unavailable: Nobody answers.
            ConnectorError: The broker refuses the login or the virtual host.
        """
        link = cls(rabbit, address, heartbeat_seconds)
        try:
            async with asyncio.timeout(rabbit.times.timeout_seconds):
                context = await _tls_context(rabbit, address)
                server_name = rabbit.tls.server_name if isinstance(rabbit.tls, Tls) else None
                await link._loop.create_connection(
                    lambda: link,
                    address.host,
                    address.port,
                    ssl=context,
                    server_hostname=(server_name or address.host) if context else None,
                )
                await link._log_in(name)
        except (OSError, TimeoutError) as error:
            await link.close()
            raise _unreachable(address, error) from None
        except BaseException:
            await link.close()
            raise
        link._beat = link._loop.call_later(heartbeat_seconds, link._on_beat)
        return link

    def check(self) -> None:
        """Raises the error of a lost connection."""
        if self.lost.done():
            raise self.lost.result()

    def fail(self, error: Exception) -> None:
        """Declares the connection lost and cuts it; everybody who waits on it gets the error."""
        if self.lost.done():
            return
        if not isinstance(error, ConnectorError):
            error = Unavailable(
                f"connection to RabbitMQ at {self.address} failed: {type(error).__name__}: {error}",
                hint="It is opened again by itself; see the server's log if this repeats.",
            )
        self.lost.set_result(error)
        for answer in (*self._answers.values(), self._tuned):
            if not answer.done():
                answer.set_exception(error)
                answer.exception()  # nobody may be waiting any more
        self._answers.clear()
        self._room.set()
        if self._beat is not None:
            self._beat.cancel()
        if self._transport is not None:
            self._transport.abort()

    async def close(self) -> None:
        """Says goodbye where somebody listens, and disconnects. Safe to call twice."""
        if self._transport is not None and not self.lost.done():
            try:
                async with asyncio.timeout(CLOSE_SECONDS):
                    await self.request(Command.CLOSE, Code.OK.to_bytes(2) + string("OK"))
            except (ConnectorError, TimeoutError):
                pass  # it is gone all the same
        self.fail(Unavailable("the connection is closed"))

    # Talking.

    async def request(self, command: Command, body: bytes) -> tuple[int, Fields]:
        """Asks and waits; returns the response code and what stands behind it.

        Raises:
            Unavailable: No answer in time, or the connection is lost.
        """
        fields = await self._ask(command, body)
        return fields.integer(2), fields

    async def send(self, data: bytes) -> None:
        """Sends frames; waits while the socket's buffer is full.

        Raises:
            Unavailable: The connection is lost.
        """
        self.send_now(data)
        if not self._room.is_set():
            await self._room.wait()
            self.check()

    def send_now(self, data: bytes) -> None:
        """Sends frames without waiting for room.

        Raises:
            Unavailable: The connection is lost.
        """
        self.check()
        assert self._transport is not None, "used before connect"
        self._transport.write(data)

    async def metadata(self, stream: str) -> StreamMetadata:
        """Asks where a stream lives.

        Raises:
            NotFound: There is no such stream.
            Unavailable: It has no leader now, or the broker does not say where it lives.
        """
        fields = await self._ask(Command.METADATA, strings([stream]))
        found = parse_metadata(fields).get(stream)
        if found is None:
            raise Unavailable(
                f"RabbitMQ at {self.address} was asked for stream {stream} and told of others",
                hint="It is asked again; see the server's log if this repeats.",
            )
        if found.code != Code.OK:
            raise explain(found.code, f"stream {stream}", self)
        if found.leader is None:
            raise Unavailable(
                f"stream {stream} at {self.rabbit} has no leader now", hint="It is tried again; is a node down?"
            )
        return found

    def take_id(self) -> int:
        """An id for a subscription or a publisher, from 0 to 255, that is not in use on this connection.

        Raises:
            Unavailable: There is none.
        """
        if not self._ids:
            raise Unavailable(
                f"all 256 ids of the connection to RabbitMQ at {self.address} are in use",
                hint="It is opened again by itself; does a super stream have more partitions?",
            )
        return self._ids.pop()

    def give_back_id(self, number: int) -> None:
        """Frees an id for which nothing is on its way any more: the broker has answered that it is gone."""
        self._ids.append(number)

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if self.lost.done():
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.fail(
            Unavailable(
                f"connection to RabbitMQ at {self.address} is lost" + (f": {exc}" if exc else ""),
                hint="Is the server running? The connection is made again by itself.",
            )
        )

    def pause_writing(self) -> None:
        self._room.clear()

    def resume_writing(self) -> None:
        self._room.set()

    def data_received(self, data: bytes) -> None:
        self._heard = self._loop.time()
        if self._parts:
            self._parts.append(data)
            self._size += len(data)
            if self._size < self._wanted:
                return
            data = b"".join(self._parts)
            self._parts.clear()
        at, end = 0, len(data)
        self._wanted = 4
        while end - at >= 4:
            size = int.from_bytes(data[at : at + 4])
            if size > DELIVERY_BYTES_MAX:
                self.fail(_too_large(size, self.address, data[at : at + 4]))
                return
            if at + 4 + size > end:
                self._wanted = 4 + size
                break
            try:
                self._on_frame(data[at + 4 : at + 4 + size])
            except (ConnectorError, ValueError, IndexError) as error:
                self.fail(error)
                return
            at += 4 + size
        if at < end:
            self._parts.append(data[at:])
            self._size = end - at

    # Below: in calling order.

    async def _log_in(self, name: str) -> None:
        properties = {"connection_name": name, "product": "streamflow", "platform": "Python"}
        code, fields = await self.request(Command.PEER_PROPERTIES, mapping(properties))
        self._require(code, "a greeting")
        self.version = fields.mapping().get("version", "")
        code, fields = await self.request(Command.SASL_HANDSHAKE, b"")
        self._require(code, "the list of its login mechanisms")
        if "PLAIN" not in fields.strings():
            raise ConnectorError(
                f"RabbitMQ at {self.address} does not offer login by password (PLAIN)",
                hint="Allow it: auth_mechanisms.1 = PLAIN in rabbitmq.conf.",
            )
        login = self.rabbit.login
        secret = b"\0" + login.user.encode() + b"\0" + login.reveal().encode()
        code, _ = await self.request(Command.SASL_AUTHENTICATE, string("PLAIN") + byte_string(secret))
        if code != Code.OK:
            raise ConnectorError(
                f"RabbitMQ at {self.address} refuses the login of user {login.user}",
                hint="Check auth= of RabbitMQ(...). The user guest may log in from the broker's own machine only.",
            )
        await self._tune()
        code, fields = await self.request(Command.OPEN, string(self.rabbit.vhost))
        if code != Code.OK:
            raise ConnectorError(
                f"user {login.user} cannot open virtual host {self.rabbit.vhost} of RabbitMQ at {self.address}",
                hint="Does it exist, and may this user use it? rabbitmqctl list_permissions -p VHOST",
            )
        said = fields.mapping()
        if said.get("advertised_host") and said.get("advertised_port", "").isdigit():
            self.advertised = Broker(said["advertised_host"], int(said["advertised_port"]))

    async def _tune(self) -> None:
        """Settles on the smaller frame and the shorter heartbeat of the two sides'."""
        fields = await self._tuned
        frame_bytes, heartbeat = fields.integer(4), fields.integer(4)
        self.frame_bytes_max = min(frame_bytes or FRAME_BYTES_MAX, FRAME_BYTES_MAX)
        self._heartbeat_seconds = min(heartbeat or self._heartbeat_seconds, self._heartbeat_seconds)
        body = self.frame_bytes_max.to_bytes(4) + self._heartbeat_seconds.to_bytes(4)
        self.send_now(frame(Command.TUNE, body))

    async def _ask(self, command: Command, body: bytes) -> Fields:
        number = next(self._numbers)
        answer: asyncio.Future[Fields] = self._loop.create_future()
        self._answers[number] = answer
        try:
            self.send_now(frame(command, number.to_bytes(4) + body))
            async with asyncio.timeout(self.rabbit.times.timeout_seconds):
                return await answer
        except TimeoutError:
            raise Unavailable(
                f"RabbitMQ at {self.address} did not answer within {self.rabbit.times.timeout_seconds} s",
                hint="Is the server overloaded, or out of disk or memory?",
            ) from None
        finally:
            self._answers.pop(number, None)

    def _require(self, code: int, what: str) -> None:
        if code != Code.OK:
            raise explain(code, what, self)

    def _on_frame(self, data: bytes) -> None:
        command = int.from_bytes(data[:2])
        if command == Command.DELIVER:
            handler = self.deliver.get(data[4])
            if handler is not None:
                handler(data)
        elif command == Command.PUBLISH_CONFIRM:
            confirmed = self.confirmed.get(data[4])
            if confirmed is not None:
                confirmed(data[9:])
        elif command & RESPONSE or command == Command.PARTITIONS:
            # RabbitMQ 3.10 leaves the mark of a response out where it answers with partitions
            self._on_answer(command & ~RESPONSE, data)
        else:
            self._on_command(command, Fields(data, 4))

    def _on_answer(self, command: int, data: bytes) -> None:
        if command == Command.CREDIT:
            code, subscription = Fields(data, 4).integer(2), data[6]
            if subscription in self.deliver:  # else it was for one that has ended
                raise explain(code, f"subscription {subscription}", self)
            return
        fields = Fields(data, 4)
        answer = self._answers.get(fields.integer(4))
        if answer is not None and not answer.done():
            answer.set_result(fields)

    def _on_command(self, command: int, fields: Fields) -> None:
        if command == Command.PUBLISH_ERROR:
            refused = self.refused.get(fields.integer(1))
            for _ in range(fields.integer(4)):
                number, code = fields.integer(8), fields.integer(2)
                if refused is not None:
                    refused(number, code)
        elif command == Command.TUNE:
            if not self._tuned.done():
                self._tuned.set_result(fields)
        elif command == Command.METADATA_UPDATE:
            code, stream = fields.integer(2), fields.string()
            raise Unavailable(
                f"stream {stream} at {self.address} was deleted, or its leader is gone (code {code})",
                hint="It is opened again; if the stream was deleted, bring it back.",
            )
        elif command == Command.CLOSE:
            number, code, reason = fields.integer(4), fields.integer(2), fields.string()
            self.send_now(frame(Command.CLOSE | RESPONSE, number.to_bytes(4) + Code.OK.to_bytes(2)))
            raise Unavailable(
                f"RabbitMQ at {self.address} closes the connection: {reason} (code {code})",
                hint="See the server's log. The connection is made again by itself.",
            )

    def _on_beat(self) -> None:
        silent = self._loop.time() - self._heard
        if silent > MISSED_HEARTBEATS_MAX * self._heartbeat_seconds:
            self.fail(
                Unavailable(
                    f"nothing was heard from RabbitMQ at {self.address} for {silent:.1f} s",
                    hint="Is the server frozen, or the network cut? The connection is made again by itself.",
                )
            )
        if self.lost.done():
            return
        self.send_now(HEADER.pack(4, Command.HEARTBEAT, 1))
        self._beat = self._loop.call_later(self._heartbeat_seconds, self._on_beat)


async def connect_any(rabbit: RabbitMQ, name: str, *, heartbeat_seconds: int) -> StreamLink:
    """Connects to the first node that answers.

    Raises:
        Unavailable: None does.
    """
    problem: ConnectorError | None = None
    for address in rabbit.addresses:
        try:
            return await StreamLink.connect(rabbit, rabbit.stream_address(address), name, heartbeat_seconds)
        except Unavailable as error:
            problem = error
    assert problem is not None, "settings name at least one broker"
    raise problem


def explain(code: int, what: str, link: StreamLink) -> ConnectorError:
    """What a response code means."""
    where = f"{what} at RabbitMQ {link.rabbit}"
    if code == Code.STREAM_DOES_NOT_EXIST:
        return NotFound(
            f"{where} does not exist, or is no stream",
            hint="Declare a queue of type stream (x-queue-type), or correct the name.",
        )
    if code == Code.ACCESS_REFUSED:
        return ConnectorError(
            f"user {link.rabbit.login.user} may not use {where}",
            hint="Give it the right: rabbitmqctl set_permissions -p VHOST USER CONFIGURE WRITE READ",
        )
    if code in (Code.STREAM_NOT_AVAILABLE, Code.INTERNAL_ERROR):
        return Unavailable(f"{where} is not available now (code {code})", hint="It is tried again.")
    known = next((each.name.lower().replace("_", " ") for each in Code if each == code), "refused")
    return ConnectorError(f"{where}: {known} (code {code})", hint="See the server's log.")


def _too_large(size: int, address: Address, start: bytes) -> ConnectorError:
    if start == b"AMQP":
        return ConnectorError(
            f"what listens at {address} speaks AMQP, not the stream protocol",
            hint="Name the stream protocol's port by stream_port= of RabbitMQ(...); it is 5552, with TLS 5551.",
        )
    return ConnectorError(
        f"a frame of {size} bytes came from {address}, and {DELIVERY_BYTES_MAX} is the most that is taken",
        hint="Publish smaller batches to this stream.",
    )


async def _tls_context(rabbit: RabbitMQ, address: Address) -> ssl.SSLContext | None:
    if address.scheme == "amqp":
        return None
    if isinstance(rabbit.tls, ssl.SSLContext):
        return rabbit.tls
    return await asyncio.to_thread((rabbit.tls or Tls()).context)


def _unreachable(address: Address, error: Exception) -> ConnectorError:
    if isinstance(error, ssl.SSLError):
        return ConnectorError(
            f"TLS with RabbitMQ at {address} failed: {error.reason or error}",
            hint="Check ca= and server_name= of Tls, and that the port is the stream protocol's for TLS.",
        )
    if address.scheme == "amqps" and isinstance(error, ConnectionResetError):
        return Unavailable(
            f"RabbitMQ at {address} closed the connection while TLS was set up",
            hint="It is tried again. Check that stream_port= of RabbitMQ(...) is the stream protocol's for TLS.",
        )
    said = str(error) or type(error).__name__
    if isinstance(error, TimeoutError):
        said = "no answer in time"
    elif isinstance(error, ConnectionRefusedError):
        said = "connection refused"
    return Unavailable(
        f"RabbitMQ's stream port cannot be reached at {address}: {said}",
        hint="Start it, or enable its plugin: rabbitmq-plugins enable rabbitmq_stream; or correct stream_port=.",
    )
