"""Settings, names, frames and the wire: refused before anything is sent, and written as AMQP says."""

from __future__ import annotations

import ssl
from typing import Any, cast

import pytest
from pamqp import commands, frame, header

from streamflow.connect.contracts import Level, SinkOptions
from streamflow.errors import DefinitionError, EncodeError, SettingsError
from streamflow_rabbitmq import ExchangeDeclaration, Limits, QueueDeclaration, RabbitMQ, Times, Tls, UserPassword
from streamflow_rabbitmq.client import check_client
from streamflow_rabbitmq.frames import unpack
from streamflow_rabbitmq.ids import as_texts, short
from streamflow_rabbitmq.wire import Writer, plain_message, publish_method, table
from tests.connectors.nats.kit import fragment

RABBIT = RabbitMQ()
ANY: Any = RABBIT


def test_what_a_url_says() -> None:
    rabbit = RabbitMQ("amqps://ann:s%2Fsecret@broker/%2Fmine")
    assert str(rabbit) == "amqps://broker:5671 vhost /mine"
    assert (rabbit.login.user, rabbit.login.reveal(), rabbit.vhost) == ("ann", "s/secret", "/mine")
    assert "secret" not in f"{rabbit!r} {rabbit}"
    assert str(rabbit.stream_address(rabbit.addresses[0])) == "amqps://broker:5551"
    assert [str(each) for each in RabbitMQ("a,amqp://b:1").addresses] == ["amqp://a:5672", "amqp://b:1"]
    assert str(RabbitMQ("[::1]:7", tls=Tls())) == "amqps://[::1]:7"
    assert RabbitMQ(auth=UserPassword("x", "y")).login.user == "x"
    assert RabbitMQ().vhost == "/" and RabbitMQ(stream_port=9).stream_address(RABBIT.addresses[0]).port == 9


@pytest.mark.parametrize(
    ("url", "other"),
    [
        ("http://h", {}),
        ("amqp://", {}),
        ("amqp://h:port", {}),
        ("amqp://ann:pa/ss#word@h", {}),
        ("amqp://h/v?heartbeat=1", {}),
        ("amqp://a:b@h", {"auth": UserPassword("c", "d")}),
        ("amqp://h/one", {"vhost": "two"}),
        ((), {}),
        ("amqp://h", {"stream_port": -1}),
    ],
)
def test_urls_that_cannot_be_used(url: Any, other: Any) -> None:
    with pytest.raises(SettingsError) as caught:
        RabbitMQ(url, **other)
    assert caught.value.hint
    assert "pa" not in str(caught.value).replace("path", "")


def test_tls_cannot_be_weakened() -> None:
    lax = ssl.create_default_context()
    lax.check_hostname = False
    with pytest.raises(SettingsError, match="does not verify"):
        RabbitMQ(tls=lax)
    old = ssl.create_default_context()
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.minimum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(SettingsError, match=r"below 1\.2"):
        RabbitMQ(tls=old)


@pytest.mark.parametrize(
    "make",
    [
        lambda: ANY.queue(""),
        lambda: ANY.queue("x" * 256),
        lambda: ANY.queue("a\nb"),
        lambda: ANY.queue("q", id_from="subject"),
        lambda: ANY.queue("q", readers="many"),
        lambda: ANY.queue("q", mode="fast"),
        lambda: ANY.queue("q", declare=QueueDeclaration(single_active_consumer=True)),
        lambda: ANY.queue("q", declare=ExchangeDeclaration()),
        lambda: ANY.exchange("e", declare=QueueDeclaration()),
        lambda: ANY.exchange(""),
        lambda: ANY.exchange("e", routing_key="x" * 256),
        lambda: cast(Any, QueueDeclaration)("stream"),
        lambda: cast(Any, ExchangeDeclaration)("x-hash"),
        lambda: ExchangeDeclaration(bindings={"queue": "eu.*"}),
        lambda: QueueDeclaration(bindings={"exchange": []}),
        lambda: Limits(prefetch=1),
        lambda: Limits(prefetch=70_000),
        lambda: Limits(publish_window_bytes=0),
        lambda: Times(heartbeat_seconds=0),
        lambda: Times(timeout_seconds=0),
    ],
)
def test_settings_are_checked_when_they_are_made(make: Any) -> None:
    with pytest.raises(SettingsError) as caught:
        make()
    assert caught.value.hint


def test_guarantees_are_named() -> None:
    assert RABBIT.queue("q").guarantee.level is Level.EXACTLY_ONCE
    digest = RABBIT.queue("q", id_from="digest").guarantee
    assert digest.level is Level.EXACTLY_ONCE and "exact only if no two bodies are equal" in digest.reason
    assert RABBIT.queue("q", id_from=None).guarantee.level is Level.AT_LEAST_ONCE
    assert RABBIT.queue("q", readers="shared").guarantee.level is Level.AT_LEAST_ONCE
    for spec in (RABBIT.queue("q"), RABBIT.queue("q", mode="tx"), RABBIT.exchange("e")):
        assert spec.sink_guarantee.level is Level.EFFECTIVELY_ONCE and "message_id" in spec.sink_guarantee.reason


def test_options_that_a_sink_has_not() -> None:
    with pytest.raises(DefinitionError, match="one queue"):
        RABBIT.queue("q").sink(SinkOptions(subject=lambda value: "x"))
    with pytest.raises(DefinitionError, match="no partitions"):
        RABBIT.exchange("e").sink(SinkOptions(partition=lambda value: 1))


def test_frames_hold_routing_key_headers_and_body() -> None:
    options = SinkOptions(key=lambda v: (v, 1), headers=lambda v: {"ü": "1\n2"}, subject=lambda v: f"to.{v}")
    [frame_bytes] = RABBIT.exchange("e", value=str).sink(options).encode(fragment(["x"]))
    key, headers, body = unpack(frame_bytes)
    assert (key, body) == (b"to.x", b"x")
    assert headers == table({"sf-key": '["x",1]', "ü": "1\n2"})
    [plain] = RABBIT.exchange("e", value=str).sink(SinkOptions()).encode(fragment(["x"]))
    assert unpack(plain) == (b"", b"\0\0\0\0", b"x")
    [keyed] = RABBIT.exchange("e", value=str).sink(SinkOptions()).encode(fragment(["x"], ["k"]))
    assert unpack(keyed).headers == table({"sf-key": "k"})
    for cut in (b"", plain[:3], keyed[:9]):
        with pytest.raises(ValueError, match="bytes"):
            unpack(cut)


@pytest.mark.parametrize(
    "options",
    [
        SinkOptions(headers=lambda value: {"sf-key": "x"}),
        SinkOptions(headers=lambda value: {"": "x"}),
        SinkOptions(headers=lambda value: {"n": 1}),  # type: ignore[dict-item]
        SinkOptions(headers=lambda value: {"n": "x" * 70_000}),
        SinkOptions(subject=lambda value: "x" * 256),
        SinkOptions(subject=lambda value: 7),  # type: ignore[arg-type, return-value]
    ],
)
def test_what_cannot_be_written_is_an_encode_error(options: SinkOptions) -> None:
    with pytest.raises(EncodeError) as caught:
        RABBIT.exchange("e", value=str).sink(options).encode(fragment(["x"]))
    assert caught.value.hint


@pytest.mark.parametrize("size", [0, 1, 4088, 4089, 10_000])
def test_messages_are_written_as_pamqp_reads_them(size: int) -> None:
    body = b"x" * size
    headers = table({"a": "b", "sf-key": "ü" * 100})
    written = publish_method(7, b"ex", b"a.b", mandatory=True) + Writer(7, 4096).content(headers, b"id.1", body)
    frames: list[Any] = []
    while written:
        count, channel, each = frame.unmarshal(written)
        assert channel == 7 and count <= 4096
        frames.append(each)
        written = written[count:]
    method, head, *parts = frames
    assert isinstance(method, commands.Basic.Publish) and isinstance(head, header.ContentHeader)
    assert (method.exchange, method.routing_key, method.mandatory) == ("ex", "a.b", True)
    properties = head.properties
    assert (properties.message_id, properties.delivery_mode) == ("id.1", 2)
    assert properties.headers == {"a": "b", "sf-key": "ü" * 100}
    assert head.body_size == size and b"".join(part.value for part in parts) == body


def test_a_plain_message_asks_for_an_answer() -> None:
    written = plain_message(3, "queue", b"hello", "back")
    count, _, method = frame.unmarshal(written)
    assert isinstance(method, commands.Basic.Publish) and method.routing_key == "queue" and not method.mandatory
    _, _, head = frame.unmarshal(written[count:])
    assert isinstance(head, header.ContentHeader) and head.properties.reply_to == "back"


def test_tables_become_texts() -> None:
    found = as_texts({"a": 1, "b": True, "c": b"x", "d": None, "e": {"f": [1, "2"]}, "g": 1.5})
    assert found == {"a": "1", "b": "true", "c": "x", "d": "", "e": '{"f":[1,"2"]}', "g": "1.5"}


def test_long_ids_are_remembered_by_their_hash() -> None:
    assert short("x" * 96) == "x" * 96
    assert len(short("x" * 97)) == 33 and short("x" * 97) != short("x" * 98)


def test_the_client_is_the_one_this_was_written_for() -> None:
    check_client()
