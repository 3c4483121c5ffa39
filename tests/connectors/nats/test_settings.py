"""Settings, subjects and frames without a server: what is refused, and that secrets never show."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import ssl
import subprocess
import sys
import textwrap
from dataclasses import dataclass

import pytest

from streamflow.codecs import codec_for
from streamflow.connect.contracts import SinkOptions, SinkSpec, SourceSpec
from streamflow.errors import DefinitionError, EncodeError, SettingsError
from streamflow_nats import Creds, Limits, Nats, NatsStream, NKey, Secret, Tls, Token, UserPassword
from streamflow_nats.frames import FrameEncoder, unpack
from streamflow_nats.subjects import as_tokens, check_pattern, consumer_name, covers, is_literal, overlap
from tests.connectors.nats.kit import fragment

CANARY = "c4n4ry-s3cret"


@dataclass
class Order:
    user: str
    amount: int


def test_a_secret_never_shows():
    secret = Secret(CANARY)
    shown = [repr(secret), str(secret), f"{secret}", f"{secret!r:>20}", "%s" % secret, format(secret, "x")]  # noqa: UP031
    assert not [text for text in shown if CANARY in text]
    assert secret.reveal() == CANARY
    assert secret == Secret(CANARY)
    assert copy.deepcopy(secret) is secret
    with pytest.raises(TypeError):
        pickle.dumps(secret)


@pytest.mark.parametrize(
    "nats",
    [
        Nats(f"nats://ann:{CANARY}@broker:4222"),
        Nats(f"nats://{CANARY}@broker"),
        Nats([f"nats://ann:{CANARY}@one", f"tls://ann:{CANARY}@two:1"]),
        Nats("broker", auth=UserPassword("ann", CANARY)),
        Nats("broker", auth=Token(Secret(CANARY))),
    ],
)
def test_settings_do_not_show_secrets(nats):
    stream = nats.stream("S", subject="s", value=str)
    shown = [repr(nats), str(nats), stream.describe(), repr(stream), stream.target, repr(stream.sink(SinkOptions()))]
    shown += [repr(dataclasses.asdict(nats)), repr(dataclasses.astuple(nats)), str(stream.sink_guarantee)]
    assert not [text for text in shown if CANARY in text]


def test_logins_in_urls_are_decoded():
    nats = Nats("nats://ann%40x:p%2Fw%25@h")
    assert nats.auth == UserPassword("ann@x", "p/w%")
    assert nats.urls == ("nats://h:4222",)
    assert Nats("nats://t%20k@h").auth == Token("t k")
    assert Nats("nats://[::1]:5").urls == ("nats://[::1]:5",)
    assert Nats("a,b:1").urls == ("nats://a:4222", "nats://b:1")
    assert not Nats("a").encrypted
    assert Nats("tls://a").encrypted
    assert Nats("a", tls=Tls()).encrypted


@pytest.mark.parametrize(
    ("servers", "reason"),
    [
        (f"http://u:{CANARY}@h", "not reached by http"),
        (f"nats://u:{CANARY}@h:notaport", "cannot be read"),
        (f"nats://u:{CANARY}@", "names no host"),
        ([f"nats://u:{CANARY}@h", "nats://u:other@h"], "more than one login"),
        ([], "no NATS server"),
    ],
)
def test_bad_urls_are_refused_without_repeating_them(servers, reason):
    with pytest.raises(SettingsError, match=reason) as caught:
        Nats(servers)
    assert CANARY not in str(caught.value) + caught.value.hint
    assert caught.value.hint
    assert caught.value.__cause__ is None


def test_two_logins_are_refused():
    with pytest.raises(SettingsError, match="more than one login"):
        Nats("nats://u:p@h", auth=Token("t"))


def test_tls_cannot_be_weakened():
    lax = ssl.create_default_context()
    lax.check_hostname = False
    with pytest.raises(SettingsError, match="does not verify"):
        Nats("h", tls=lax)
    lax.verify_mode = ssl.CERT_NONE
    with pytest.raises(SettingsError, match="does not verify"):
        Nats("h", tls=lax)
    context = Tls().context()
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.check_hostname
    assert context.verify_mode == ssl.CERT_REQUIRED


@pytest.mark.parametrize("name", ["", "a.b", "a b", "a*", ">", "a/b", "a\r\nPUB x", "x" * 256, "ä\n"])
def test_bad_stream_names(name):
    with pytest.raises(SettingsError) as caught:
        Nats().stream(name)
    assert caught.value.hint


BAD_SUBJECTS = [
    " ",
    "a b",
    "a..b",
    ".a",
    "a.",
    "a.>.b",
    "a*",
    "a.b>",
    "a\r\nPUB x 0",
    "a\tb",
    "a\0",
    "$SYS.x",
    "x" * 2000,
]


@pytest.mark.parametrize("subject", [*BAD_SUBJECTS, "\ud800"])
def test_bad_subjects(subject):
    with pytest.raises(SettingsError) as caught:
        Nats().stream("S", subject=subject)
    assert caught.value.hint


@pytest.mark.parametrize(
    "arguments", [{"start": "middle"}, {"mode": "blind"}, {"durable": "a.b"}], ids=["start", "mode", "durable"]
)
def test_bad_choices(arguments):
    with pytest.raises(SettingsError):
        Nats().stream("S", **arguments)
    with pytest.raises(SettingsError):
        Limits(read_ahead_records=0)


def test_a_sink_needs_one_subject_and_no_partition():
    with pytest.raises(DefinitionError, match="more than one subject"):
        Nats().stream("S", subject="a.>").sink(SinkOptions())
    Nats().stream("S", subject="a.>").sink(SinkOptions(subject=lambda value: "a.b"))
    with pytest.raises(DefinitionError, match="no partitions"):
        Nats().stream("S", subject="a").sink(SinkOptions(partition=lambda value: 0))


def test_a_stream_is_source_and_sink():
    stream: NatsStream[Order] = Nats().stream("ORDERS", subject="orders", value=Order)
    source: SourceSpec[Order] = stream
    sink: SinkSpec[Order] = stream
    assert isinstance(stream, SourceSpec)
    assert isinstance(stream, SinkSpec)
    assert source.codec is not None
    assert source.codec.decode(b'{"user":"ann","amount":3}') == Order("ann", 3)
    assert sink.describe() == "nats stream ORDERS (orders)"
    assert sink.target == "nats://127.0.0.1:4222/ORDERS"
    assert stream.name == "ORDERS"
    assert Nats().stream("S", mode="batch").target == ""


def test_importing_and_building_needs_no_nats_py():
    program = """
        import sys
        class Nothing:
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] in ("nats", "nkeys"):
                    raise ImportError(name)
        sys.meta_path.insert(0, Nothing())
        import asyncio
        from streamflow_nats import Nats
        from streamflow.connect.contracts import SinkOptions, SourceContext
        from streamflow.errors import MissingExtraError
        stream = Nats().stream("S", subject="s", value=str)
        source = stream.source()
        try:
            asyncio.run(source.open(SourceContext("f", "s", 0, "i", 1), {}))
        except MissingExtraError as error:
            print(error, "|", error.hint)
        print(asyncio.run(stream.sink(SinkOptions()).probe()).hint)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True)
    hint = 'Install the extra: pip install "streamflow-asyncio[nats]".'
    assert done.stdout == f"streamflow_nats needs nats-py, which is not installed | {hint}\n{hint}\n"


def test_the_client_is_the_one_that_was_tested():
    from streamflow_nats import client

    client.check_client()


def test_another_inside_of_nats_py_is_refused(monkeypatch):
    from streamflow_nats import client

    monkeypatch.setattr(client.DirectClient.__base__, "_send_command", lambda self, cmd: None)
    with pytest.raises(SettingsError, match="_send_command"):
        client.check_client()


@pytest.mark.parametrize(
    ("pattern", "subject", "is_covered"),
    [
        ("a", "a", True),
        ("a", "b", False),
        ("a.*", "a.b", True),
        ("a.*", "a", False),
        ("a.*", "a.b.c", False),
        ("a.>", "a.b.c", True),
        ("a.>", "a", False),
        (">", "a", True),
        ("*.b", "a.b", True),
        ("a.*", "a.>", False),
        ("a.>", "a.*", True),
        ("a.>", "a.b.>", True),
        ("*", ">", False),
        ("a.b", "a.*", False),
    ],
)
def test_covers(pattern, subject, is_covered):
    assert covers(pattern, subject) is is_covered
    if is_covered:
        assert overlap(pattern, subject)
        assert overlap(subject, pattern)


def test_overlap_and_literals():
    assert overlap("a.*", "*.b")
    assert overlap("a.>", "*.b.c")
    assert not overlap("a.*", "b.>")
    assert not overlap("a", "a.b")
    assert is_literal("a.b")
    assert not is_literal("a.*")
    assert not is_literal("a b")
    check_pattern("a.*.>")


def test_names_become_tokens():
    assert as_tokens("sf.my flow.1.a*>") == "sf.my%20flow.1.a%2A%3E"
    assert as_tokens("sf..x") == "sf.%00.x"
    assert is_literal(as_tokens("sf.f\r\n.x y.>"))
    assert consumer_name("sf", "my.flow", "a b") == "sf-my_2e_flow-a_20_b"
    assert consumer_name("a-b", "c") == "a-b-c"


def encoder(options: SinkOptions | None = None, pattern: str = "") -> FrameEncoder:
    return FrameEncoder(codec_for(str), options or SinkOptions(), pattern, "sink")


def test_frames_hold_subject_headers_and_payload():
    plain = encoder().encode(fragment(["a", ""]))
    assert [tuple(unpack(frame)) for frame in plain] == [(b"", b"", b"a"), (b"", b"", b"")]
    assert all(plain), "an empty frame stands for a record that was given up"
    options = SinkOptions(headers=lambda v: {"h": v}, subject=lambda v: f"s.{v}")
    (frame,) = encoder(options, "s.>").encode(fragment(["a"], ["key"]))
    assert unpack(frame) == (b"s.a", b"sf-key: key\r\nh: a\r\n", b"a")


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("ann", b"ann"),
        ("ann b", b"ann b"),
        (" a", b'" a"'),
        ("ä", '"ä"'.encode()),
        ("a\r\nb: c", b'"a\\r\\nb: c"'),
        ("", b'""'),
        (7, b"7"),
        (("a", 1), b'["a",1]'),
    ],
)
def test_keys_are_one_line(key, text):
    (frame,) = encoder().encode(fragment(["v"], [key]))
    assert unpack(frame).headers == b"sf-key: " + text + b"\r\n"


@pytest.mark.parametrize(
    "headers",
    [
        {"a": "b\r\nc: d"},
        {"a": "b\nc"},
        {"a\r\n": "b"},
        {"a b": "c"},
        {"": "c"},
        {"Nats-Msg-Id": "1"},
        {"nats-expected-last-sequence": "0"},
        {"sf-seq": "1"},
        {"a": 1},
        {"a": "x" * 40_000},
    ],
    ids=str,
)
def test_headers_cannot_smuggle(headers):
    with pytest.raises(EncodeError) as caught:
        encoder(SinkOptions(headers=lambda value: headers)).encode(fragment(["v"]))
    assert caught.value.hint


@pytest.mark.parametrize("subject", [*BAD_SUBJECTS, "", "*", "s.>", None, "elsewhere"])
def test_subjects_of_records_are_checked(subject):
    with pytest.raises(EncodeError) as caught:
        encoder(SinkOptions(subject=lambda value: subject), "s.>").encode(fragment(["v"]))
    assert caught.value.hint


def test_an_encode_error_names_type_and_codec():
    with pytest.raises(EncodeError, match="a value of type int cannot be written by codec str") as caught:
        encoder().encode(fragment(["a", 5]))
    assert caught.value.step == "sink"


def test_auth_settings_hold_paths_only():
    assert repr(NKey("seed.nk")) == "NKey(seed_file='seed.nk')"
    assert repr(Creds("user.creds")) == "Creds(file='user.creds')"
