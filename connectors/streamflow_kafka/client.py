"""Connections to the brokers of a cluster, and why one could not be had, in one sentence.

They are aiokafka's connections (framing, versions, TLS, SASL) without its client around them: that one reconnects by
itself, logs what it should raise, and makes topics that it only asks for. Here a lost connection is told to whoever
waits, and the connector is opened again.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any, Final

from streamflow.connect.secret import Secret
from streamflow.connect.tls import Tls
from streamflow.errors import ConnectorError, SettingsError, Unavailable
from streamflow_kafka.settings import Kafka, Options, SaslOAuth, SaslPlain, SaslScram

if TYPE_CHECKING:
    from streamflow_kafka.metadata import Metadata

EARLIEST: Final = -2
LATEST: Final = -1
READ_UNCOMMITTED: Final = 0
READ_COMMITTED: Final = 1
_TOPIC_DENIED: Final = 29


class Unsettled(Unavailable):
    """The brokers answer, though they do not know enough at this time: a partition changes its leader."""


async def client_options(kafka: Kafka) -> dict[str, Any]:
    """Reads the files that the settings name, off the loop, as arguments for aiokafka's clients and connections.

    Raises:
        SettingsError: A file cannot be used.
    """
    from aiokafka.abc import AbstractTokenProvider

    options: dict[str, Any] = {}
    login = not (kafka.security is None or isinstance(kafka.security, Tls))
    encrypted = kafka.tls is not None
    options["security_protocol"] = f"SASL_{'SSL' if encrypted else 'PLAINTEXT'}" if login else "PLAINTEXT"
    if encrypted:
        options["security_protocol"] = "SASL_SSL" if login else "SSL"
        options["ssl_context"] = await _context(kafka.tls)
    match kafka.security:
        case SaslPlain(user, Secret() as password):
            options |= {"sasl_mechanism": "PLAIN", "sasl_plain_username": user}
            options["sasl_plain_password"] = password.reveal()
        case SaslScram(user, Secret() as password, mechanism):
            options |= {"sasl_mechanism": mechanism, "sasl_plain_username": user}
            options["sasl_plain_password"] = password.reveal()
        case SaslOAuth(token):

            class Tokens(AbstractTokenProvider):  # type: ignore[misc]
                async def token(self) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
                    return await token()

            options |= {"sasl_mechanism": "OAUTHBEARER", "sasl_oauth_token_provider": Tokens()}
        case _:
            pass
    return options


async def _context(tls: Tls | ssl.SSLContext | None) -> ssl.SSLContext:
    if isinstance(tls, ssl.SSLContext):
        return tls
    try:
        return await asyncio.to_thread((tls or Tls()).context)
    except OSError as error:
        raise SettingsError(
            f"the TLS files cannot be used: {error}", hint="Check ca=, cert= and key= of Tls(...)."
        ) from None


class Cluster:
    """Connections to one cluster, made when they are needed.

    GUARANTEE: a request that gets no answer raises `Unavailable`; nothing is sent again by itself.
    BOUND: one connection per broker and purpose; ``Options.timeout_seconds`` per answer.

    Args:
        kafka: The cluster.
        options: Times.
        client_id: What brokers call this client.
    """

    def __init__(self, kafka: Kafka, options: Options, client_id: str) -> None:
        self.kafka = kafka
        self.options = options
        self._client_id = options.client_id or client_id
        self._arguments: dict[str, Any] = {}
        self._brokers: Mapping[int, tuple[str, int]] = {}
        self._controller = -1
        self._connections: dict[tuple[int, str], Any] = {}
        self._making = asyncio.Lock()
        self._broken = asyncio.Event()

    @classmethod
    async def connect(cls, kafka: Kafka, options: Options, client_id: str) -> Cluster:
        """Asks the first server that answers for the others.

        Raises:
            Unavailable: None answers.
            ConnectorError: They refuse the login, or TLS fails.
        """
        cluster = cls(kafka, options, client_id)
        cluster._arguments = await client_options(kafka)
        errors = []
        for server in kafka.bootstrap:
            host, _, port = server.rpartition(":")
            try:
                await cluster._greet(host.strip("[]"), int(port))
            except Unavailable as error:
                errors.append(error)
                continue
            return cluster
        raise errors[0]

    async def _greet(self, host: str, port: int) -> None:
        connection = await self._connect(host, port)
        try:
            self._learn(await self._ask(connection, []))
        finally:
            await _closed(connection)
        if not self._brokers:
            raise Unavailable(f"Kafka at {host}:{port} knows no brokers at this time", hint="It is tried again.")

    def _learn(self, metadata: Metadata) -> None:
        if metadata.brokers:
            self._brokers, self._controller = metadata.brokers, metadata.controller

    async def _ask(self, connection: Any, names: Sequence[str] | None) -> Metadata:
        from streamflow_kafka.metadata import MetadataRequest, read_metadata

        return read_metadata(await self._exchange(connection, MetadataRequest(names)))

    @property
    def broken(self) -> bool:
        """Whether a connection was lost, not just closed because nobody used it."""
        return self._broken.is_set()

    async def breaks(self) -> None:
        """Waits until a connection is lost."""
        await self._broken.wait()

    @property
    def nodes(self) -> Set[int]:
        """The brokers that are known."""
        return self._brokers.keys()

    async def metadata(self, names: Sequence[str] | None) -> Metadata:
        """Asks about topics, all if None; none is made by that."""
        found = await self._ask(await self._connection(next(iter(self._brokers)), ""), names)
        self._learn(found)
        return found

    async def send(self, request: Any, node: int | None = None, purpose: str = "") -> Any:
        """Sends a request and waits for the answer.

        Args:
            request: One of aiokafka's.
            node: To which broker; any if None.
            purpose: Requests of one purpose share a connection, on which the broker answers in order.

        Raises:
            Unavailable: There is no answer.
        """
        node = next(iter(self._brokers)) if node is None else node
        return await self._exchange(await self._connection(node, purpose), request)

    async def require(self, *requests: Any) -> None:
        """Looks whether the brokers know some requests, without sending them.

        Raises:
            ConnectorError: One is not known.
        """
        from aiokafka.errors import IncompatibleBrokerVersion

        connection = await self._connection(next(iter(self._brokers)), "")
        for request in requests:
            try:
                request.prepare(connection._versions)
            except (IncompatibleBrokerVersion, NotImplementedError) as error:
                raise self._unknown(request, error) from error

    def _unknown(self, request: Any, error: Exception) -> ConnectorError:
        return ConnectorError(
            f"Kafka at {self.kafka} is too old or too new for {type(request).__name__}: {error}",
            hint="Topics can be read from Kafka 2.1 on and written to from 2.5 on, both up to 4.x.",
        )

    async def offsets(
        self, leaders: Mapping[tuple[str, int], int], when: int, isolation: int = READ_COMMITTED
    ) -> dict[tuple[str, int], int]:
        """Asks where partitions begin (`EARLIEST`) or end (`LATEST`), by default for a reader of committed records.

        Args:
            leaders: The node that leads each partition.
            when: Which of the two.
            isolation: `READ_COMMITTED` or `READ_UNCOMMITTED`.

        Raises:
            Unavailable: A partition cannot be asked at this time.
        """
        from aiokafka.errors import for_code
        from aiokafka.protocol.offset import OffsetRequest

        asked: dict[int, dict[str, list[tuple[int, int]]]] = {}
        for (topic, number), node in leaders.items():
            asked.setdefault(node, {}).setdefault(topic, []).append((number, when))
        found: dict[tuple[str, int], int] = {}
        for node, topics in asked.items():
            response = await self.send(OffsetRequest(-1, isolation, list(topics.items())), node)
            for topic, parts in response.topics:
                for number, code, _, offset in parts:
                    if code == _TOPIC_DENIED:
                        raise denied(self.kafka, topic)
                    if code:
                        raise Unsettled(
                            f"Kafka at {self.kafka} cannot tell the offsets of {topic}:{number}: "
                            f"{for_code(code).__name__}",
                            hint="It is asked again; look at the broker if this repeats.",
                        )
                    found[topic, number] = offset
        return found

    async def close(self) -> None:
        """Closes every connection."""
        connections, self._connections = list(self._connections.values()), {}
        for connection in connections:
            await _closed(connection)

    async def _connection(self, node: int, purpose: str) -> Any:
        found = self._connections.get((node, purpose))
        if found is not None and found.connected():
            return found
        async with self._making:
            found = self._connections.get((node, purpose))
            if found is None or not found.connected():
                if node not in self._brokers:
                    raise Unavailable(
                        f"Kafka at {self.kafka} has no broker {node} at this time", hint="It is tried again."
                    )
                found = self._connections[node, purpose] = await self._connect(*self._brokers[node])
        return found

    async def _connect(self, host: str, port: int) -> Any:
        from aiokafka.conn import create_conn
        from aiokafka.errors import KafkaError

        options = self.options
        try:
            return await create_conn(
                host,
                port,
                client_id=self._client_id,
                request_timeout_ms=int(1000 * (options.timeout_seconds + options.fetch_wait_seconds)),
                max_idle_ms=int(1000 * options.connections_idle_seconds),
                on_close=self._lost,
                **self._arguments,
            )
        except (OSError, EOFError, TimeoutError, KafkaError) as error:
            raise explain(error, self.kafka, f"{host}:{port}") from error

    def _lost(self, connection: Any, reason: Any) -> None:
        from aiokafka.conn import CloseReason

        if reason == CloseReason.CONNECTION_BROKEN:
            self._broken.set()

    async def _exchange(self, connection: Any, request: Any) -> Any:
        from aiokafka.conn import CloseReason
        from aiokafka.errors import IncompatibleBrokerVersion, KafkaError

        try:
            return await connection.send(request)
        except (IncompatibleBrokerVersion, NotImplementedError) as error:
            raise self._unknown(request, error) from error
        except (OSError, EOFError, TimeoutError, KafkaError) as error:
            if isinstance(error, TimeoutError):
                connection.close(reason=CloseReason.CONNECTION_TIMEOUT)
            raise explain(error, self.kafka, f"{connection.host}:{connection.port}") from error


async def _closed(connection: Any) -> None:
    """Closes a connection and waits until its socket is gone."""
    closing = connection.close()
    if closing is not None:
        await closing


def explain(error: BaseException, kafka: Kafka, where: str) -> ConnectorError:
    """Says in one sentence why there is no connection, or no answer.

    Args:
        error: What aiokafka or the socket raised.
        kafka: The cluster.
        where: The broker.
    """
    from aiokafka import errors

    reasons = [error, error.__cause__]
    if any(isinstance(each, errors.SaslAuthenticationFailed | errors.AuthenticationFailedError) for each in reasons):
        return ConnectorError(
            f"Kafka at {where} refuses the login",
            hint="Check user and password of security=, and that the user exists for that mechanism.",
        )
    if any(isinstance(each, errors.UnsupportedSaslMechanismError | errors.IllegalSaslStateError) for each in reasons):
        return ConnectorError(
            f"Kafka at {where} does not take this way to log in",
            hint="Use the kind of security= (SaslPlain, SaslScram, SaslOAuth, Tls) that this listener is made for.",
        )
    for each in reasons:
        if isinstance(each, ssl.SSLError):
            return ConnectorError(
                f"TLS with Kafka at {where} failed: {getattr(each, 'verify_message', '') or each.reason or each}",
                hint="Check Tls(ca=...), the client certificate, the name in the server's certificate, and the port.",
            )
    if isinstance(error, TimeoutError):
        return Unavailable(
            f"Kafka at {where} does not answer in time",
            hint="Check host, port and firewall, and that the listener is encrypted if security= says so.",
        )
    if isinstance(error, ConnectionRefusedError):
        text = "connection refused"
    elif isinstance(error, OSError) and not isinstance(error, ConnectionError):
        text = error.strerror or str(error)
    else:
        return Unavailable(
            f"Kafka at {where} closed the connection",
            hint="It is tried again; if that repeats, the listener wants TLS or a login, or does not: see security=.",
        )
    return Unavailable(f"no Kafka broker answers at {where}: {text}", hint="Start it, or check host and port.")


def denied(kafka: Kafka, topic: str) -> ConnectorError:
    """A topic that this user may not read."""
    return ConnectorError(
        f"Kafka at {kafka} does not allow this user to read topic {topic}",
        hint=f"kafka-acls.sh --add --allow-principal User:NAME --operation Read --operation Describe --topic {topic}",
    )
