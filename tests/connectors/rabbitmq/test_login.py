"""Logging in: users, virtual hosts, permissions and TLS, and what is said where they are refused."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from streamflow.cli.failing import tell_failure
from streamflow.connect.contracts import SinkOptions
from streamflow.errors import ConnectorError, NotFound, SettingsError, Unavailable
from streamflow_rabbitmq import QueueDeclaration, RabbitMQ, Tls, UserPassword
from streamflow_rabbitmq.link import Link
from tests.brokers import RABBITMQ, RabbitServer
from tests.brokers.rabbitmq import Certificates
from tests.brokers.required import need
from tests.connectors.nats.keys import certificates
from tests.connectors.rabbitmq.kit import chunk, open_sink, open_source
from tests.connectors.rabbitmq.outsider import QUICK, Outsider, fresh
from tests.connectors.rabbitmq.streams_outside import Streams

CANARY = "canary-7f3a-secret"


def _user(name: str, password: str, tags: str = "") -> dict[str, Any]:
    salt = b"salt"
    digest = base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()
    return {
        "name": name,
        "password_hash": digest,
        "hashing_algorithm": "rabbit_password_hashing_sha256",
        "tags": tags,
    }


def _may(user: str, vhost: str, configure: str, write: str, read: str) -> dict[str, str]:
    return {"user": user, "vhost": vhost, "configure": configure, "write": write, "read": read}


DEFINITIONS = {
    "vhosts": [{"name": "/"}, {"name": "/other/one"}],
    "users": [_user("guest", "guest", "administrator"), _user("ann", CANARY), _user("ben", "ben"), _user("cid", "cid")],
    "permissions": [
        _may("guest", "/", ".*", ".*", ".*"),
        _may("guest", "/other/one", ".*", ".*", ".*"),
        _may("ann", "/other/one", ".*", ".*", ".*"),
        _may("ben", "/", r"^sf\.", r"^(sf\.|amq\.)", r"^sf\."),
        _may("cid", "/", "^$", ".*", ".*"),
    ],
}


@pytest.fixture(scope="module")
def locked_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitServer]:
    need(RABBITMQ)
    folder = certificates(tmp_path_factory.mktemp("keys"))
    definitions = folder / "definitions.json"
    definitions.write_text(json.dumps(DEFINITIONS))
    keys = Certificates(folder / "ca.pem", folder / "server.pem", folder / "server.key", client_required=True)
    with RabbitServer(extra_config=f"load_definitions = {definitions}", certificates=keys) as server:
        yield server


@pytest_asyncio.fixture
async def locked(locked_server: RabbitServer) -> AsyncIterator[Outsider]:
    each = Outsider(locked_server)
    await each.connect()
    yield each
    await each.close()


def keys_of(server: RabbitServer) -> Path:
    assert server.certificates is not None
    return server.certificates.authority.parent


async def test_a_user_on_a_virtual_host(locked: Outsider) -> None:
    address = locked.server.url.removeprefix("amqp://")
    for rabbit in (
        RabbitMQ(f"amqp://ann:{CANARY}@{address}/%2Fother%2Fone", times=QUICK),
        RabbitMQ(locked.server.url, auth=UserPassword("ann", CANARY), vhost="/other/one", times=QUICK),
    ):
        spec = rabbit.queue(fresh("queue"), declare=QueueDeclaration("classic"))
        source = await open_source(spec)
        assert (await source.probe()).ok
        await source.close()
        assert CANARY not in f"{rabbit!r}{spec!r}{(await spec.source().probe())!r}"


@pytest.mark.parametrize(
    ("login", "vhost", "words"),
    [
        (UserPassword("ann", "wrong"), "/other/one", "refuses user ann"),
        (UserPassword("nobody", CANARY), "/", "refuses user nobody"),
        (UserPassword("ann", CANARY), "/", "refuses virtual host '/' to user ann"),
        (UserPassword("ann", CANARY), "/none", "refuses virtual host '/none'"),
    ],
)
async def test_a_login_that_is_refused(locked: Outsider, login: UserPassword, vhost: str, words: str) -> None:
    rabbit = RabbitMQ(locked.server.url, auth=login, vhost=vhost, times=QUICK)
    with pytest.raises(ConnectorError, match=words) as caught:
        await Link.connect(rabbit, "test")
    assert not isinstance(caught.value, Unavailable)
    assert caught.value.hint
    probe = await rabbit.queue("q").source().probe()
    assert not probe.ok and words in probe.problem and probe.hint
    assert CANARY not in f"{caught.value}{caught.value.hint}{probe!r}"


async def test_what_a_user_may_not_do(locked: Outsider) -> None:
    """May read nothing, and publish to nothing but the connector's own: each refusal names what was refused."""
    queue, exchange = await locked.queue(), await locked.exchange()
    ben = RabbitMQ(locked.server.url, auth=UserPassword("ben", "ben"), times=QUICK)
    with pytest.raises(ConnectorError, match="may not be read by user ben") as caught:
        await open_source(ben.queue(queue))
    assert "set_permissions" in caught.value.hint
    with pytest.raises(ConnectorError, match="refuses queue") as caught:
        await open_source(ben.queue(fresh("made"), declare=QueueDeclaration()))
    assert "set_permissions" in caught.value.hint
    sink = await open_sink(ben.exchange(exchange, value=str), fresh("flow"))
    at = await sink.recover(None, [])
    with pytest.raises(ConnectorError, match="ACCESS_REFUSED") as caught:
        await sink.publish([chunk(sink, 1, 1, ["x"])], at)
    assert not isinstance(caught.value, Unavailable)
    await sink.close()


async def test_a_user_without_the_names_of_the_connector(locked: Outsider) -> None:
    await locked.ctl("set_permissions", "-p", "/other/one", "ben", "^$", ".*", ".*")
    ben = RabbitMQ(locked.server.url, auth=UserPassword("ben", "ben"), vhost="/other/one", times=QUICK)
    other = Outsider(locked.server, vhost="/other/one")
    await other.connect()
    queue = await other.queue()
    await other.close()
    with pytest.raises(ConnectorError, match=r"\^sf") as caught:
        await open_source(ben.queue(queue))
    assert "set_permissions" in caught.value.hint
    with pytest.raises(ConnectorError, match=r"\^sf") as caught:
        await open_sink(ben.queue(queue), fresh("flow"))
    assert "set_permissions" in caught.value.hint


async def test_tls_with_a_client_certificate(locked: Outsider) -> None:
    folder = keys_of(locked.server)
    tls = Tls(ca=folder / "ca.pem", cert=folder / "client.pem", key=folder / "client.key")
    link = await Link.connect(RabbitMQ(locked.server.tls_url, tls=tls, times=QUICK), "test")
    await link.close()


@pytest.mark.parametrize(
    ("tls", "words"),
    [
        (lambda folder: None, "TLS with RabbitMQ"),
        (lambda folder: Tls(cert=folder / "client.pem", key=folder / "client.key"), "TLS with RabbitMQ"),
        (
            lambda folder: Tls(folder / "ca.pem", folder / "client.pem", folder / "client.key", "elsewhere"),
            "TLS with RabbitMQ",
        ),
        (lambda folder: Tls(ca=folder / "none.pem"), "TLS files"),
        (lambda folder: Tls(ca=folder / "ca.pem"), "RabbitMQ"),
    ],
)
async def test_tls_that_is_refused(locked: Outsider, tls: Any, words: str) -> None:
    rabbit = RabbitMQ(locked.server.tls_url, tls=tls(keys_of(locked.server)), times=QUICK)
    with pytest.raises((ConnectorError, SettingsError), match=words) as caught:
        await Link.connect(rabbit, "test")
    assert caught.value.hint


async def test_a_plain_port_where_tls_was_asked_for(locked: Outsider) -> None:
    tls = Tls(ca=keys_of(locked.server) / "ca.pem")
    with pytest.raises(ConnectorError) as caught:
        await Link.connect(RabbitMQ(locked.server.url, tls=tls, times=QUICK), "test")
    assert caught.value.hint


async def test_the_first_node_that_answers(locked: Outsider) -> None:
    link = await Link.connect(RabbitMQ(("amqp://127.0.0.1:1", locked.server.url), times=QUICK), "test")
    assert link.address.port == locked.server.port
    await link.close()
    with pytest.raises(NotFound):
        await open_sink(RabbitMQ(locked.server.url, times=QUICK).queue("none"), "f", options=SinkOptions())


def over_tls(server: RabbitServer, authority: str = "ca.pem") -> RabbitMQ:
    """Both protocols encrypted: that of streams, and AMQP for the lock of a sink."""
    folder = keys_of(server)
    tls = Tls(ca=folder / authority, cert=folder / "client.pem", key=folder / "client.key")
    return RabbitMQ(server.tls_url, tls=tls, stream_port=server.listeners.stream_tls, times=QUICK)


async def test_streams_over_tls(locked: Outsider) -> None:
    """Written and read back, through the port that takes TLS alone."""
    name = fresh("stream")
    server = locked.server
    async with Streams(server) as streams, AsyncExitStack() as stack:
        await streams.make(name)
        spec = over_tls(server).stream(name, value=str)
        assert (await spec.source().probe()).ok
        sink = await open_sink(spec, fresh("flow"))
        stack.push_async_callback(sink.close)
        values = [f"{number} {'x' * number}" for number in range(3000)]
        await sink.publish([chunk(sink, 1, 1, values)], await sink.recover(None, []))
        source = await open_source(spec)
        stack.push_async_callback(source.close)
        found: list[str] = []
        async with asyncio.timeout(10):
            while len(found) < len(values):
                found += [payload.decode() for payload in (await source.read()).payloads]
        assert found == values
        assert [payload.decode() for payload in await streams.values(name)] == values
        links = [*source._links.all(), *sink._links.all()]
        assert {str(link.address) for link in links} == {f"amqps://{server.host}:{server.listeners.stream_tls}"}


async def test_streams_over_tls_that_is_refused(locked: Outsider) -> None:
    server = locked.server
    for rabbit, words, lasting in (
        (replace(over_tls(server), tls=Tls()), "TLS with RabbitMQ .* failed: CERTIFICATE_VERIFY_FAILED", True),
        (
            replace(over_tls(server), stream_port=server.stream_port),
            "closed the connection while TLS was set up",
            False,
        ),
    ):
        with pytest.raises(ConnectorError, match=words) as caught:
            await open_source(rabbit.stream("any"))
        assert isinstance(caught.value, Unavailable) is not lasting
        assert "the stream protocol's for TLS" in caught.value.hint
        probe = await rabbit.stream("any").source().probe()
        assert not probe.ok and re.search(words, probe.problem) and probe.hint


@pytest.mark.parametrize(
    ("user", "opened", "words"),
    [
        ("ben", open_source, "user ben may not use stream"),
        ("ben", partial(open_sink, name="ben"), "user ben may not use stream"),
        (
            "cid",
            partial(open_sink, name="cid"),
            "sf.lock.cid.i.0.out (permission to configure ^sf\\.) to user cid",
        ),
    ],
    ids=["read", "write", "lock"],
)
async def test_what_a_user_may_not_do_with_streams(
    locked: Outsider, user: str, opened: Any, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is said at once and for good, in three lines as the command line prints them."""
    name = fresh("stream")
    async with Streams(locked.server) as streams:
        await streams.make(name)
    login = UserPassword(user, user)
    port = locked.server.stream_port
    spec = RabbitMQ(locked.server.url, auth=login, stream_port=port, times=QUICK).stream(name, value=str)
    with pytest.raises(ConnectorError) as caught:
        await opened(spec)
    assert not isinstance(caught.value, Unavailable)
    assert await asyncio.to_thread(tell_failure, caught.value) == 4
    error, place, hint = capsys.readouterr().err.splitlines()
    assert words in error
    assert "tests/connectors/rabbitmq/kit.py" in place
    assert "rabbitmqctl set_permissions" in hint
    assert (await spec.source().probe()).ok is (user == "cid")
