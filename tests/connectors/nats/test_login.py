"""Logging in to real servers: password, token, nkey, creds, TLS; what is refused, in three lines, without secrets."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import AsyncIterator

import pytest

from streamflow.connect.contracts import SinkOptions
from streamflow.errors import ConnectorError, NotFound, SettingsError, StreamflowError, Unavailable
from streamflow_nats import Creds, Nats, NKey, Tls, Token, UserPassword
from streamflow_nats.link import Link
from tests.brokers import NatsServer
from tests.brokers.server import free_port
from tests.connectors.nats.keys import certificates, make_seed, operator_setup, public
from tests.connectors.nats.kit import chunk, opened, sink_context, source_context, take

CANARY = "c4n4ry-s3cret"


@contextlib.asynccontextmanager
async def pretended(handle) -> AsyncIterator[str]:
    """A server that is none; gives its address."""
    writers = []

    async def serve(reader, writer) -> None:
        writers.append(writer)
        await handle(reader, writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
        await server.wait_closed()
        await asyncio.sleep(0.05)


async def goes_through(nats: Nats) -> None:
    """Makes a stream with the connector's own link, publishes, and reads it back."""
    link = await Link.connect(nats, "test")
    answer = await link.request("$JS.API.STREAM.CREATE.S", b'{"name":"S","subjects":["s"],"storage":"memory"}')
    assert b'"error"' not in answer, answer
    await link.close()
    stream = nats.stream("S", value=str)
    assert (await stream.source().probe()).ok
    sink = stream.sink(SinkOptions())
    await sink.open(sink_context())
    await sink.publish([chunk(sink, 1, 1, ["a", "b"])], await sink.recover(None, []))
    await sink.close()
    source = await opened(stream)
    assert [payload for payload, _ in await take(source, 2)] == [b"a", b"b"]
    await source.close()


async def is_refused(nats: Nats, error: type[StreamflowError], match: str) -> None:
    stream = nats.stream("S", value=str)
    source = stream.source()
    with pytest.raises(error, match=match) as caught:
        await source.open(source_context(), {})
    assert not isinstance(caught.value, Unavailable) or error is Unavailable
    assert caught.value.hint
    assert CANARY not in str(caught.value) + caught.value.hint
    assert "\n" not in str(caught.value) + caught.value.hint
    await source.close()
    probe = await stream.sink(SinkOptions()).probe()
    assert not probe.ok
    assert probe.hint
    assert CANARY not in repr(probe)


@pytest.fixture
def quiet_log(caplog):
    caplog.set_level(logging.DEBUG)
    yield caplog
    assert CANARY not in caplog.text


async def test_user_and_password(quiet_log, capfd):
    config = f'authorization {{ user: ann, password: "{CANARY}" }}'
    async with NatsServer(extra_config=config) as server:
        host = server.url.removeprefix("nats://")
        await goes_through(Nats(server.url, auth=UserPassword("ann", CANARY)))
        await is_refused(Nats(server.url, auth=UserPassword("ann", CANARY + "x")), ConnectorError, "refuses the cred")
        await is_refused(Nats(server.url), ConnectorError, "refuses the credentials")
        await is_refused(Nats(f"nats://bob:{CANARY}@{host}"), ConnectorError, "refuses the credentials")
        source = await opened(Nats(f"nats://ann:{CANARY}@{host}").stream("S"), flow="again")
        await source.close()
    out, err = capfd.readouterr()
    assert CANARY not in out + err


async def test_token(quiet_log):
    async with NatsServer(extra_config=f'authorization {{ token: "{CANARY}" }}') as server:
        await goes_through(Nats(server.url, auth=Token(CANARY)))
        await is_refused(Nats(server.url, auth=Token("wrong")), ConnectorError, "refuses the credentials")
        source = await opened(Nats(server.url.replace("//", f"//{CANARY}@")).stream("S"))
        await source.close()


async def test_nkey(tmp_path):
    seed, other = make_seed("U"), make_seed("U")
    (tmp_path / "ann.nk").write_text(seed + "\n")
    (tmp_path / "bob.nk").write_text(other)
    (tmp_path / "broken.nk").write_text("SUAA" + "A" * 20)
    (tmp_path / "no.nk").write_text("hello")
    async with NatsServer(extra_config=f"authorization {{ users: [ {{ nkey: {public(seed)} }} ] }}") as server:
        await goes_through(Nats(server.url, auth=NKey(tmp_path / "ann.nk")))
        await is_refused(Nats(server.url, auth=NKey(tmp_path / "bob.nk")), ConnectorError, "refuses the credentials")
        await is_refused(Nats(server.url, auth=NKey(tmp_path / "missing.nk")), SettingsError, "No such file")
        await is_refused(Nats(server.url, auth=NKey(tmp_path / "no.nk")), SettingsError, "no user nkey seed")
        await is_refused(Nats(server.url, auth=NKey(tmp_path / "broken.nk")), SettingsError, "no user nkey seed")


async def test_creds(tmp_path):
    config, creds = operator_setup(tmp_path)
    (tmp_path / "other").mkdir()
    _, others = operator_setup(tmp_path / "other")
    (tmp_path / "no.creds").write_text("hello")
    async with NatsServer(extra_config=config) as server:
        await goes_through(Nats(server.url, auth=Creds(creds)))
        await is_refused(Nats(server.url, auth=Creds(others)), ConnectorError, "refuses the credentials")
        await is_refused(Nats(server.url, auth=Creds(tmp_path / "no.creds")), SettingsError, "no NATS credentials")
        await is_refused(Nats(server.url), ConnectorError, "refuses the credentials")


async def test_tls(tmp_path):
    own, strange = certificates(tmp_path), certificates(tmp_path, "strange")
    config = f'tls {{ cert_file: "{own}/server.pem", key_file: "{own}/server.key" }}'
    async with NatsServer(extra_config=config) as server:
        url = server.url.replace("nats://", "tls://")
        await goes_through(Nats(server.url, tls=Tls(ca=own / "ca.pem")))
        source = await opened(Nats(url, tls=ssl.create_default_context(cafile=str(own / "ca.pem"))).stream("S"))
        await source.close()
        await is_refused(Nats(url, tls=Tls(ca=strange / "ca.pem")), ConnectorError, "TLS with NATS .* failed")
        await is_refused(Nats(url), ConnectorError, "TLS with NATS .* failed")
        await is_refused(Nats(url, tls=Tls(ca=tmp_path / "missing")), SettingsError, "TLS files cannot be used")


async def test_the_host_name_is_checked(tmp_path):
    own = certificates(tmp_path)
    config = f'tls {{ cert_file: "{own}/other.pem", key_file: "{own}/other.key" }}'
    async with NatsServer(extra_config=config) as server:
        await is_refused(Nats(server.url, tls=Tls(ca=own / "ca.pem")), ConnectorError, "TLS with NATS .* failed")
        await goes_through(Nats(server.url, tls=Tls(ca=own / "ca.pem", server_name="elsewhere.example")))


async def test_client_certificates(tmp_path):
    own, strange = certificates(tmp_path), certificates(tmp_path, "strange")
    config = (
        f'tls {{ cert_file: "{own}/server.pem", key_file: "{own}/server.key", ca_file: "{own}/ca.pem", verify: true }}'
    )
    async with NatsServer(extra_config=config) as server:
        good = Tls(ca=own / "ca.pem", cert=own / "client.pem", key=own / "client.key")
        await goes_through(Nats(server.url, tls=good))
        wrong = Tls(ca=own / "ca.pem", cert=strange / "client.pem", key=strange / "client.key")
        for tls in (Tls(ca=own / "ca.pem"), wrong):
            await is_refused(Nats(server.url, tls=tls), ConnectorError, "wants a client cert|TLS with NATS")


async def test_credentials_do_not_go_over_an_open_line(tmp_path):
    heard = bytearray()

    async def pretend(reader, writer) -> None:
        writer.write(b'INFO {"server_id":"x","version":"2.15.1","max_payload":1048576,"auth_required":true}\r\n')
        heard.extend(await reader.read(1000))

    async with pretended(pretend) as address:
        for nats in (
            Nats(f"tls://{address}", auth=UserPassword("ann", CANARY)),
            Nats(f"nats://{address}", auth=Token(CANARY), tls=Tls()),
        ):
            with pytest.raises(SettingsError, match="offers no TLS"):
                await nats.stream("S").source().open(source_context(), {})
    assert CANARY.encode() not in heard


async def test_forbidden_subjects_are_named_at_once():
    config = """
        authorization { users: [ { user: ann, password: pw, permissions: {
            publish: { allow: ["$JS.API.STREAM.INFO.>", "_INBOX.>"] } } }, { user: root, password: pw } ] }
    """
    async with NatsServer(extra_config=config) as server:
        await goes_through(Nats(server.url, auth=UserPassword("root", "pw")))
        ann = Nats(server.url, auth=UserPassword("ann", "pw"), timeout_seconds=20)
        async with asyncio.timeout(5):
            source = ann.stream("S").source()
            with pytest.raises(ConnectorError, match="forbids what the connector needs") as caught:
                await source.open(source_context(), {})
            await source.close()
        assert "consumer.create" in str(caught.value)


async def test_a_sink_does_without_the_fence_subject():
    config = """
        authorization { users: [ { user: ann, password: pw, permissions: {
            publish: { allow: ["$JS.API.>", "s"] }, subscribe: { deny: ["_INBOX.sf-fence.>"] } } },
            { user: root, password: pw } ] }
    """
    async with NatsServer(extra_config=config) as server:
        await goes_through(Nats(server.url, auth=UserPassword("root", "pw")))
        sink = Nats(server.url, auth=UserPassword("ann", "pw")).stream("S", value=str).sink(SinkOptions())
        await sink.open(sink_context(incarnation="j"))
        await sink.publish([chunk(sink, 1, 1, ["x"])], await sink.recover(None, []))
        await sink.close()


async def test_a_broker_that_is_down():
    nats = Nats(f"nats://ann:{CANARY}@127.0.0.1:{free_port()}", timeout_seconds=1)
    await is_refused(nats, Unavailable, r"no NATS server answers at nats://127\.0\.0\.1:\d+: connection refused")
    await is_refused(Nats("nats://host.invalid", timeout_seconds=3), Unavailable, "no NATS server answers")


async def test_the_next_server_is_tried():
    async with NatsServer() as server:
        await goes_through(Nats([f"nats://127.0.0.1:{free_port()}", server.url]))


async def test_a_server_that_never_answers():
    async def silent(reader, writer) -> None:
        await reader.read(1000)

    async with pretended(silent) as address, asyncio.timeout(5):
        await is_refused(Nats(address, timeout_seconds=0.5), Unavailable, "no NATS server answers")


async def test_an_old_server_is_refused():
    async def old(reader, writer) -> None:
        writer.write(b'INFO {"server_id":"x","version":"2.9.20","max_payload":1048576,"headers":true}\r\n')
        while line := await reader.readline():
            if line.startswith(b"PING"):
                writer.write(b"PONG\r\n")

    async with pretended(old) as address:
        await is_refused(Nats(address), SettingsError, "2.10 or newer is needed")


async def test_a_server_without_jetstream(tmp_path):
    accounts = "accounts { NOJS { users: [ { user: ann, password: pw } ] } }"
    async with NatsServer(extra_config=accounts) as server:
        await is_refused(Nats(server.url, auth=UserPassword("ann", "pw")), ConnectorError, "JetStream is not enabled")


async def test_a_missing_stream(broker):
    with pytest.raises(NotFound, match="there is no stream ORDERS") as caught:
        await opened(broker.nats.stream("ORDERS"))
    assert 'nats stream add ORDERS --subjects "orders.>" --defaults' in caught.value.hint
