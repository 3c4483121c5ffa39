"""Frames of a stream sink: the message as it is published; for a super stream behind the choice of a partition.

A plain frame is a whole AMQP 1.0 message. A frame for a super stream starts with one byte that says how the partition
is chosen (no key, hash of the key, given by number) and four bytes for hash or number, big end first. An empty frame
stands for a record that was given up (dead letter): its number is used, and nothing is published.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from streamflow.batch import Headers
from streamflow.codecs import Codec
from streamflow.connect.contracts import SinkOptions
from streamflow.connect.row_frames import RowFrames
from streamflow_rabbitmq.streams.message import DATA_LARGE, DATA_SMALL, write_message
from streamflow_rabbitmq.streams.routing import key_hash

ROUTE: Final = struct.Struct(">BI")
NO_KEY, HASHED, NUMBERED = 0, 1, 2
KEY_BYTES_MAX: Final = 1024
HEADERS_BYTES_MAX: Final = 65_536
PARTITIONS_MAX: Final = 1 << 31
_NO_ROUTE: Final = ROUTE.pack(NO_KEY, 0)
_dumps = msgspec.json.Encoder().encode


def plain_encoder(codec: Codec[Any]) -> Callable[[Any], bytes]:
    """A function from value to frame for values without key and headers."""
    encode, small, large = codec.encode, DATA_SMALL, DATA_LARGE

    def frame(value: Any) -> bytes:
        payload = encode(value)
        size = len(payload)
        if size < 256:
            return b"%b%c%b" % (small, size, payload)
        return b"%b%b%b" % (large, size.to_bytes(4), payload)

    return frame


class FrameEncoder(RowFrames):
    """Frames that are whole messages, for a super stream behind the choice of a partition.

    Args:
        codec: Encodes values.
        options: Key, headers and partition, as `to` was given them.
        partitioned: Whether frames choose a partition.
        sink: Name for errors.
    """

    room = "Raise stream.frame_max on the server, or emit smaller values."

    def __init__(self, codec: Codec[Any], options: SinkOptions, *, partitioned: bool, sink: str) -> None:
        super().__init__(codec, options, sink)
        self._partitioned = partitioned

    def plain(self) -> Callable[[Any], bytes] | None:
        return None if self._partitioned else plain_encoder(self.codec)

    def frame(self, value: Any, key: Any, headers: Headers | None) -> bytes:
        text = None if key is None else self._key_text(key)
        checked = None if headers is None else self._headers(headers)
        message = write_message(self.codec.encode(value), text, checked)
        return self._route(value, text) + message if self._partitioned else message

    def _route(self, value: Any, key: bytes | None) -> bytes:
        if self.options.partition is not None:
            number = self.options.partition(value)
            if not isinstance(number, int) or not 0 <= number < PARTITIONS_MAX:
                raise self.refused(f"{number!r} is no number of a partition", "Let partition= return 0, 1, 2 ...")
            return ROUTE.pack(NUMBERED, number)
        return _NO_ROUTE if key is None else ROUTE.pack(HASHED, key_hash(key))

    def _key_text(self, key: Any) -> bytes:
        """A key as text: text as it is, numbers, dates and the like as JSON writes them, without quotes."""
        if isinstance(key, bytes):
            key.decode()  # refused where it is no text
            text = key
        elif isinstance(key, str):
            text = key.encode()
        else:
            text = _dumps(key)
            if text.startswith(b'"'):
                text = msgspec.json.decode(text, type=str).encode()
        if len(text) > KEY_BYTES_MAX:
            raise self.refused(f"a key has {len(text)} bytes", f"Keep below {KEY_BYTES_MAX}.")
        return text

    def _headers(self, headers: Mapping[str, str]) -> Mapping[str, str]:
        for name, value in headers.items():
            if not isinstance(name, str) or not isinstance(value, str):
                raise self.refused(f"header {name!r} is no text", "Encode the value, as JSON for example.")
        if sum(len(name) + len(value) for name, value in headers.items()) > HEADERS_BYTES_MAX:
            raise self.refused("the headers are too large", f"Keep below {HEADERS_BYTES_MAX} bytes.")
        return headers
