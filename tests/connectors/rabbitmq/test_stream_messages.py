"""What stands in streams: AMQP 1.0 messages, batches, damaged chunks; and which partition a key belongs to."""

from __future__ import annotations

import gzip
import struct
import zlib
from types import SimpleNamespace
from typing import Any

import cramjam
import pytest
from rstream import AMQPMessage, Properties

from streamflow.errors import ConnectorError
from streamflow_rabbitmq import Limits
from streamflow_rabbitmq.streams import chunks
from streamflow_rabbitmq.streams.chunks import read_chunk, take_apart
from streamflow_rabbitmq.streams.message import read_message, write_message
from streamflow_rabbitmq.streams.routing import key_hash
from streamflow_rabbitmq.streams.subscription import Subscription


def delivered(entries: bytes, count: int, records: int, offset: int = 0, **changed: int) -> bytes:
    """A frame that delivers a chunk."""
    given = {"magic": 0x50, "kind": 0, "crc": zlib.crc32(entries), "size": len(entries), **changed}
    header = struct.pack(
        ">HHBBBHIqQQIIII",
        *(8, 1, 1, given["magic"], given["kind"], count, records, 1000, 1, offset, given["crc"], given["size"], 0, 0),
    )
    return header + entries


def entry(message: bytes) -> bytes:
    return struct.pack(">I", len(message)) + message


def batch(compression: int, messages: list[bytes], packed: bytes, size: int | None = None) -> bytes:
    plain = b"".join(map(entry, messages))
    head = struct.pack(
        ">BHII", 0x80 | compression << 4, len(messages), len(plain) if size is None else size, len(packed)
    )
    return head + packed


@pytest.mark.parametrize("size", [0, 1, 255, 256, 70_000])
@pytest.mark.parametrize("key", [None, b"ann", "ä".encode() * 200])
@pytest.mark.parametrize("headers", [None, {"a": "1", "ü": "x" * 300}])
def test_what_is_written_is_read_by_others_and_by_us(size: int, key: bytes | None, headers: Any) -> None:
    from rstream import amqp_decoder

    payload = bytes(range(256)) * (size // 256) + bytes(range(size % 256))
    message = write_message(payload, key, headers)
    assert read_message(message) == (payload, headers, key)
    theirs: Any = amqp_decoder(message)
    assert bytes(theirs.body if isinstance(theirs.body, bytes) else b"".join(theirs.body)) == payload
    if key is not None:
        assert theirs.properties.group_id == key
    if headers:
        assert {name.decode(): value.decode() for name, value in theirs.application_properties.items()} == headers


def test_what_others_write_is_read() -> None:
    properties = Properties(message_id="m1", subject="s", group_id="ann", creation_time=1_700_000_000)
    message = AMQPMessage(
        body=b"payload",
        properties=properties,
        application_properties={"text": "x", "number": 7, "yes": True, "real": 1.5, "nothing": None},
        message_annotations={"x-routing-key": "a.b"},
    )
    found = read_message(bytes(message))
    assert (found.payload, found.key) == (b"payload", b"ann")
    assert found.headers == {"text": "x", "number": "7", "yes": "true", "real": "1.5", "nothing": ""}
    assert read_message(b"\x00Sw\xa1\x03abc").payload == b"abc"  # a body that is a text
    assert read_message(b"\x00Su\xa0\x01a\x00Su\xa0\x01b").payload == b"ab"  # a body in two sections


PACKERS: list[Any] = [
    bytes,
    gzip.compress,
    cramjam.snappy.compress,
    cramjam.lz4.compress,
    cramjam.zstd.compress,
]
NO_MESSAGES = [
    b"",
    b"{}",
    b"\x00",
    b"\x00Su",
    b"\x00Su\xa0\x05abc",
    b"\x00Sw\x40",
    b"\x00Sw\xc1\x01\x00",
    b"\x00St\xc1\x03\x04\xc1",
    b"\x00Ss\xc0\x09\x03" + b"\xc0\x09" * 50,
    b"\x00Su\xa0\x01ab",
    b"\x00St\x05\x00Su\xa0\x02hi",
    b"\x00St\xc0\x01\x00\x00Su\xa0\x02hi",
    b"\x00St\xc1\x06\x02\xc0\x01\x00\xa1\x00\x00Su\xa0\x02hi",
]


@pytest.mark.parametrize("raw", NO_MESSAGES)
def test_what_is_no_such_message_comes_as_it_is(raw: bytes) -> None:
    assert read_message(raw) == (raw, None, None)


@pytest.mark.parametrize("compression", range(5))
def test_batches_are_taken_apart(compression: int) -> None:
    messages = [write_message(b"%d" % n, None, None) for n in range(100)]
    plain = b"".join(map(entry, messages))
    pack = PACKERS[compression]
    entries = entry(messages[0]) + batch(compression, messages, bytes(pack(plain))) + entry(messages[1])
    chunk = read_chunk(delivered(entries, 3, 102, offset=40))
    assert take_apart(chunk, 0).payloads == [b"0", *(b"%d" % n for n in range(100)), b"1"]
    later = take_apart(chunk, 140)
    assert (later.offset, later.payloads) == (140, [b"99", b"1"])
    assert chunk.end == 142


@pytest.mark.parametrize("compression", [1, 2, 3, 4])
def test_a_batch_never_becomes_more_than_it_says(compression: int) -> None:
    plain = b"\0" * 50_000_000
    pack = PACKERS[compression]
    packed = bytes(pack(plain))
    assert len(packed) < 5_000_000
    for size in (1000, 1 << 31):
        frame = delivered(batch(compression, [b"x"], packed, size), 1, 1)
        with pytest.raises(ConnectorError, match=r"unpack") as caught:
            take_apart(read_chunk(frame), 0)
        assert caught.value.hint


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "cramjam", None)
    packed = bytes(cramjam.zstd.compress(entry(b"x")))
    with pytest.raises(ConnectorError, match="cramjam") as caught:
        take_apart(read_chunk(delivered(batch(4, [b"x"], packed), 1, 1)), 0)
    assert "pip install" in caught.value.hint


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        (delivered(entry(b"x"), 1, 1, crc=1), "damaged"),
        (delivered(entry(b"x"), 1, 1, size=99), "damaged"),
        (delivered(entry(b"x"), 1, 1, magic=0x51), "format"),
        (delivered(entry(b"x"), 1, 1, kind=1), "format"),
        (b"\x00\x08\x00\x01\x01", "cut off"),
        (delivered(entry(b"x"), 2, 2), "contradict"),
        (delivered(entry(b"x") + b"rest", 1, 1), "contradict"),
        (delivered(entry(b"x"), 1, 2), "contradict"),
        (delivered(batch(0, [b"x"], entry(b"x"), 3), 1, 1), "does not"),
        (delivered(batch(0, [b"x", b"y"], entry(b"x"), 5), 1, 2), "contradict"),
        (delivered(batch(7, [b"x"], entry(b"x")), 1, 1), "unknown compression"),
    ],
)
def test_a_damaged_chunk_is_refused(frame: bytes, said: str) -> None:
    with pytest.raises(ConnectorError, match=said) as caught:
        take_apart(read_chunk(frame), 0)
    assert caught.value.hint


def test_a_chunk_that_cannot_be_taken_apart_stays_the_next_one() -> None:
    link: Any = SimpleNamespace(send_now=lambda data: None)
    subscription = Subscription(link, "s", Limits(), lambda: None)
    subscription._number = 1
    for offset, broken in ((0, False), (1, True), (2, False)):
        content = b"short" if broken else entry(b"%d" % offset)
        subscription._on_chunk(delivered(content, 1, 1, offset))
    assert subscription.take()[1].payloads == [b"0"]
    for _ in range(2):
        with pytest.raises(ConnectorError, match="chunk 1 contradict"):
            subscription.take()


def test_limits_have_names() -> None:
    assert chunks.UNPACKED_BYTES_MAX == 64 * 1024 * 1024


def test_keys_go_where_other_clients_send_them() -> None:
    """With three partitions, as the tests of the clients for Java, Go and .NET say."""
    known = {"hello1": 1, "hello2": 0, "hello3": 1, "hello4": 2, "hello5": 0, "hello6": 2, "hello7": 0, "hello8": 1}
    known |= {"hello9": 0, "hello10": 2, "hello88": 1}
    assert {key: key_hash(key.encode()) % 3 for key in known} == known
