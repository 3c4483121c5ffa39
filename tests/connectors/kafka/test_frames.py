"""Frames of the Kafka sink: what a row becomes, and what is refused before it gets into an outbox."""

from __future__ import annotations

import enum
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamflow.batch import Fragment, MicroBatch
from streamflow.codecs import codec_for
from streamflow.connect.contracts import SinkOptions
from streamflow.errors import EncodeError
from streamflow_kafka.frames import Frame, FrameEncoder, key_bytes, unpack

UUID = uuid.UUID("6f1c8e0c-9d4f-4c39-8a5b-0123456789ab")


class Colour(enum.Enum):
    RED = "red"


def encoded(values: list[Any], *, keys: list[Any] | None = None, nulls: bool = False, **options: Any) -> list[Frame]:
    encoder = FrameEncoder(codec_for(str), SinkOptions(**options), "out", nulls=nulls)
    return [unpack(frame) for frame in encoder.encode(Fragment(MicroBatch(1, 0), values, True, keys))]


def refused(value: Any, **options: Any) -> str:
    with pytest.raises(EncodeError) as caught:
        encoded([value], **options)
    assert caught.value.hint
    return caught.value.message


@given(
    value=st.none() | st.text(),
    key=st.none() | st.text() | st.binary() | st.integers(),
    partition=st.none() | st.integers(0, 2**31 - 1),
    headers=st.dictionaries(st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1), st.text()),
)
def test_what_goes_in_comes_out(value: Any, key: Any, partition: int | None, headers: dict[str, str]):
    headers = {name: text for name, text in headers.items() if not name.lower().startswith("sf-")}
    options: dict[str, Any] = {"key": lambda record: key, "headers": lambda record: headers}
    if partition is not None:
        options["partition"] = lambda record: partition
    (frame,) = encoded([value], nulls=True, **options)
    assert frame.value == (None if value is None else value.encode())
    assert frame.key == (None if key is None else key_bytes(key))
    assert frame.partition == partition
    assert dict(frame.headers) == {name: text.encode() for name, text in headers.items()}


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("ännchen", "ännchen".encode()),
        (b"\x00\xff", b"\x00\xff"),
        (42, b"42"),
        (-1, b"-1"),
        (UUID, str(UUID).encode()),
        (Colour.RED, b'"red"'),
        (("a", 1), b'["a",1]'),
        (1.5, b"1.5"),
    ],
)
def test_keys_are_written_as_other_producers_do(key: Any, expected: bytes):
    assert key_bytes(key) == expected


def test_the_default_key_is_the_streams():
    assert [frame.key for frame in encoded(["x", "y"], keys=["a", None])] == [b"a", None]
    assert encoded(["x"], keys=["a"], key=lambda record: "b")[0].key == b"b"


def test_none_is_a_tombstone_only_if_asked_for():
    assert encoded([None], keys=["k"], nulls=True) == [Frame(b"k", None)]
    assert encoded([""], nulls=True) == [Frame(None, b"")]
    assert "NoneType" in refused(None)


@pytest.mark.parametrize("partition", [-1, 2**31, "1", None, True])
def test_no_partition(partition: Any):
    assert "is no partition" in refused("x", partition=lambda record: partition)


def test_a_partition_that_the_topic_has_not():
    encoder = FrameEncoder(codec_for(str), SinkOptions(partition=lambda record: 3), "out")
    encoder.partitions = 3
    with pytest.raises(EncodeError, match="there is no partition 3: the topic has 3"):
        encoder.encode(Fragment(MicroBatch(1, 0), ["x"], True))


@pytest.mark.parametrize(
    ("name", "value"), [("", "x"), ("a b", "x"), ("sf-seq", "x"), ("SF-x", "x"), ("a", 1), (1, "x")]
)
def test_no_header(name: Any, value: Any):
    assert "header" in refused("x", headers=lambda record: {name: value})


def test_a_key_that_has_no_bytes():
    assert "cannot be written" in refused("x", key=lambda record: object())


@pytest.mark.parametrize("cut", [2, 4, 6, 12])
def test_a_frame_that_is_cut_off(cut: int):
    encoder = FrameEncoder(
        codec_for(str), SinkOptions(key=lambda r: "key", headers=lambda r: {"h": "1"}, partition=lambda r: 1), "out"
    )
    frame = encoder.encode(Fragment(MicroBatch(1, 0), ["value"], True))[0]
    assert unpack(frame).value == b"value"
    with pytest.raises(ValueError, match="frame of"):
        unpack(frame[:cut])
