"""Settings without a server: what is refused, that secrets never show, and that every option arrives."""

from __future__ import annotations

import dataclasses
import ssl
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from typing import Any

import pytest

import streamflow_kafka
from streamflow.connect.contracts import SinkSpec, SourceSpec, takes_nulls
from streamflow.errors import SettingsError
from streamflow_kafka import Kafka, KafkaTopic, Options, SaslOAuth, SaslPlain, SaslScram, Secret, Tls
from streamflow_kafka.client import client_options
from streamflow_kafka.starts import topic_of

CANARY = "c4n4ry-s3cret"
ANY: dict[str, Any] = {word: word for word in ("middle", "rar", "MD5")}
"""What no type checker would let through."""


@dataclass
class Order:
    user: str
    amount: int


async def _token() -> str:
    return CANARY


@pytest.mark.parametrize(
    "kafka",
    [
        Kafka("broker", security=SaslPlain("ann", CANARY)),
        Kafka("broker", security=SaslScram("ann", Secret(CANARY), tls=Tls())),
        Kafka("broker", security=SaslOAuth(_token)),
    ],
)
def test_settings_do_not_show_secrets(kafka: Kafka):
    topic = kafka.topic("orders", value=str)
    shown = [repr(kafka), str(kafka), topic.describe(), repr(topic), repr(topic.source()), repr(kafka.security)]
    assert not [text for text in shown if CANARY in text]


def test_servers():
    assert Kafka().bootstrap == ("127.0.0.1:9092",)
    assert Kafka("a, b:1").bootstrap == ("a:9092", "b:1")
    assert Kafka(["a:1", "b:2,c"]).bootstrap == ("a:1", "b:2", "c:9092")
    assert Kafka("[::1]:5").bootstrap == ("[::1]:5",)
    assert Kafka("[::1]").bootstrap == ("[::1]:9092",)
    assert str(Kafka("a,b")) == "a:9092,b:9092"


@pytest.mark.parametrize(
    ("servers", "reason"),
    [
        ([], "no Kafka server is named"),
        ("", "no Kafka server is named"),
        (f"kafka://ann:{CANARY}@host:9092", "not named by a URL"),
        (f"ann:{CANARY}@host", "not named by a URL"),
        ("host:port", "cannot be read"),
        ("host:0", "cannot be read"),
        ("host:70000", "cannot be read"),
        (":9092", "cannot be read"),
        ("two hosts", "cannot be read"),
    ],
)
def test_servers_that_cannot_be_read(servers, reason: str):
    with pytest.raises(SettingsError, match=reason) as refused:
        Kafka(servers)
    assert CANARY not in str(refused.value) + refused.value.hint
    assert refused.value.hint


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: Kafka().topic("a b"), "no legal topic name"),
        (lambda: Kafka().topic(""), "no legal topic name"),
        (lambda: Kafka().topic(".."), "no legal topic name"),
        (lambda: Kafka().topic("x" * 250), "no legal topic name"),
        (lambda: Kafka().topic("a:0"), "no legal topic name"),
        (lambda: Kafka().topic("a", start=ANY["middle"]), "start='middle' is unknown"),
        (lambda: Kafka().topics(), "either names or a pattern"),
        (lambda: Kafka().topics("a", pattern="b"), "either names or a pattern"),
        (lambda: Kafka().topics("a", "a"), "named twice"),
        (lambda: Kafka().topics(pattern="("), "no regular expression"),
        (lambda: Options(fetch_bytes=0), r"Options\.fetch_bytes must be above 0"),
        (lambda: Options(fetch_wait_seconds=-1), r"Options\.fetch_wait_seconds"),
        (lambda: Options(compression=ANY["rar"]), "compression='rar' is unknown"),
        (lambda: SaslScram("a", "b", ANY["MD5"]), "mechanism 'MD5' is unknown"),
        (lambda: Tls(key="-----BEGIN PRIVATE KEY-----"), "looks like a certificate or key itself"),
        (lambda: Kafka(security=_careless()), "does not verify the server"),
    ],
)
def test_what_is_refused(make, reason: str):
    with pytest.raises(SettingsError, match=reason) as refused:
        make()
    assert refused.value.hint


def _careless() -> SaslPlain:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return SaslPlain("ann", "pw", context)


def test_unknown_options_are_refused():
    with pytest.raises(TypeError, match="fetch_byte"):
        Options(fetch_byte=1)  # type: ignore[call-arg]


def test_specs():
    kafka = Kafka(options=Options(rack="west"))
    topic = kafka.topic("orders", value=Order)
    assert isinstance(topic, SourceSpec)
    assert isinstance(topic, SinkSpec)
    assert (topic.name, topic.describe(), topic.target) == ("orders", "kafka topic orders", "")
    assert topic.settings.options.rack == "west"
    assert kafka.topic("orders", options=Options()).settings.options.rack == ""
    several = kafka.topics("a", "b")
    assert not isinstance(several, SinkSpec)
    assert (several.name, several.describe()) == ("a+b", "kafka topics a, b")
    assert kafka.topics(pattern="o.*").describe() == "kafka topics like o.*"
    assert [takes_nulls(each) for each in (topic, kafka.topic("t", nulls=True))] == [False, True]
    assert topic.codec.decode(b'{"user":"ann","amount":3}') == Order("ann", 3)
    assert isinstance(kafka.topic("t"), KafkaTopic)


def test_names_of_partitions():
    assert topic_of("a.b-c_d:12") == "a.b-c_d"


async def test_options_become_arguments_of_the_client(tmp_path):
    assert await client_options(Kafka()) == {"security_protocol": "PLAINTEXT"}
    context = ssl.create_default_context()
    assert await client_options(Kafka(security=SaslScram("ann", "pw", "SCRAM-SHA-256", context))) == {
        "security_protocol": "SASL_SSL",
        "ssl_context": context,
        "sasl_mechanism": "SCRAM-SHA-256",
        "sasl_plain_username": "ann",
        "sasl_plain_password": "pw",
    }
    told = await client_options(Kafka(security=SaslOAuth(_token)))
    assert (told["security_protocol"], told["sasl_mechanism"]) == ("SASL_PLAINTEXT", "OAUTHBEARER")
    assert await told["sasl_oauth_token_provider"].token() == CANARY
    told = await client_options(Kafka(security=Tls()))
    assert told["security_protocol"] == "SSL"
    assert told["ssl_context"].minimum_version == ssl.TLSVersion.TLSv1_2


def test_every_option_is_used_somewhere():
    """An option that nothing reads would be a promise that nothing keeps."""
    import pathlib

    folder = pathlib.Path(streamflow_kafka.__file__).parent
    source = "".join(path.read_text() for path in folder.glob("*.py") if path.name != "settings.py")
    unused = [field.name for field in dataclasses.fields(Options) if f"options.{field.name}" not in source]
    assert unused == []


def test_the_package_is_imported_without_aiokafka():
    program = textwrap.dedent("""
        import sys
        sys.modules["aiokafka"] = None
        from streamflow_kafka import Kafka
        import streamflow.errors
        spec = Kafka().topic("orders", value=str)
        assert not [name for name in sys.modules if name.startswith("aiokafka") and sys.modules[name]]
        try:
            spec.source()
        except streamflow.errors.MissingExtraError as error:
            assert "streamflow-asyncio[kafka]" in error.hint, error
        else:
            raise AssertionError("it goes on without")
    """)
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_one_server_name_for_all_brokers_is_refused():
    with pytest.raises(SettingsError, match="server_name"):
        Kafka("a", security=Tls(server_name="elsewhere.example"))
